"""Gradients of what a training step computes in fewer passes, against PyTorch's own operations."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from p3d.model.blocks import ConvBN
from p3d.model.pair_max import max_of_pairs
from p3d.model.pointwise import (
    MOST_ROWS,
    convolve_beside,
    convolve_small,
    is_small,
    outweighs_output,
)
from p3d.model.views import every


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


def test_max_of_pairs_of_low_precision_keeps_the_gradients_bits() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 2, 50, 8, generator=generator).to(torch.bfloat16).requires_grad_()
    seed = torch.randn(6, 50, 8, generator=generator).to(torch.bfloat16)
    [gradient] = torch.autograd.grad(max_of_pairs(x), x, seed)
    is_first = x[:, 0] >= x[:, 1]
    zero = torch.zeros_like(seed)
    assert torch.equal(gradient[:, 0], torch.where(is_first, seed, zero))
    assert torch.equal(gradient[:, 1], torch.where(is_first, zero, seed))


@pytest.mark.parametrize("channels", [5, 50])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(1, 2, 0), (3, 1, 1), ((3, 1), 1, (1, 0))]
)
def test_frozen_norm_has_the_gradients_of_conv_and_norm(
    kernel, stride, padding, channels: int
) -> None:
    torch.manual_seed(0)
    layer = ConvBN(channels, 7, kernel, stride, padding).double().eval()
    norm = layer.bn
    assert isinstance(norm, nn.BatchNorm2d)
    for parameter in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(parameter)
    nn.init.uniform_(norm.running_var, 0.1, 2)
    x = torch.randn(2, channels, 6, 4, dtype=torch.float64, requires_grad=True)
    assert outweighs_output(layer.conv, x) == (channels == 50)
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


@st.composite
def pointwise_inputs(draw: st.DrawFn) -> list[torch.Tensor]:
    """Draw x, weight and perhaps bias of a 1x1 convolution, with gradients."""
    torch.manual_seed(draw(st.integers(0, 99)))
    shape, channels = draw(st.tuples(*[st.integers(1, 4)] * 4)), draw(st.integers(1, 4))
    sizes = [shape, (channels, shape[1], 1, 1), *([(channels,)] if draw(st.booleans()) else [])]
    x, *parameters = (torch.randn(size, dtype=torch.float64) for size in sizes)
    layout = draw(st.sampled_from([torch.contiguous_format, torch.channels_last]))
    return [each.requires_grad_() for each in (x.contiguous(memory_format=layout), *parameters)]


@settings(max_examples=40, deadline=None)
@given(inputs=pointwise_inputs())
def test_a_small_convolution_has_the_gradients_of_conv2d(inputs: list[torch.Tensor]) -> None:
    x, weight, bias = (*inputs, None)[:3]
    assert x is not None
    assert weight is not None
    expected = F.conv2d(x, weight, bias)
    out = convolve_small(x, weight, bias)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    seed = torch.randn_like(out)
    for gradient, wanted in zip(
        torch.autograd.grad(F.relu(out, inplace=True), inputs, seed),
        torch.autograd.grad(F.relu(expected), inputs, seed),
        strict=True,
    ):
        torch.testing.assert_close(gradient, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("strides", [(4, 1, 1, 1), (4, 1, 4, 4)])
def test_a_small_convolutions_gradient_has_the_weights_order(strides: tuple[int, ...]) -> None:
    """DistributedDataParallel copies gradients of another order, and warns."""
    weight = torch.randn(24).as_strided((6, 4, 1, 1), strides).requires_grad_()
    out = convolve_small(torch.randn(2, 4, 3, 3), weight, None)
    [gradient] = torch.autograd.grad(out.sum(), weight)
    assert gradient.stride() == strides


def test_only_small_pointwise_convolutions_in_training_are_products() -> None:
    conv = nn.Conv2d(4, 4, 1)
    most = torch.empty(1, 4, 1, MOST_ROWS)
    assert is_small(conv, most)
    assert not is_small(conv, torch.empty(2, 4, 1, MOST_ROWS))
    assert not is_small(nn.Conv2d(4, 4, 3), most)
    assert not is_small(nn.Conv2d(4, 4, 1, stride=2), most)
    assert not is_small(conv, most.to("meta"))
    with torch.no_grad():
        assert not is_small(conv, most)


@settings(max_examples=40, deadline=None)
@given(inputs=pointwise_inputs(), of_shortcut=st.sampled_from(["as x", "channels-last"]))
def test_a_shared_gradient_is_the_sum_of_both(inputs: list[torch.Tensor], of_shortcut: str) -> None:
    x, weight, bias = (*inputs, None)[:3]
    assert x is not None
    assert weight is not None
    out, shortcut = convolve_beside(x, weight, bias)
    expected = F.conv2d(x, weight, bias)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(shortcut, x)
    seeds = [torch.randn_like(out), torch.randn_like(x)]
    if of_shortcut == "channels-last":  # added to in place
        seeds[1] = seeds[1].contiguous(memory_format=torch.channels_last)
    wanted = torch.autograd.grad((expected, x.clone()), inputs, [seed.clone() for seed in seeds])
    found = torch.autograd.grad((out, shortcut), inputs, seeds)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_gradients_of_pointwise_convolutions_have_gradients() -> None:
    torch.manual_seed(0)
    sizes = ((2, 3, 2, 2), (4, 3, 1, 1), (4,))
    inputs = [torch.randn(*size, dtype=torch.float64, requires_grad=True) for size in sizes]

    def run(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = (*convolve_beside(*inputs), convolve_small(*inputs))
        return tuple(output.square() for output in outputs)

    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


@settings(max_examples=30, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 7)] * 4), stride=st.integers(1, 3))
def test_every_second_pixel_has_the_gradient_of_a_slice(
    shape: tuple[int, ...], stride: int
) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape).contiguous(memory_format=torch.channels_last).requires_grad_()
    out, expected = every(x, stride), x[:, :, ::stride, ::stride]
    assert torch.equal(out, expected)
    seed = torch.randn_like(out)
    [gradient] = torch.autograd.grad(out, x, seed)
    [wanted] = torch.autograd.grad(expected, x, seed)
    assert torch.equal(gradient, wanted)
    for tensor in (out, gradient):
        assert tensor.is_contiguous(memory_format=torch.channels_last)


def test_frozen_weights_of_a_small_convolution_get_no_gradient() -> None:
    layer = ConvBN(3, 5, 1).double()
    layer.conv.weight.requires_grad_(False)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    [gradient] = torch.autograd.grad(layer(x).square().sum(), x)
    [expected] = torch.autograd.grad(layer.bn(layer.conv(x)).square().sum(), x)
    torch.testing.assert_close(gradient, expected)
