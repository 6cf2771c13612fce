"""8-bit networks: rounding is all that distinguishes them, and it is bounded by their ranges."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from helpers.tiny_networks import make_networks_narrow, tiny_network
from p3d.errors import UserError
from p3d.model.blocks import ConvBN
from p3d.model.int8 import Grid, Int8Conv, quantize_network
from p3d.model.network import P3D, create_model, fold_norms

FORMS = [(wiring, variant) for wiring in ("author", "port") for variant in ("A", "B", "C", "2d")]


def _clip(frames: int = 8, size: int = 48, channels: int = 3) -> Tensor:
    return torch.randn(1, channels, frames, size, size, generator=torch.manual_seed(1))


def _norms_of_noise(model: P3D) -> P3D:
    """Give all normalizations statistics, biases and scales of their own."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    with torch.no_grad():
        for _ in range(3):
            model.train()(_clip())
    return model.eval()


@given(low=st.floats(-1e3, 1e3), high=st.floats(-1e3, 1e3), values=st.lists(st.floats(-1e3, 1e3)))
def test_grid_rounds_to_half_a_step_and_keeps_zero(
    low: float, high: float, values: list[float]
) -> None:
    low, high = min(low, high), max(low, high)
    grid, x = Grid.over(low, high), torch.tensor([0.0, *values]).clamp(min(low, 0), max(high, 0))
    found = grid.restore(grid.quantize(x))
    assert found[0] == 0
    assert 0 <= grid.zero <= 255
    # Ends of the range may lie half a step outside, since 0 is a point of the grid.
    assert ((found - x).abs() <= grid.scale * 1.01).all()
    inside = (x > low + grid.scale) & (x < high - grid.scale)
    assert ((found - x).abs()[inside] <= grid.scale * 0.51).all()


@pytest.mark.parametrize(("wiring", "variant"), FORMS)
@pytest.mark.parametrize("frames", [8, 5, 1])
def test_without_rounding_it_is_the_network(
    wiring: str, variant: str, frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_networks_narrow(monkeypatch)
    folded = fold_norms(_norms_of_noise(tiny_network(wiring=wiring, variant=variant)))
    for layer in folded.modules():
        if isinstance(layer, ConvBN):  # weights that 8 bits represent
            step = layer.conv.weight.detach().abs().amax((1, 2, 3), keepdim=True) / 127
            layer.conv.weight.data = (layer.conv.weight / step).round() * step
    clip = _clip(frames)
    quantized = quantize_network(folded, [clip])
    monkeypatch.setattr(Grid, "quantize", lambda _, x: x)
    monkeypatch.setattr(Grid, "restore", lambda _, x: x)
    torch.testing.assert_close(quantized(clip), folded(clip), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("wiring", "modality"), [("author", "rgb"), ("port", "flow")])
def test_rounding_changes_little(
    wiring: str, modality: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_networks_narrow(monkeypatch)
    model = tiny_network(wiring=wiring, modality=modality)
    clip = _clip(channels=model.stem.conv.in_channels)
    with torch.no_grad():
        for _ in range(3):
            model.train()(clip)
    model.eval()
    before = copy.deepcopy(model.state_dict())
    found, expected = quantize_network(model, [clip])(clip), model(clip)
    error = (found - expected).abs().max() / expected.abs().max()
    assert 1e-5 < error < 0.1
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_ranges_are_those_of_all_clips() -> None:
    conv = nn.Conv2d(1, 1, 1)
    assert Int8Conv(conv, Grid.over(0, 1)).weight.dtype == torch.int8
    model = create_model("p3d63", num_classes=2).eval()
    clips = [_clip(2, 32), 3 * _clip(2, 32)]
    small, both = (quantize_network(model, clips[:count]) for count in (1, 2))
    assert both.stem.layer.source.scale == pytest.approx(3 * small.stem.layer.source.scale)
    assert both.res5[0].expand.product.scale > small.res5[0].expand.product.scale


def test_activations_that_are_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    make_networks_narrow(monkeypatch)
    model = tiny_network()
    model.res3[0].spatial.bn.weight.data[0] = torch.nan
    with pytest.raises(UserError, match="inf or nan for a clip of the calibration"):
        quantize_network(model, [_clip()])
