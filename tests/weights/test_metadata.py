"""Metadata in weight files: every entry is checked before it is used."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from p3d.data.digests import DIGEST_BYTES
from p3d.errors import UserError
from p3d.model.config import P3DConfig
from p3d.model.network import create_model
from p3d.preprocessing import AUTHORS, AUTHORS_FLOW, Preprocessing
from p3d.weights import metadata as metadata_module
from p3d.weights.calibration import read_calibration
from p3d.weights.entries import (
    MAX_TRAINED_ON,
    check_class_names,
    read_metadata,
    read_rates,
    read_recipe,
    read_trained_on,
)
from p3d.weights.loading import load_model
from p3d.weights.metadata import metadata_of, model_from, save_model, skeleton

pytestmark = pytest.mark.usefixtures("few_channels_in_module")


@pytest.fixture(scope="module")
def metadata() -> dict[str, str]:
    model = create_model("p3d63", num_classes=2)
    return metadata_of(model, class_names=["up", "down"], recipe={"epochs": 3})


def test_whole_metadata_is_read(metadata: dict[str, str]) -> None:
    expected = (P3DConfig("p3d63", 2), Preprocessing(), ("up", "down"))
    assert read_metadata(metadata) == expected
    assert read_recipe(metadata) == {"epochs": 3}


SKELETON = skeleton(P3DConfig("p3d63", 2))


@settings(max_examples=50, deadline=None)
@given(digests=st.frozensets(st.binary(min_size=DIGEST_BYTES, max_size=DIGEST_BYTES), max_size=9))
def test_digests_of_training_videos_are_read_as_they_were_written(
    digests: frozenset[bytes],
) -> None:
    SKELETON.trained_on = digests
    metadata = metadata_of(SKELETON)
    assert ("trained_on" in metadata) == bool(digests)
    assert read_trained_on(metadata) == digests


def test_a_header_has_room_for_the_most_digests() -> None:
    """p3d reads headers of up to 2**24 bytes."""
    assert len(base64.b64encode(bytes(MAX_TRAINED_ON * DIGEST_BYTES))) < 2**24 - 10**6


def test_more_digests_than_the_most_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata_module, "MAX_TRAINED_ON", 5)
    model = skeleton(P3DConfig("p3d63", 2))
    digests = [number.to_bytes(DIGEST_BYTES, "big") for number in range(8)]
    model.trained_on = frozenset(digests)
    assert read_trained_on(metadata_of(model)) == frozenset(digests[:5])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("AAAA", "3 bytes"),
        ("A", "base64"),
        ("AAAAAA=", "padding"),
        ("AAAA\n\nAAA=", "base64"),
        ("ÄÄÄÄ", "ASCII"),
        ("\udcff", "ASCII"),
        ("A" * 7 * MAX_TRAINED_ON, "more than 2000000"),
    ],
)
def test_invalid_digests_are_refused_in_one_line(
    text: str, reason: str, metadata: dict[str, str]
) -> None:
    changed = metadata | {"trained_on": text}
    with pytest.raises(UserError, match=f"its list of training videos is damaged .*{reason}"):
        read_trained_on(changed)
    with pytest.raises(UserError, match="is damaged"):
        model_from({}, changed)


DEEP = "[" * 100_000


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(max_size=9), st.floats(0, exclude_min=True, allow_infinity=False)))
def test_a_calibration_is_read_as_it_was_written(values: dict[str, float]) -> None:
    model = skeleton(P3DConfig("p3d63", 2))
    model.calibration = values
    metadata = metadata_of(model)
    assert ("calibration" in metadata) == bool(values)
    assert read_calibration(metadata) == values


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "no dictionary"),
        ("3", "no dictionary"),
        ("{", "Expecting"),
        (DEEP, "nested too deep"),
        ('{"temperature": 0}', "'temperature' is 0, not a finite number above 0"),
        ('{"temperature": -1.5}', "is -1.5"),
        ('{"temperature": NaN}', "is nan"),
        ('{"temperature": Infinity}', "is inf"),
        ('{"temperature": 1e999}', "is inf"),
        ('{"temperature": 1' + "0" * 400 + "}", "is 1000000"),
        ('{"temperature": "1"}', "is 1, not"),
        ('{"temperature": true}', "is True"),
        ('{"temperature": null}', "is None"),
        (json.dumps({"a" * 5000: 1.0}), "'aaaaaaaaaaaaaaaaaaaa' is 1.0"),
        (json.dumps({str(number): 1.0 for number in range(101)}), "has 101 values"),
    ],
)
def test_invalid_calibrations_are_refused_in_one_line(
    text: str, reason: str, metadata: dict[str, str]
) -> None:
    changed = metadata | {"calibration": text}
    with pytest.raises(UserError, match=reason) as caught:
        read_calibration(changed)
    assert len(str(caught.value)) < 200
    with pytest.raises(UserError, match="calibration"):
        model_from({}, changed)


ENTRIES: dict[str, tuple[dict[str, Any], str]] = {
    "version": ({"p3d_format": "9" * 999}, r"version is 9{20}, this p3d"),
    "name": ({"name": "p3d" * 100}, "name has 300 characters"),
    "no name": ({"name": None}, "metadata is damaged .KeyError"),
    "text": ({"name": 3}, "something else than text"),
    "tensor": ({"name": torch.ones(2)}, "something else than text"),
    "classes": ({"num_classes": "1" * 90}, "classes, not 1 to 100000"),
    "no classes": ({"num_classes": "0"}, "0 classes, not 1 to 100000"),
    "classes word": ({"num_classes": "two"}, "metadata is damaged"),
    "dropout": ({"dropout": "nan"}, "dropout is nan"),
    "preprocessing": ({"preprocessing": "[]"}, "preprocessing is no dictionary"),
    "no preprocessing": ({"preprocessing": None}, "preprocessing is no dictionary"),
    "deep preprocessing": ({"preprocessing": DEEP}, "preprocessing is nested too deep"),
    "flow": ({"modality": "flow"}, "rgb input for a flow network"),
    "names": ({"class_names": '{"a": 1, "b": 2}'}, "class_names is no list"),
    "names text": ({"class_names": '"ab"'}, "class_names is no list"),
    "names numbers": ({"class_names": "[1, 2]"}, "class name 0 is '1'; give text"),
    "names lists": ({"class_names": '["a", ["b"]]'}, "class name 1 is"),
    "names empty": ({"class_names": '["a", ""]'}, "class name 1 is ''"),
    "names long": ({"class_names": json.dumps(["a", "b" * 1001])}, "class name 1 is 'bbbb"),
    "names count": ({"class_names": '["a"]'}, "1 class names were given for 2"),
    "names deep": ({"class_names": DEEP}, "class_names is nested too deep"),
}


@pytest.mark.parametrize("kind", ENTRIES)
def test_refuses_invalid_entries(metadata: dict[str, str], kind: str) -> None:
    changes, message = ENTRIES[kind]
    changed = {k: v for k, v in (metadata | changes).items() if v is not None}
    with pytest.raises(UserError, match=message) as caught:
        read_metadata(changed)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


FIELDS: list[tuple[str, Any, str]] = [
    ("channels", "xyz", "no channels are called 'xyz'; choose one of: rgb, bgr, flow"),
    ("channels", [], "no channels are called"),
    ("channels", "flow", "flow input has 2 channels, but mean has 3"),
    ("mean", [1, 2], "rgb input has 3 channels, but mean has 2"),
    ("mean", 3, "mean is 3"),
    ("mean", [1, 2, "3"], "mean is"),
    ("mean", [1, 2, None], "mean is"),
    ("mean", [1, 2, True], "mean is"),
    ("mean", [1, 2, float("nan")], "mean is"),
    ("std", [1, 2, float("inf")], "std is"),
    ("std", [1, 2, 1e300], "std is"),
    ("std", [1, 2, 0], "give deviations greater than 0"),
    ("std", [1] * 10_000, "std has 10000"),
    ("num_frames", 0, "num_frames is 0; give integers from 1 to 10000"),
    ("num_frames", 10**9, "num_frames is 1000000000; give"),
    ("num_frames", 16.0, "num_frames is 16.0"),
    ("frame_stride", True, "frame_stride is True"),
    ("frame_stride", "1", "frame_stride is 1; give integers"),
    ("crop", None, "crop is None"),
    ("crop", [160], "crop is "),
    ("crop", 170, None),
    ("crop", 183, "does not fit into frames resized to 182x242"),
    ("resize", [182], "resize is .* give height and width, or the short side"),
    ("resize", True, "resize is True; give integers"),
    ("resize", 1e5, "resize is 100000.0; give integers"),
    ("resize", 100, "crop of 160 px does not fit into frames resized to a short side of 100"),
    ("resize", [182, 1e5], "resize is "),
    ("resize", {"a": 1, "b": 2}, "resize is "),
    ("flow_short_side", -1, "flow_short_side is -1"),
    ("flow_method", "farneback", "no flow_method is called 'farneback'"),
    ("fps", 25, None),
    ("fps", 0, "fps is 0; give a number above 0, at most 500, or None"),
    ("fps", float("nan"), "fps is nan"),
    ("fps", True, "fps is True"),
    ("fps", "25", "fps is 25; give a number"),
    ("flow\nside", 3, "unknown entries"),
]


@pytest.mark.parametrize(("name", "value", "message"), FIELDS)
def test_preprocessing_is_type_checked(
    metadata: dict[str, str], name: str, value: Any, message: str | None
) -> None:
    text = json.dumps(Preprocessing().to_dict() | {name: value})
    changed = metadata | {"preprocessing": text}
    if message is None:
        assert getattr(read_metadata(changed)[1], name) == value
        return
    with pytest.raises(UserError, match=message) as caught:
        read_metadata(changed)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_means_may_be_integers() -> None:
    whole = AUTHORS.to_dict() | {"mean": [104, 117, 123], "std": [1, 1, 1]}
    assert Preprocessing.from_dict(whole) == AUTHORS


@pytest.mark.parametrize("recipe", ["[]", '[["a", 1]]', "3", "{", DEEP])
def test_refuses_a_recipe_that_is_no_dictionary(recipe: str) -> None:
    with pytest.raises(UserError, match="its recipe is damaged"):
        read_recipe({"recipe": recipe})


def test_class_names_of_a_user_are_checked_when_they_are_given() -> None:
    with pytest.raises(UserError, match="class name 1 is '2'"):
        check_class_names(["a", 2], 2)  # type: ignore[list-item]


def test_huge_networks_of_small_files_are_not_built(
    metadata: dict[str, str], tmp_path: Path
) -> None:
    huge = metadata | {"num_classes": "100000", "name": "p3d199", "class_names": "null"}
    save_file({"fc.bias": torch.ones(1)}, tmp_path / "x", huge)
    with pytest.raises(UserError, match=r"missing .* 1 misshapen"):
        load_model(tmp_path / "x")


def test_metadata_of_a_checkpoint_must_be_text(tmp_path: Path) -> None:
    contents = {"format": "p3d-checkpoint", "model": {}, "metadata": {"p3d_format": torch.ones(1)}}
    torch.save(contents, tmp_path / "c.pt")
    with pytest.raises(UserError, match="something else than text"):
        load_model(tmp_path / "c.pt")


def test_network_with_replaced_layers_is_not_saved(tmp_path: Path) -> None:
    model, path = create_model("p3d63", num_classes=3), tmp_path / "m.safetensors"
    model.fc = torch.nn.Linear(256, 2)
    with pytest.raises(UserError, match=r"model\.fc has 2 outputs, but model\.config says 3 class"):
        save_model(model, path)
    model.config = replace(model.config, num_classes=2)
    save_model(model, path, class_names=("a", "b"))
    torch.testing.assert_close(load_model(path).fc.weight, model.fc.weight)
    model.fc = torch.nn.Sequential(torch.nn.Linear(256, 8), torch.nn.Linear(8, 2))
    with pytest.raises(UserError, match=r"layers .* changed \(fc\.weight\).*torch\.save"):
        save_model(model, path)


def test_a_native_rate_and_the_first_flow_are_not_written() -> None:
    assert "fps" not in AUTHORS.to_dict()
    assert Preprocessing.from_dict(AUTHORS.to_dict()).fps is None
    assert "flow_method" not in AUTHORS_FLOW.to_dict()
    by_dis = replace(AUTHORS_FLOW, flow_method="dis")
    assert Preprocessing.from_dict(by_dis.to_dict()) == by_dis
    assert by_dis.describe_flow() == "; flow by dis, short side at most 256"
    timed = Preprocessing(fps=25)
    assert Preprocessing.from_dict(json.loads(json.dumps(timed.to_dict()))) == timed


@pytest.mark.parametrize(
    "text", ["[25]", "[30, 25]", "[0, 25]", "{}", "[1, Infinity]", "[", "[true, 2]"]
)
def test_damaged_rates_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="its frame rates are damaged"):
        read_rates({"rates": text})


def test_rates_are_kept() -> None:
    model = create_model("p3d63", num_classes=2)
    assert read_rates(metadata_of(model)) is None
    model.rates = (12.5, 30.0)
    assert read_rates(metadata_of(model)) == (12.5, 30.0)
