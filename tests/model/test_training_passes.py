"""Gradients of what a training step computes in fewer passes, against PyTorch's own operations."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from p3d.model.network import ConvBN
from p3d.model.pair_max import max_of_pairs


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 4),
    size=st.integers(1, 5),
    channels=st.integers(1, 5),
    levels=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_max_of_pairs_equals_max_pool2d_with_ties(
    rows: int, size: int, channels: int, levels: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Few different values, so that many pairs are equal.
    x = torch.randint(0, levels, (rows, 2, size, channels), generator=generator).double()
    x.requires_grad_()
    weights = torch.randn(rows, size, channels, generator=generator, dtype=torch.float64)
    out = max_of_pairs(x)
    [gradient] = torch.autograd.grad((out * weights).sum(), x)
    pooled = F.max_pool2d(x.permute(0, 3, 1, 2), (2, 1)).permute(0, 2, 3, 1)[:, 0]
    [expected] = torch.autograd.grad((pooled * weights).sum(), x)
    assert torch.equal(out, pooled)
    assert torch.equal(gradient, expected)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(1, 2, 0), (3, 1, 1), ((3, 1), 1, (1, 0))]
)
def test_frozen_norm_has_the_gradients_of_conv_and_norm(kernel, stride, padding) -> None:
    torch.manual_seed(0)
    layer = ConvBN(5, 7, kernel, stride, padding).double().eval()
    norm = layer.bn
    assert isinstance(norm, nn.BatchNorm2d)
    for parameter in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(parameter)
    nn.init.uniform_(norm.running_var, 0.1, 2)
    x = torch.randn(2, 5, 6, 4, dtype=torch.float64, requires_grad=True)
    inputs = [x, layer.conv.weight, norm.weight, norm.bias]
    out, expected = layer(x), norm(layer.conv(x))
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    seed = torch.randn_like(out)
    for gradient, wanted in zip(
        torch.autograd.grad(out, inputs, seed),
        torch.autograd.grad(expected, inputs, seed),
        strict=True,
    ):
        torch.testing.assert_close(gradient, wanted, rtol=1e-12, atol=1e-12)
