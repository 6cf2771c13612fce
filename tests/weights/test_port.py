"""Conversion to and from the public port, and what is inferred from its files."""

from __future__ import annotations

import logging
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.weight_files import randomize
from p3d.errors import UserError
from p3d.model.config import P3DConfig
from p3d.model.network import create_model
from p3d.preprocessing import AUTHORS, AUTHORS_FLOW, IMAGENET
from p3d.weights.describe import describe_file
from p3d.weights.evidence import UNIT_FLOW, infer_origin, stem_input_variance
from p3d.weights.loading import convert_state_dict, load_model
from p3d.weights.metadata import skeleton
from p3d.weights.port import to_port

pytestmark = pytest.mark.usefixtures("few_channels_in_module")


@cache
def port_state(modality: str = "rgb") -> dict[str, Tensor]:
    """Return the port's tensors as old PyTorch saved them, without batch counters (read-only)."""
    model = create_model("p3d63", num_classes=5, modality=modality)
    ported = to_port(randomize(model.state_dict()))
    return {key: value for key, value in ported.items() if "num_batches" not in key}


def scaled_stem(state: dict[str, Tensor], factor: float) -> dict[str, Tensor]:
    """Return the same weights as if trained on input with `factor` times the variance."""
    return state | {"bn1.running_var": state["bn1.running_var"] * factor}


def test_a_round_trip_is_exact() -> None:
    state = port_state()
    back = to_port(convert_state_dict(state))
    counters = [key for key in back if key.endswith("num_batches_tracked")]
    assert all(key.removesuffix("num_batches_tracked") + "weight" in state for key in counters)
    for key in counters:
        del back[key]
    assert back.keys() == state.keys()
    for key, value in state.items():
        assert back[key].shape == value.shape
        assert torch.equal(back[key], value)


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("conv1_custom.weight", (8, 3, 1, 7, 7)),
        ("layer1.0.conv1.weight", (8, 8, 1, 1, 1)),
        ("layer2.3.conv2.weight", (16, 16, 1, 3, 3)),
        ("layer3.5.conv3.weight", (32, 32, 3, 1, 1)),
        ("layer3.0.downsample.0.weight", (128, 64, 1, 1, 1)),
        ("layer4.1.conv_normal.weight", (64, 64, 3, 3)),
        ("layer4.0.downsample.0.weight", (256, 128, 1, 1)),
        ("layer4.2.bn_normal.running_var", (64,)),
        ("layer4.2.bn4.weight", (256,)),
        ("fc.weight", (5, 256)),
    ],
)
def test_port_shapes(key: str, shape: tuple[int, ...]) -> None:
    assert tuple(port_state()[key].shape) == shape


