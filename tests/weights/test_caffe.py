"""Reading `.caffemodel` files: names, shapes, packing and errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers.weight_files import blob, caffemodel, field, layer, randomize
from p3d.errors import UserError
from p3d.model.network import create_model
from p3d.preprocessing import AUTHORS, AUTHORS_FLOW
from p3d.weights.caffe import _net_message, our_layer, read_caffemodel
from p3d.weights.describe import describe_file
from p3d.weights.loading import load_model

pytestmark = pytest.mark.usefixtures("few_channels_in_module")


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("conv1", "stem.conv"),
        ("bn_conv1", "stem.bn"),
        ("res2a_branch1", "res2.0.shortcut.conv"),
        ("bn2c_branch2b_t", "res2.2.temporal.bn"),
        ("res3b7_branch2b", "res3.7.spatial.conv"),
        ("res3d_branch2a", "res3.3.reduce.conv"),
        ("res4b35_branch2c", "res4.35.expand.conv"),
        ("res5b_branch2b", "res5.1.spatial.conv"),
        ("res6a_branch1", None),
        ("pool5", None),
    ],
)
def test_layers_get_our_names(name: str, ours: str | None) -> None:
    assert our_layer(name) == ours


@pytest.fixture(scope="module")
def flow_state() -> dict[str, Tensor]:
    return randomize(create_model("p3d63", num_classes=4, modality="flow").state_dict())


@pytest.mark.parametrize(("letters", "legacy"), [(True, False), (False, True)])
def test_reads_both_namings_and_both_shapes(
    flow_state: dict[str, Tensor], tmp_path: Path, letters: bool, legacy: bool
) -> None:
    path = tmp_path / "flow.caffemodel"
    path.write_bytes(caffemodel(flow_state, letters=letters, legacy=legacy, head="score"))
    model = load_model(path)
    assert (model.config.name, model.config.modality) == ("p3d63", "flow")
    assert (model.config.wiring, model.preprocessing) == ("author", AUTHORS_FLOW)
    for key, value in model.state_dict().items():
        assert torch.equal(value, flow_state[key].to(value.dtype)), key


def test_rgb_files_get_the_authors_preprocessing(tmp_path: Path) -> None:
    state = randomize(create_model("p3d63", num_classes=2).state_dict())
    (tmp_path / "rgb.caffemodel").write_bytes(caffemodel(state))
    assert describe_file(tmp_path / "rgb.caffemodel").preprocessing == AUTHORS


def test_values_can_be_split_or_doubles(tmp_path: Path) -> None:
    values = torch.randn(3, 4)
    data = values.numpy().astype("<f4").tobytes()
    shape = field(7, field(1, bytes([3, 4])))
    runs = shape + field(5, data[:20]) + field(5, data[20:])
    doubles = field(7, field(1, bytes([3]))) + field(
        8, values[:, 0].numpy().astype("<f8").tobytes()
    )
    (tmp_path / "x").write_bytes(layer("fc", "InnerProduct", [runs, doubles]))
    state = read_caffemodel(tmp_path / "x")
    assert torch.equal(state["fc.weight"], values)
    assert torch.equal(state["fc.bias"], values[:, 0])


ONE = blob(torch.ones(2, 3, 1, 1, 1))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (layer("inception_3a", "Convolution", [ONE]), "layer inception_3a .* another network"),
        (layer("conv1", "Convolution", [ONE, ONE]), "layer conv1 has 2 blobs"),
        (layer("bn_conv1", "BN", [ONE] * 3), "layer bn_conv1 has 3 blobs; a P3D's has 4"),
        (layer("fc", "InnerProduct", [ONE]), "layer fc has 1 blobs"),
        (layer("conv1", "Convolution", [ONE]) * 2, "a second time"),
        (layer("conv1", "Convolution", [field(7, field(1, b"\x02"))]), "0 packed values"),
        (field(1, b"some network"), "has no layers"),
        (layer("conv1", "Convolution", [ONE])[:-4], "nor a complete .caffemodel"),
    ],
)
def test_rejects_other_files(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x.caffemodel"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_rejects_an_incomplete_network(flow_state: dict[str, Tensor], tmp_path: Path) -> None:
    state = dict(flow_state)
    del state["res3.2.expand.conv.weight"]
    (tmp_path / "x.caffemodel").write_bytes(caffemodel(state))
    with pytest.raises(UserError, match=r"1 missing \(res3\.2\.expand\.conv\.weight\)"):
        load_model(tmp_path / "x.caffemodel")


def test_names_the_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.caffemodel"
    path.write_bytes(layer("conv1", "Convolution", [ONE]))
    _net_message.cache_clear()
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    with pytest.raises(UserError, match=r"x\.caffemodel: .* run: pip install 'p3d\[caffe\]'"):
        load_model(path)


def test_protobuf_is_imported_only_for_a_caffemodel() -> None:
    code = "import sys, p3d.weights.loading; sys.exit('google.protobuf' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
