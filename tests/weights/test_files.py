"""Saving and loading our own files, and the error for every kind of bad file."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from helpers.disk import no_file_above
from p3d.errors import UserError
from p3d.model.network import P3D, create_model
from p3d.preprocessing import AUTHORS, Preprocessing
from p3d.weights.describe import describe_file
from p3d.weights.loading import PretrainedWeights, load_model
from p3d.weights.metadata import metadata_of, model_from, save_model
from p3d.weights.reading import CHECKPOINT_FORMAT
from p3d.weights.safetensors_files import checksum

pytestmark = pytest.mark.usefixtures("few_channels_in_module")

NAMES = ("jump", "run", "sit down")


@pytest.fixture(scope="module")
def model() -> P3D:
    torch.manual_seed(1)
    model = create_model("p3d63", num_classes=3, wiring="port", variant="C", dropout=0.9)
    model.preprocessing = Preprocessing(num_frames=8, frame_stride=2, crop=112)
    model.class_names = NAMES
    model.calibration = {"temperature": 1.5}
    return model


@pytest.fixture(scope="module")
def saved(model: P3D, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "m.safetensors"
    save_model(model, path, source="made up", recipe={"epochs": 3})
    return path


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_saves_and_loads_a_model(model: P3D, saved: Path) -> None:
    loaded = load_model(saved)
    assert not loaded.training
    assert (loaded.config, loaded.preprocessing) == (model.config, model.preprocessing)
    assert loaded.class_names == NAMES
    assert same(loaded.state_dict(), model.state_dict())
    strides = {key: value.stride() for key, value in model.state_dict().items()}
    assert {key: value.stride() for key, value in loaded.state_dict().items()} == strides


def test_describes_a_file(model: P3D, saved: Path) -> None:
    file = describe_file(saved)
    assert (file.format, file.config, file.class_names) == ("p3d", model.config, NAMES)
    assert (file.source, file.recipe, file.notes) == ("made up", {"epochs": 3}, ())
    with safe_open(saved, "pt") as raw:
        assert raw.metadata()["wiring"] == "port"


def test_saves_and_loads_a_file_whose_name_is_not_utf8(model: P3D, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.safetensors")
    try:
        path.touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    save_model(model, path)
    assert same(load_model(path).state_dict(), model.state_dict())


def test_one_damaged_bit_is_found_by_the_checksum(saved: Path, tmp_path: Path) -> None:
    data = bytearray(saved.read_bytes())
    data[-1000] ^= 1
    (tmp_path / "m.safetensors").write_bytes(data)
    with pytest.raises(UserError, match="do not have the checksum in its header"):
        load_model(tmp_path / "m.safetensors")


def test_the_checksum_covers_names_types_shapes_and_values() -> None:
    states = [
        {"a": torch.zeros(4), "b": torch.zeros(0)},
        {"a": torch.zeros(4), "c": torch.zeros(0)},
        {"a": torch.zeros(2, 2), "b": torch.zeros(0)},
        {"a": torch.zeros(4, dtype=torch.int32), "b": torch.zeros(0)},
        {"a": torch.ones(4), "b": torch.zeros(0)},
    ]
    assert len({checksum(state) for state in states}) == len(states)
    turned = dict(reversed(states[0].items()))
    assert checksum(turned) == checksum(states[0])
    assert checksum({"a": torch.ones(2, 3).t(), "b": torch.tensor(1.5).bfloat16()})
    assert checksum({"a": torch.zeros(1)}) == (
        "blake2b:ba7a4934a4a1c145b6b5507db36791cc87a04c471c5c56e4a90243841091e492"
    )


def test_a_file_without_checksum_is_read(saved: Path, model: P3D, tmp_path: Path) -> None:
    with safe_open(saved, "pt") as raw:
        metadata = raw.metadata()
    assert metadata.pop("checksum").startswith("blake2b:")
    tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(tensors, tmp_path / "old.safetensors", metadata)
    assert same(load_model(tmp_path / "old.safetensors").state_dict(), model.state_dict())


def test_metadata_and_tensors_rebuild_the_model(model: P3D) -> None:
    model.trained_on = frozenset({b"01234", b"abcde"})
    rebuilt = model_from(model.state_dict(), metadata_of(model))
    assert rebuilt.trained_on == model.trained_on
    assert rebuilt.calibration == model.calibration
    assert same(rebuilt.state_dict(), model.state_dict())
    assert metadata_of(rebuilt) == metadata_of(model)


def test_a_training_checkpoint_is_a_weight_file(model: P3D, tmp_path: Path) -> None:
    state = {"format": CHECKPOINT_FORMAT, "model": model.state_dict(), "step": 7}
    torch.save(state | {"metadata": metadata_of(model)}, tmp_path / "last.pt")
    loaded = load_model(tmp_path / "last.pt")
    assert describe_file(tmp_path / "last.pt").format == "checkpoint"
    assert (loaded.config, loaded.class_names) == (model.config, NAMES)
    assert same(loaded.state_dict(), model.state_dict())


def test_a_bare_state_dict_gets_the_defaults(model: P3D, tmp_path: Path) -> None:
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "bare.safetensors"
    )
    file = describe_file(tmp_path / "bare.safetensors")
    assert (file.config.wiring, file.config.variant) == ("author", "ABC")
    assert "bare p3d state dict" in file.notes[0]


def test_overrides_apply_and_are_logged(saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    loaded = load_model(
        saved, wiring="author", num_classes=5, class_names=list("abcde"), preprocessing="authors"
    )
    assert (loaded.config.wiring, loaded.config.num_classes) == ("author", 5)
    assert loaded.class_names == tuple("abcde")
    assert loaded.preprocessing == AUTHORS
    assert "wiring is author as requested; the file's is port" in caplog.text
    assert "classifier of 3 classes is replaced" in caplog.text
    other = load_model(saved, num_classes=4)
    assert (other.class_names, other.calibration) == (None, {})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"class_names": ["a"]}, "1 class names were given for 3 classes"),
        ({"modality": "flow"}, "omit the modality"),
        ({"preprocessing": "inception"}, "no preprocessing is called 'inception'"),
        ({"wiring": "caffe"}, "no wiring is called 'caffe'"),
        ({"variant": "2d"}, "13 unexpected|78 unexpected"),
        ({"num_classes": 0}, "num_classes is 0"),
        (
            {"preprocessing": Preprocessing(channels="flow", mean=(1.0, 1.0), std=(1.0, 1.0))},
            "does not fit a rgb network",
        ),
    ],
)
def test_rejects_invalid_overrides(saved: Path, overrides: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_model(saved, **overrides)


# ------------------------------------------------------------------ loading into a model


def test_pretrained_weights_of_other_classes_keep_the_classifier(model: P3D, saved: Path) -> None:
    mine = create_model("p3d63", num_classes=4, wiring="port", variant="C")
    head = mine.fc.weight.detach().clone()
    mine.preprocessing = Preprocessing(num_frames=32)
    notes = PretrainedWeights(saved).load_into(mine)
    assert torch.equal(mine.fc.weight, head)
    assert torch.equal(mine.res4[1].reduce.conv.weight, model.res4[1].reduce.conv.weight)
    assert mine.preprocessing.num_frames == 32
    assert "classifier of 3 classes is skipped" in notes[0]


def test_pretrained_weights_bring_their_normalization(model: P3D, tmp_path: Path) -> None:
    source = model_from(model.state_dict(), metadata_of(model))
    source.preprocessing = AUTHORS
    save_model(source, tmp_path / "m.safetensors")
    mine = create_model("p3d63", num_classes=3, wiring="port", variant="C")
    mine.preprocessing = Preprocessing(crop=112)
    assert PretrainedWeights(tmp_path / "m.safetensors").load_into(mine) == ()
    assert mine.preprocessing == replace(AUTHORS, crop=112)
    assert torch.equal(mine.fc.weight, model.fc.weight)
    assert mine.class_names == NAMES


def test_a_classifier_of_other_class_names_is_skipped(saved: Path) -> None:
    mine = create_model("p3d63", num_classes=3, wiring="port", variant="C")
    mine.class_names = ("run", "jump", "sit down")
    assert "is skipped" in PretrainedWeights(saved).load_into(mine)[0]
    assert mine.class_names == ("run", "jump", "sit down")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"wiring": "author", "variant": "C"},
            "wiring is port, author was asked for; give --wiring port",
        ),
        ({"wiring": "port"}, "variant is C, ABC was asked for; give --variant C"),
        (
            {"modality": "flow", "wiring": "port", "variant": "C"},
            "modality is rgb, flow was asked for; give --modality rgb",
        ),
    ],
)
def test_pretrained_weights_must_be_of_the_same_network(
    saved: Path, options: dict, message: str
) -> None:
    mine = create_model("p3d63", num_classes=3, **options)
    before = {key: value.clone() for key, value in mine.state_dict().items()}
    with pytest.raises(UserError, match=message):
        PretrainedWeights(saved).load_into(mine)
    assert same(before, mine.state_dict())


# ------------------------------------------------------------------ writing


def test_class_names_must_match_the_classes(model: P3D, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 class names were given for 3 classes"):
        save_model(model, tmp_path / "m.safetensors", class_names=["a", "b"])
    assert list(tmp_path.iterdir()) == []


def test_reports_an_unwritable_path(model: P3D, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be written \([A-Z][^\[/]*\); check that"):
        save_model(model, tmp_path / "no" / "such" / "m.safetensors")
    with pytest.raises(UserError, match="is a folder"):
        save_model(model, tmp_path)


def test_a_failed_write_keeps_the_old_file(model: P3D, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"old content")
    with pytest.raises(UserError, match="cannot be written"), no_file_above(1 << 20):
        save_model(model, path)
    assert path.read_bytes() == b"old content"
    assert [file.name for file in tmp_path.iterdir()] == ["m.safetensors"]


# ------------------------------------------------------------------ bad files


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch exploded",)


def _write_bad(kind: str, path: Path, saved: Path) -> None:
    whole = saved.read_bytes()
    tensor = torch.ones(2)
    match kind:
        case "empty":
            path.write_bytes(b"")
        case "folder":
            path.mkdir()
        case "web page":
            path.write_text("\n<!DOCTYPE html><html><body>Quota exceeded</body></html>")
        case "text":
            path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
        case "cut safetensors":
            path.write_bytes(whole[: len(whole) // 2])
        case "cut header":
            path.write_bytes(whole[:200])
        case "cut zip" | "cut pickle":
            state = {"conv1_custom.weight": torch.ones(400, 400)}
            torch.save(state, path, _use_new_zipfile_serialization=kind == "cut zip")
            data = path.read_bytes()
            path.write_bytes(data[: len(data) * 2 // 3])
        case "bomb":
            torch.save({"state_dict": {"conv1_custom.weight": tensor}, "x": Bomb()}, path)
        case "bare bomb":
            path.write_bytes(pickle.dumps(Bomb(), protocol=2))
        case "list":
            torch.save([tensor], path)
        case "other network":
            torch.save({"features.0.weight": tensor}, path)
        case "other safetensors":
            save_file({"features.0.weight": tensor}, path)
        case "no tensors":
            torch.save({"epoch": 3}, path)
        case "checkpoint without model":
            torch.save({"format": CHECKPOINT_FORMAT}, path)
        case "newer":
            save_file({"x": tensor}, path, {"p3d_format": "99"})
        case "broken metadata":
            save_file({"x": tensor}, path, {"p3d_format": "1", "name": "p3d63"})


BAD = {
    "empty": "is empty",
    "missing": "No such file",
    "folder": "is a folder",
    "web page": "web page",
    "text": "neither a PyTorch file, nor safetensors",
    "cut safetensors": "damaged or incomplete",
    "cut header": "damaged or incomplete",
    "cut zip": "damaged or incomplete",
    "cut pickle": "damaged or incomplete",
    "bomb": "Python objects other than tensors",
    "bare bomb": "damaged or incomplete|Python objects other than tensors",
    "list": "contains a list; give a file with a state dict",
    "other network": "features.0.weight",
    "other safetensors": "features.0.weight",
    "no tensors": r"tensors \(none\)",
    "checkpoint without model": "without a network",
    "newer": "upgrade p3d",
    "broken metadata": "metadata is damaged",
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_gives_a_one_line_error(
    kind: str, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pth"
    _write_bad(kind, path, saved)
    with pytest.raises(UserError, match=BAD[kind]) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".xml"])
def test_an_exported_file_is_for_predictors(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"network{suffix}"
    path.write_bytes(b"<?xml" if suffix == ".xml" else b"PK\3\4" + bytes(512))
    with pytest.raises(UserError, match=r"is an exported file; give it to p3d\.Predictor"):
        load_model(path)


def test_the_file_name_does_not_matter(model: P3D, saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.caffemodel"
    path.write_bytes(saved.read_bytes())
    assert describe_file(path).config == model.config
