"""The network in 8-bit integers, for inference.

Weights are int8 with a scale for each output channel, activations uint8 with a scale and a zero
point for each layer, chosen from their ranges over some clips (static quantization, Jacob et al.,
CVPR 2018). Layers are written with PyTorch's operators `quantize_per_tensor` and
`dequantize_per_tensor` around a float convolution. PyTorch's compiler, ONNX Runtime and OpenVINO
replace the three by one 8-bit kernel; run as they stand, they are the definition of its result.

Activations travel between layers as uint8. Views, strides and maxima do not change values, so they
work on integers, and nothing stands between a convolution and its rounding.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

# Registers torch.ops.quantized_decomposed.
import torch.ao.quantization.fx._decomposed
from torch import Tensor, nn
from torch.nn import functional as F

from p3d.errors import UserError
from p3d.model.blocks import Bottleneck, ConvBN, Join, Stem
from p3d.model.network import P3D, fold_norms
from p3d.model.views import pool_time

_OPERATORS: Any = torch.ops.quantized_decomposed
_WEIGHT_LIMIT = 127


@dataclass(frozen=True)
class Grid:
    """The 256 numbers that a uint8 `q` stands for: `scale * (q - zero)`."""

    scale: float
    zero: int

    @classmethod
    def over(cls, low: float, high: float) -> Grid:
        """Return the grid from `low` to `high`, extended to contain 0, which padding needs."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max(high - low, 1e-6) / 255
        return cls(scale, round(-low / scale))

    def quantize(self, x: Tensor) -> Tensor:
        """Round float values to the grid, as uint8. Values outside become the nearest end."""
        q: Tensor = _OPERATORS.quantize_per_tensor(x, self.scale, self.zero, 0, 255, torch.uint8)
        return q

    def restore(self, q: Tensor) -> Tensor:
        """Return the float values of uint8."""
        x: Tensor = _OPERATORS.dequantize_per_tensor(q, self.scale, self.zero, 0, 255, torch.uint8)
        return x