def test_reads_every_form_of_a_port_file(tmp_path: Path) -> None:
    state = port_state()
    prefixed = {f"module.{key}": value for key, value in state.items()}
    wrapped = {"state_dict": prefixed, "epoch": 7, "best_prec1": 71.2, "optimizer": {"state": {}}}
    torch.save(state, tmp_path / "bare.pt")
    torch.save(wrapped, tmp_path / "whole.pth.tar")
    torch.save(wrapped, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    models = [load_model(tmp_path / name) for name in ("bare.pt", "whole.pth.tar", "old.pth")]
    first = models[0].state_dict()
    for model in models[1:]:
        assert all(torch.equal(value, first[key]) for key, value in model.state_dict().items())


def test_unit_variance_means_trained_in_the_port(tmp_path: Path) -> None:
    torch.save(port_state(), tmp_path / "own.pth")
    file = describe_file(tmp_path / "own.pth")
    assert (file.format, file.config.name, file.config.num_classes) == ("port", "p3d63", 5)
    assert (file.config.wiring, file.preprocessing) == ("port", IMAGENET)


def test_pixel_variance_means_the_authors_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save({"state_dict": scaled_stem(port_state(), 3600)}, tmp_path / "x.pth.tar")
    with caplog.at_level(logging.WARNING, "p3d.weights"):
        model = load_model(tmp_path / "x.pth.tar")
    assert (model.config.wiring, model.preprocessing) == ("author", AUTHORS)
    assert "author wiring, authors preprocessing" in caplog.text
    overridden = load_model(tmp_path / "x.pth.tar", wiring="port", preprocessing="imagenet")
    assert (overridden.config.wiring, overridden.preprocessing) == ("port", IMAGENET)


def test_flow_has_its_own_threshold(tmp_path: Path) -> None:
    state = port_state(modality="flow")
    torch.save(scaled_stem(state, 0.05), tmp_path / "unit.pth")
    torch.save(scaled_stem(state, 150), tmp_path / "bytes.pth")
    unit, bytes_ = describe_file(tmp_path / "unit.pth"), describe_file(tmp_path / "bytes.pth")
    assert (unit.config.wiring, unit.preprocessing) == ("port", UNIT_FLOW)
    assert (bytes_.config.wiring, bytes_.preprocessing) == ("author", AUTHORS_FLOW)


@pytest.mark.parametrize(
    ("classes", "batches", "wiring"), [(400, 0, "author"), (400, 9, "port"), (101, 0, "port")]
)
def test_released_networks_are_recognized_by_shape(classes: int, batches: int, wiring: str) -> None:
    state = {
        "stem.conv.weight": torch.full((64, 3, 7, 7), 0.1),
        "stem.bn.running_var": torch.ones(64),
        "stem.bn.num_batches_tracked": torch.tensor(batches),
    }
    assert infer_origin(state, P3DConfig("p3d199", classes), port=True)[0] == wiring


def test_estimates_the_variance_of_the_input() -> None:
    torch.manual_seed(0)
    model = create_model("p3d63", num_classes=2)
    model.stem.bn.momentum = 1.0
    with torch.no_grad():
        model.stem(torch.randn(4, 3, 64, 64) * 50, 4)
    assert 0.5 * 2500 < stem_input_variance(model.state_dict()) < 2 * 2500


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer1.0.conv1.weight": None}, r"1 missing \(res2\.0\.reduce\.conv\.weight\)"),
        ({"extra.weight": torch.ones(1)}, r"1 unexpected \(extra\.weight\)"),
        ({"fc.bias": torch.ones(4)}, r"1 misshapen \(fc\.bias \(4,\) for \(5,\)\)"),
        ({"layer3.5.conv1.weight": None, "fc.weight": None}, "no stem or no classifier"),
        ({"layer3.6.conv1.weight": torch.ones(1)}, r"\(3, 4, 7, 3\) blocks, which fits no P3D"),
        ({"layer1.0.conv2.weight": torch.ones(64, 64, 3, 3, 3)}, "neither spatial nor temporal"),
        ({"conv1_custom.weight": torch.ones(64, 1, 1, 7, 7)}, "takes 1 channels"),
    ],
)
def test_errors_name_the_tensors_that_do_not_fit(
    tmp_path: Path, change: dict, message: str
) -> None:
    state = {key: value for key, value in (port_state() | change).items() if value is not None}
    path = tmp_path / "x.pth"
    torch.save(state, path)
    for read in (describe_file, load_model):
        with pytest.raises(UserError, match=message) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


def test_a_skeleton_has_the_shapes_of_the_network() -> None:
    model = create_model("p3d63", num_classes=3).state_dict()
    bare = skeleton(P3DConfig("p3d63", 3)).state_dict()
    assert {k: v.shape for k, v in bare.items()} == {k: v.shape for k, v in model.items()}
    assert all(value.is_meta for value in bare.values())


@pytest.mark.parametrize("module", [b"numpy._core.multiarray", b"numpy.core.multiarray"])
def test_ignores_numpy_scalars(module: bytes, tmp_path: Path) -> None:
    path = tmp_path / "best.pth.tar"
    wrapped = {
        "epoch": np.int64(3),
        "best_prec1": np.float64(71.5),
        "is_best": np.bool_(True),
        "loss": np.float32(0.5),
        "state_dict": port_state(),
    }
    torch.save(wrapped, path, _use_new_zipfile_serialization=False)
    # NumPy 1 and NumPy 2 have different names for this module.
    written = re.sub(rb"numpy\._?core\.multiarray(?=\nscalar\n)", module, path.read_bytes())
    assert module + b"\nscalar\n" in written
    path.write_bytes(written)
    allowed = torch.serialization.get_safe_globals()
    assert torch.equal(load_model(path).fc.weight, port_state()["fc.weight"])
    torch.save(wrapped, path)
    assert torch.equal(load_model(path).fc.weight, port_state()["fc.weight"])
    assert set(torch.serialization.get_safe_globals()) == set(allowed)


class Arbitrary:
    """Neither a tensor, nor a plain value, nor a NumPy scalar."""


@pytest.mark.parametrize("held", [np.zeros(2), Arbitrary()], ids=["array", "object"])
def test_rejects_other_objects_in_one_line(held: object, tmp_path: Path) -> None:
    path = tmp_path / "best.pth.tar"
    torch.save({"state_dict": {"conv1_custom.weight": torch.ones(2)}, "held": held}, path)
    with pytest.raises(UserError, match="Python objects other than tensors") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_logs_an_overridden_wiring(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save({"state_dict": port_state()}, tmp_path / "best.pth.tar")
    assert load_model(tmp_path / "best.pth.tar", wiring="author").config.wiring == "author"
    assert "wiring is author as requested; the file's is port" in caplog.text
