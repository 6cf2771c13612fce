"""The stem, of which training with a frozen normalization computes some frames at a time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from p3d.model.blocks import Stem
from p3d.model.config import Wiring

WIRINGS: tuple[Wiring, ...] = ("author", "port")


def frozen_stem(wiring: Wiring) -> Stem:
    """Return a stem in float64 with drawn statistics; some weights of its norm are negative."""
    stem = Stem(2, wiring).double().eval()
    norm = stem.bn
    assert isinstance(norm, nn.BatchNorm2d)
    for parameter in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(parameter)
    nn.init.uniform_(norm.running_var, 0.1, 2)
    return stem


def layer_by_layer(stem: Stem, x: Tensor, frames: int) -> Tensor:
    """Return the stem's result as the paper describes it, by a pooling in three dimensions."""
    y = F.relu(stem.bn(stem.conv(x))).unflatten(0, (-1, frames)).transpose(1, 2)
    if stem.wiring == "author":
        y = F.max_pool3d(y, (2, 3, 3), 2, ceil_mode=True)
    else:
        y = F.max_pool3d(y, (2, 3, 3), 2, (0, 1, 1))
    return y.transpose(1, 2).flatten(0, 1)


@settings(max_examples=25, deadline=None)
@given(
    clips=st.integers(1, 3),
    pairs=st.integers(1, 4),
    size=st.tuples(st.integers(3, 21), st.integers(3, 21)),
    wiring=st.sampled_from(WIRINGS),
    seed=st.integers(0, 99),
)
def test_a_stem_in_parts_equals_its_layers(
    clips: int, pairs: int, size: tuple[int, int], wiring: Wiring, seed: int
) -> None:
    torch.manual_seed(seed)
    stem, frames = frozen_stem(wiring), 2 * pairs
    x = torch.randn(clips * frames, 2, *size, dtype=torch.float64, requires_grad=True)
    assert stem._takes_parts(x, frames)
    out, left = stem(x, frames)
    expected = layer_by_layer(stem, x, frames)
    assert left == pairs
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    inputs, seeds = [x, *stem.parameters()], torch.randn_like(out)
    for gradient, wanted in zip(
        torch.autograd.grad(out, inputs, seeds),
        torch.autograd.grad(expected, inputs, seeds),
        strict=True,
    ):
        torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("frames", [3, 8])
@pytest.mark.parametrize("wiring", WIRINGS)
def test_a_stem_as_a_whole_equals_its_layers(wiring: Wiring, frames: int) -> None:
    torch.manual_seed(0)
    stem = frozen_stem(wiring).train()
    x = torch.randn(2 * frames, 2, 9, 11, dtype=torch.float64)
    assert not stem._takes_parts(x, frames)
    expected = layer_by_layer(stem, x, frames)
    torch.testing.assert_close(stem(x, frames)[0], expected, rtol=1e-10, atol=1e-10)


def test_only_training_of_even_clips_on_cpus_takes_parts() -> None:
    stem, x = frozen_stem("author"), torch.randn(8, 2, 16, 16)
    assert stem._takes_parts(x, 4)
    assert not stem._takes_parts(x, 1)
    assert not stem._takes_parts(x[:0], 4)
    assert not stem._takes_parts(x.to("meta"), 4)
    with torch.no_grad():
        assert not stem._takes_parts(x, 4)
