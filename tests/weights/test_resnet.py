"""Inflated 2-D ResNets against the original 2-D networks, in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from helpers.weight_files import image_resnet
from p3d.errors import UserError
from p3d.model.config import P3DConfig
from p3d.model.network import create_model
from p3d.preprocessing import IMAGENET
from p3d.weights.evidence import UNIT_FLOW
from p3d.weights.loading import PretrainedWeights, convert_state_dict, load_model

WIRINGS = ("author", "port")
VARIANTS = ("ABC", "A", "B", "C", "2d")
few_channels = pytest.mark.usefixtures("few_channels")


@few_channels
@pytest.mark.parametrize(
    ("name", "variant", "wiring"),
    [
        *(("p3d63", variant, wiring) for variant in VARIANTS for wiring in WIRINGS),
        ("p3d131", "ABC", "port"),
        ("p3d199", "ABC", "author"),
    ],
)
def test_a_repeated_frame_gives_the_2d_networks_features(
    name: str, variant: str, wiring: str
) -> None:
    image_net = image_resnet(name, caffe_pool=wiring == "author").double()
    model = create_model(name, num_classes=10, wiring=wiring, variant=variant).double().eval()
    inflated = convert_state_dict(image_net.state_dict(), wiring=wiring, variant=variant)
    model.load_state_dict(inflated)
    images = torch.randn(1, 3, 37, 34, dtype=torch.float64)
    clips = images.unsqueeze(2).expand(-1, -1, 3, -1, -1)
    with torch.no_grad():
        theirs = image_net.features(images)
        torch.testing.assert_close(model.features(clips), theirs, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(model(clips), image_net(images), rtol=1e-10, atol=1e-10)


@few_channels
@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen-bn", "trained-bn"])
def test_every_temporal_kernel_learns(wiring: str, frozen: bool) -> None:
    torch.manual_seed(0)
    model = create_model("p3d63", num_classes=10, wiring=wiring)
    model.load_state_dict(convert_state_dict(image_resnet("p3d63").state_dict(), wiring=wiring))
    model.train(not frozen)
    model(torch.randn(2, 3, 16, 64, 64)).square().sum().backward()
    temporal = {k: p.grad for k, p in model.named_parameters() if "temporal.conv" in k}
    spatial = {k: p.grad for k, p in model.named_parameters() if "spatial.conv" in k}
    assert len(temporal) == 13
    for key, grad in temporal.items():
        twin = spatial[key.replace("temporal", "spatial")].norm()
        assert 0.01 * twin < grad.norm() < 100 * twin, key


def test_a_zero_branch_grows_slowly_with_trained_norms() -> None:
    torch.manual_seed(0)
    model = create_model("p3d63", num_classes=10, variant="B")
    model.load_state_dict(convert_state_dict(image_resnet("p3d63").state_dict(), variant="B"))
    clips = torch.randn(2, 3, 8, 48, 48)
    optimizer = torch.optim.SGD(
        [p for key, p in model.named_parameters() if "temporal.conv" in key], lr=1e-3
    )
    torch.nn.functional.cross_entropy(model(clips), torch.tensor([0, 1])).backward()
    optimizer.step()
    spread: dict[str, float] = {}
    for name, module in model.named_modules():
        if name.endswith((".temporal.bn", ".spatial.bn")):
            module.register_forward_hook(
                lambda _m, _i, out, name=name: spread.update({name: float(out.detach().std())})
            )
    model(clips)
    for name in [name for name in spread if "temporal" in name]:
        assert 0 < spread[name] < 0.02 * spread[name.replace("temporal", "spatial")]


@few_channels
def test_flow_starts_from_the_mean_over_colors() -> None:
    state = image_resnet("p3d63").state_dict()
    kernel = convert_state_dict(state, modality="flow")["stem.conv.weight"]
    assert kernel.shape == (8, 2, 7, 7)
    mean = state["conv1.weight"].mean(1)
    torch.testing.assert_close(kernel, torch.stack([mean, mean], 1))


def test_loads_with_the_files_classifier_or_a_new_one(tmp_path: Path) -> None:
    state = image_resnet("p3d63").state_dict()
    torch.save(state, tmp_path / "resnet50.pth")
    save_file(state, tmp_path / "resnet50.safetensors")
    kept = load_model(tmp_path / "resnet50.pth")
    fresh = load_model(tmp_path / "resnet50.safetensors", num_classes=4, class_names=list("abcd"))
    assert kept.config == P3DConfig("p3d63", 10, wiring="author")
    assert torch.equal(kept.fc.weight, state["fc.weight"])
    assert fresh.fc.weight.shape == (4, 2048)
    assert float(fresh.fc.bias.detach().abs().max()) == 0
    assert kept.preprocessing == fresh.preprocessing == IMAGENET


@few_channels
def test_loads_a_flow_network(tmp_path: Path) -> None:
    torch.save(image_resnet("p3d63").state_dict(), tmp_path / "r.pth")
    model = load_model(tmp_path / "r.pth", modality="flow", wiring="port", variant="2d")
    assert (model.config.modality, model.config.wiring) == ("flow", "port")
    assert model.config.variant == "2d"
    assert model.preprocessing == UNIT_FLOW


@few_channels
def test_pretrained_weights_follow_the_models_wiring(tmp_path: Path) -> None:
    torch.save(image_resnet("p3d63").state_dict(), tmp_path / "r.pth")
    model = create_model("p3d63", num_classes=10, wiring="port", variant="C")
    head = model.fc.weight.detach().clone()
    notes = PretrainedWeights(tmp_path / "r.pth").load_into(model)
    assert torch.equal(model.fc.weight, head)
    assert any("classifier of 10 classes is skipped" in note for note in notes)
    expected = convert_state_dict(image_resnet("p3d63").state_dict(), wiring="port", variant="C")
    key = "res3.1.temporal.conv.weight"
    assert torch.equal(model.state_dict()[key], expected[key])
    assert expected[key].count_nonzero() == 3 * len(expected[key])


@few_channels
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer3.6.conv1.weight": torch.ones(1)}, "which fits no P3D"),
        ({"layer1.0.conv2.weight": torch.ones(128, 4, 3, 3)}, "misshapen"),
        ({"layer1.0.bn2.weight": None}, r"1 missing \(res2\.0\.spatial\.bn\.weight\)"),
    ],
    ids=["depth", "resnext", "preact"],
)
def test_rejects_other_resnets(tmp_path: Path, change: dict, message: str) -> None:
    state = image_resnet("p3d63").state_dict() | change
    torch.save({k: v for k, v in state.items() if v is not None}, tmp_path / "r.pth")
    with pytest.raises(UserError, match=message):
        load_model(tmp_path / "r.pth")
