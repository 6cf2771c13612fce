"""Normalization by statistics that are known before a convolution, against PyTorch's own."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from p3d.model.activation_checkpointing import run_checkpointed
from p3d.model.blocks import ConvBN
from p3d.model.moments import fold_by_input, foresees_output
from p3d.model.sync_batchnorm import SyncNorm


def draw_norm(layer: ConvBN) -> None:
    """Draw a normalization's parameters and statistics; some weights are negative."""
    norm = layer.bn
    assert isinstance(norm, nn.BatchNorm2d)
    for parameter in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(parameter)
    nn.init.uniform_(norm.running_var, 0.1, 2)


def parameters_of(layer: ConvBN) -> list[Tensor]:
    return [layer.conv.weight, layer.bn.weight, layer.bn.bias]  # type: ignore[list-item]


def assert_equal_layers(out: Tensor, layer: ConvBN, expected: Tensor, plain: ConvBN) -> None:
    """Assert equal results, gradients of the parameters and running statistics."""
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    seed = torch.randn_like(out)
    for gradient, wanted in zip(
        torch.autograd.grad(out, parameters_of(layer), seed),
        torch.autograd.grad(expected, parameters_of(plain), seed),
        strict=True,
    ):
        torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-10)
    for name, value in plain.bn.named_buffers():
        torch.testing.assert_close(layer.bn.get_buffer(name), value, rtol=1e-12, atol=1e-12)


def test_moments_have_the_right_gradients() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    layer = ConvBN(2, 5, 1).double()
    draw_norm(layer)

    def fold(x: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        return fold_by_input(x, layer.conv, layer.bn)  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(fold, (x, *parameters_of(layer)))


@settings(max_examples=25, deadline=None)
@given(
    images=st.integers(1, 3),
    size=st.tuples(st.integers(4, 9), st.integers(6, 9)),
    channels=st.integers(1, 3),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
    seed=st.integers(0, 99),
)
def test_an_expanding_convolution_equals_convolution_and_norm(
    images: int, size: tuple[int, int], channels: int, layout: torch.memory_format, seed: int
) -> None:
    torch.manual_seed(seed)
    layer = ConvBN(channels, 4 * channels, 1).double()
    draw_norm(layer)
    plain = copy.deepcopy(layer)
    x = torch.randn(images, channels, *size, dtype=torch.float64).contiguous(memory_format=layout)
    x.requires_grad_()
    assert foresees_output(layer.conv, layer.bn, x)
    out, expected = layer(x), plain.bn(plain.conv(x))
    seeds = torch.randn_like(out)
    [gradient] = torch.autograd.grad(out, x, seeds, retain_graph=True)
    [wanted] = torch.autograd.grad(expected, x, seeds, retain_graph=True)
    torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-10)
    assert_equal_layers(out, layer, expected, plain)


def test_low_precision_is_normalized_by_the_output() -> None:
    """A rounded bias would move the mean of a channel; the sum of many values shows it."""
    torch.manual_seed(0)
    layer = ConvBN(64, 256, 1)
    x = 10 + torch.randn(8, 64, 20, 20)
    assert foresees_output(layer.conv, layer.bn, x)
    assert not foresees_output(layer.conv, layer.bn, x.to(torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        assert not foresees_output(layer.conv, layer.bn, x)
        out = layer(x)
    assert out.dtype == torch.bfloat16
    assert out.float().mean((0, 2, 3)).abs().max() < 1e-3


def test_large_means_keep_the_statistics_precise() -> None:
    """The covariance is a difference of large sums, here of 100 times the variance."""
    torch.manual_seed(0)
    layer = ConvBN(64, 256, 1)
    out = layer(10 + torch.randn(8, 64, 20, 20))
    assert out.mean((0, 2, 3)).abs().max() < 1e-4
    torch.testing.assert_close(out.std((0, 2, 3)), torch.ones(256), rtol=1e-3, atol=0)


def test_autograd_keeps_no_output_of_an_expanding_convolution() -> None:
    layer = ConvBN(4, 16, 1)
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = layer(x)
    assert max(sizes) == x.numel() < out.numel()


@pytest.mark.parametrize("checkpointed", [False, True])
def test_statistics_count_a_batch_once(checkpointed: bool) -> None:
    class Block(ConvBN):
        def forward(self, x: Tensor, frames: int) -> Tensor:  # type: ignore[override]
            return super().forward(x) * frames

    torch.manual_seed(0)
    block = Block(2, 8, 1).double()
    plain = copy.deepcopy(block.bn)
    x = torch.randn(2, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    plain(block.conv(x))
    out = run_checkpointed(block, x, 1) if checkpointed else block(x, 1)
    out.sum().backward()
    for name, value in plain.named_buffers():
        torch.testing.assert_close(block.bn.get_buffer(name), value)


@pytest.mark.parametrize(
    "layer", [ConvBN(4, 8, 1), ConvBN(4, 16, 1, stride=2), ConvBN(4, 16, 3, padding=1)]
)
def test_other_convolutions_are_normalized_by_their_output(layer: ConvBN) -> None:
    x = torch.randn(2, 4, 8, 8)
    assert not foresees_output(layer.conv, layer.bn, x)


def test_few_pixels_are_normalized_by_the_output() -> None:
    layer = ConvBN(4, 16, 1)
    assert foresees_output(layer.conv, layer.bn, torch.randn(2, 4, 4, 4))
    assert not foresees_output(layer.conv, layer.bn, torch.randn(1, 4, 4, 4))
    with torch.no_grad():
        assert not foresees_output(layer.conv, layer.bn, torch.randn(2, 4, 4, 4))
    layer.bn = SyncNorm(16)
    assert not foresees_output(layer.conv, layer.bn, torch.randn(2, 4, 4, 4))