class Int8Conv(ConvBN):
    """A folded convolution from uint8 to uint8, in place of a `ConvBN`.

    Args:
        conv: The convolution, with its bias.
        source: Grid of the input.
        product: Grid of the convolution's own output; needed where it is the result, or added to.
        addend: Grid of what is added.
        out: Grid of the result of `relu`; None for a float result.
    """

    weight: Tensor
    scales: Tensor
    zeros: Tensor

    def __init__(
        self,
        conv: nn.Conv2d,
        source: Grid,
        *,
        product: Grid | None = None,
        addend: Grid | None = None,
        out: Grid | None = None,
    ) -> None:
        nn.Module.__init__(self)
        assert conv.bias is not None, "folded"
        self.bn = nn.Identity()
        self.source, self.product, self.addend, self.out = source, product, addend, out
        self.strides, self.padding = conv.stride, conv.padding
        largest = conv.weight.detach().abs().amax((1, 2, 3)).clamp_min(1e-12)
        scales = largest / _WEIGHT_LIMIT
        rounded = (conv.weight.detach() / scales.view(-1, 1, 1, 1)).round()
        self.register_buffer("weight", rounded.to(torch.int8))
        self.register_buffer("scales", scales)
        self.register_buffer("zeros", torch.zeros(len(scales), dtype=torch.int64))
        self.bias = nn.Parameter(conv.bias.detach().clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map uint8 `(N, C, H, W)` to uint8 `(N, C', H', W')`."""
        assert self.product is not None
        return self.product.quantize(self._product(x))

    def relu(
        self, x: Tensor, addend: Tensor | None = None, factor: float = 1.0, *, stride: int = 1
    ) -> Tensor:
        """Return every `stride`th pixel of `relu(self(x) + addend)`, uint8 unless `out` is None."""
        assert factor == 1, "folded"
        y = self._product(x, stride)
        if addend is not None:
            assert self.product is not None
            assert self.addend is not None
            # Rounded before the sum, so that the convolution is an 8-bit kernel in every runtime.
            y = self.product.restore(self.product.quantize(y)) + self.addend.restore(addend)
        y = F.relu(y)
        return y if self.out is None else self.out.quantize(y)

    def relu_beside(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return `relu(self(x))`, and `x`."""
        return self.relu(x), x

    def _product(self, x: Tensor, stride: int = 1) -> Tensor:
        weight = _OPERATORS.dequantize_per_channel(
            self.weight, self.scales, self.zeros, 0, -128, 127, torch.int8
        )
        strides = [stride * each for each in self.strides]
        return F.conv2d(self.source.restore(x), weight, self.bias, strides, self.padding)


class Int8Stem(Stem):
    """The stem from float pixels to uint8.

    Args:
        stem: The folded stem.
        pixels: Grid of the input.
        out: Grid of the output; from 0, so that rounding is also the ReLU.
    """

    def __init__(self, stem: Stem, pixels: Grid, out: Grid) -> None:
        nn.Module.__init__(self)
        self.bn, self.wiring = nn.Identity(), stem.wiring
        self.layer = Int8Conv(stem.conv, pixels, product=out)

    def forward(self, x: Tensor, frames: int) -> tuple[Tensor, int]:  # type: ignore[override]
        """Map float `(N*T, C, H, W)` to uint8 `(N*T/2, 64, H/4, W/4)`; return it and its T."""
        out = self.layer.product
        assert out is not None
        x, frames = pool_time(self.layer(self.layer.source.quantize(x)), frames, self.wiring)
        return out.quantize(F.relu(self.pool_space(out.restore(x)))), frames


class Int8Join(Join):
    """The sum of two uint8 activations, on a grid of its own."""

    def __init__(self, space: Grid, time: Grid, out: Grid) -> None:
        super().__init__()
        self.space, self.time, self.out = space, time, out

    def forward(self, space: Tensor, time: Tensor) -> Tensor:
        """Return the sum of S and T, uint8."""
        return self.out.quantize(self.space.restore(space) + self.time.restore(time))


@dataclass
class _Seen:
    """Ranges of the input and the output of a convolution."""

    input: tuple[float, float] = (0.0, 0.0)
    output: tuple[float, float] = (0.0, 0.0)


def _widened(span: tuple[float, float], x: Tensor) -> tuple[float, float]:
    low, high = torch.aminmax(x)
    if not math.isfinite(float(low) + float(high)):
        raise UserError(
            "the network computes inf or nan for a clip of the calibration, which has no range; "
            "check the weights (p3d info)"
        )
    return min(span[0], float(low)), max(span[1], float(high))


def _observe(network: P3D, clips: Iterable[Tensor]) -> dict[nn.Module, _Seen]:
    """Return the ranges of all convolutions of a folded network over clips."""
    layers = [layer for layer in network.modules() if isinstance(layer, ConvBN)]
    seen: dict[nn.Module, _Seen] = {layer.conv: _Seen() for layer in layers}

    def note(conv: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found = seen[conv]
        found.input = _widened(found.input, inputs[0])
        found.output = _widened(found.output, output)

    hooks = [conv.register_forward_hook(note) for conv in seen]
    network.skips_unread = False  # strided convolutions are not called as modules
    with torch.inference_mode():
        for clip in clips:
            network(clip)
    for hook in hooks:
        hook.remove()
    network.skips_unread = True
    return seen


def quantize_network(model: P3D, clips: Iterable[Tensor]) -> P3D:
    """Return the 8-bit form of a network.

    Args:
        model: A network on the CPU; not modified.
        clips: Float `(N, C, T, H, W)`, normalized; their ranges of activations are represented.

    Raises:
        UserError: An activation is not finite.
    """
    network = fold_norms(copy.deepcopy(model)).float().requires_grad_(False)
    seen = _observe(network, clips)
    stem, out = network.stem, Grid.over(0.0, seen[network.stem.conv].output[1])
    network.stem = Int8Stem(stem, Grid.over(*seen[stem.conv].input), out)
    stages = (network.res2, network.res3, network.res4, network.res5)
    blocks = [block for stage in stages for block in stage if isinstance(block, Bottleneck)]
    inputs = [Grid.over(*seen[block.reduce.conv].input) for block in blocks]
    inputs[0] = out
    for block, source, target in zip(blocks, inputs, [*inputs[1:], None], strict=True):
        _quantize_block(block, seen, source, target)
    return network


def _quantize_block(
    block: Bottleneck, seen: dict[nn.Module, _Seen], source: Grid, target: Grid | None
) -> None:
    """Replace the layers of a block, whose input and output are on the grids given."""
    product = Grid.over(*seen[block.expand.conv].output)
    reduced = Grid.over(*seen[block.spatial.conv].input)
    mixed = Grid.over(*seen[block.expand.conv].input)
    addend = source
    if block.shortcut is not None:
        addend = Grid.over(*seen[block.shortcut.conv].output)
        block.shortcut = Int8Conv(block.shortcut.conv, source, product=addend)
    _quantize_mix(block, seen, reduced, mixed)
    block.reduce = Int8Conv(block.reduce.conv, source, out=reduced)
    block.expand = Int8Conv(block.expand.conv, mixed, product=product, addend=addend, out=target)


def _quantize_mix(
    block: Bottleneck, seen: dict[nn.Module, _Seen], reduced: Grid, mixed: Grid
) -> None:
    """Replace S and T, from the grid of their input to that of their combination."""
    convolve = partial(Int8Conv, block.spatial.conv, reduced)
    if block.kind == "2d":
        block.spatial = convolve(out=mixed)
        return
    space = Grid.over(0.0, seen[block.spatial.conv].output[1])
    block.spatial = convolve(out=space)
    conv, source = block.temporal.conv, reduced if block.kind == "B" else space
    product = Grid.over(*seen[conv].output)
    if block.kind == "A":
        block.temporal = Int8Conv(conv, source, out=mixed)
    elif block.wiring == "author":
        block.temporal = Int8Conv(conv, source, product=product, addend=space, out=mixed)
    else:
        time = Grid.over(0.0, seen[conv].output[1])
        block.temporal = Int8Conv(conv, source, out=time)
        block.join = Int8Join(space, time, mixed)
