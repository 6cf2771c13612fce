"""The layers of a network: convolution and normalization, residual blocks, and the stem.

Activations are passed between layers in the spatial view, `(N*T, C, H, W)` (`p3d.model.views`).
S is a 3x3 convolution over it, and T is a (3, 1) convolution over the temporal view.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from p3d.model.config import EXPANSION, PLANES, Wiring
from p3d.model.fused_norm import fuses, relu_of_sum
from p3d.model.modes import is_on_cpu, is_tracing, trains_eagerly
from p3d.model.moments import fold_by_input, foresees_output
from p3d.model.pointwise import (
    convolve_beside,
    convolve_small,
    is_small,
    outweighs_output,
    shares_gradient,
)
from p3d.model.views import every, pool_time, pool_up, spatial_view, temporal_view

_FRAMES = 4
"""Frames of a part of the stem's input, an even number; 6.6 MB of output for 160x160 pixels."""


def _add(x: Tensor, y: Tensor) -> Tensor:
    """Add `y`; in place, unless the backward pass of that would copy a view.

    A trace must not depend on gradients, see `pool_time`.
    """
    if torch.is_grad_enabled() or is_tracing():
        return x + y if torch.compiler.is_compiling() or y._is_view() else x.add_(y)
    return x.add_(y)


class ConvBN(nn.Module):
    """A convolution without bias and its batch normalization (eps 1e-5, momentum 0.1)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, C, H, W)` to `(N, C', H', W')`."""
        y, is_normal = self._convolve(x)
        out: Tensor = y if is_normal else self.bn(y)
        return out

    def relu(
        self, x: Tensor, addend: Tensor | None = None, factor: float = 1.0, *, stride: int = 1
    ) -> Tensor:
        """Return every `stride`th pixel of `relu(factor * (self(x) + addend))`.

        Args:
            x: `(N, C, H, W)`.
            addend: `(N, C', H', W')`, or None.
            factor: A positive number.
            stride: Stride of the convolution. A normalization that is trained needs 1, since its
                statistics are those of all pixels.
        """
        return self._finish(*self._convolve(x, stride), addend, factor)

    def relu_beside(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return `relu(self(x))`, and `x` for a block's shortcut, see `convolve_beside`.

        Args:
            x: `(N, C, H, W)`.

        Returns:
            `(N, C', H', W')`, and `(N, C, H, W)`.
        """
        if not shares_gradient(self.conv, x):
            return self.relu(x), x
        folded = self._fold(x)
        y, shortcut = convolve_beside(x, *(folded or (self.conv.weight, self.conv.bias)))
        return self._finish(y, folded is not None), shortcut

    def _finish(
        self, y: Tensor, is_normal: bool, addend: Tensor | None = None, factor: float = 1.0
    ) -> Tensor:
        """Normalize the output of the convolution unless it is; return `relu` of it."""
        bn = self.bn
        if fuses(bn, y) and bn.training and not is_normal:
            return bn.relu(y, addend, factor)
        out: Tensor = y if is_normal else bn(y)
        if addend is not None:
            if fuses(bn, out):
                return relu_of_sum(out, addend, factor)
            out = _add(out, addend)
        if factor != 1:
            out = out.mul_(factor)
        return F.relu(out, inplace=True)

    def _convolve(self, x: Tensor, stride: int = 1) -> tuple[Tensor, bool]:
        """Return the output of the convolution, and whether it is normalized already."""
        conv = self.conv
        folded = self._fold(x)
        weight, bias = folded or (conv.weight, conv.bias)
        if is_small(conv, x):
            y = convolve_small(x, weight, bias)
        elif folded is None and stride == 1:
            y = conv(x)
        else:
            strides = [stride * each for each in conv.stride]
            y = F.conv2d(x, weight, bias, strides, conv.padding)
        return y, folded is not None

    def _fold(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return weight and bias that include the normalization, with gradients.

        None where the normalization depends on the convolution's output, or where it is faster
        after the convolution.
        """
        bn, conv = self.bn, self.conv
        if not isinstance(bn, nn.BatchNorm2d):
            return None
        if bn.training:
            return fold_by_input(x, conv, bn) if foresees_output(conv, bn, x) else None
        mean, variance = bn.running_mean, bn.running_var
        if mean is None or variance is None or outweighs_output(conv, x):
            return None
        scale = bn.weight * (variance + bn.eps).rsqrt()
        weight = conv.weight * scale.view(-1, 1, 1, 1)
        return weight.to(x.dtype), (bn.bias - mean * scale).to(x.dtype)


class Join(nn.Module):
    """The sum of S and T where it follows their ReLUs, in wiring "port"."""

    def forward(self, space: Tensor, time: Tensor) -> Tensor:
        """Return the sum of S and T, `(N*T, C, H, W)`."""
        return space + time


class Bottleneck(nn.Module):
    """A residual block: 1x1 convolution, S and T, 1x1 convolution, plus a shortcut.

    Args:
        in_channels: Channels of the input.
        planes: Channels of S and T; the output has `4 * planes`.
        kind: "A", "B", "C", or "2d" for a block without T.
        wiring: "author" or "port".
        project: Whether the shortcut is a convolution (first block of a stage) or the identity.
    """

    def __init__(
        self,
        in_channels: int,
        planes: int,
        *,
        kind: str,
        wiring: Wiring,
        project: bool,
    ) -> None:
        super().__init__()
        out_channels = planes * EXPANSION
        self.kind, self.wiring = kind, wiring
        self.mix = MIXES[wiring][kind]
        self.reduce = ConvBN(in_channels, planes, 1)
        self.spatial = ConvBN(planes, planes, 3, padding=1)
        if kind != "2d":
            self.temporal = ConvBN(planes, planes, (3, 1), padding=(1, 0))
        self.join = Join()
        self.expand = ConvBN(planes, out_channels, 1)
        self.shortcut = ConvBN(in_channels, out_channels, 1) if project else None

    def forward(self, x: Tensor, frames: int, stride: int = 1) -> Tensor:
        """Map `(N*T, C, H, W)`, where T is `frames`, to `(N*T, 4 * planes, H', W')`.

        With a stride, only every `stride`th pixel of the output is returned, in height and width,
        and where that is possible only those are computed.
        """
        if stride > 1 and self._trains_norms():
            return every(self.forward(x, frames), stride)
        reduced, x = self.reduce.relu_beside(x)
        mixed, x = self.mix(self, reduced, frames, stride), every(x, stride)
        return self.expand.relu(mixed, x if self.shortcut is None else self.shortcut(x))

    def _trains_norms(self) -> bool:
        norms = (layer.bn for layer in self.children() if isinstance(layer, ConvBN))
        return any(norm.training and not isinstance(norm, nn.Identity) for norm in norms)

    def fold_factor(self) -> None:
        """Move the factor of a block C into `expand`, in place, for inference."""
        if self.mix is _mix_c_author:
            self.mix = _mix_c_author_doubled
            self.expand.conv.weight.data.mul_(0.5)


# The combinations of S and T (Qiu et al. 2017, fig. 3). What follows T is computed in T's view of
# the memory: compilers fuse it into the convolution only if no change of shape is between them.
# Each returns every `stride`th pixel. T and sums need no others, so S can have the stride.


def _mix_2d(block: Bottleneck, x: Tensor, frames: int, stride: int) -> Tensor:  # noqa: ARG001
    return block.spatial.relu(x, stride=stride)


def _mix_a(block: Bottleneck, x: Tensor, frames: int, stride: int) -> Tensor:
    space = block.spatial.relu(x, stride=stride)
    time = block.temporal.relu(temporal_view(space, frames))
    return spatial_view(time, *space.shape[2:])


def _mix_b_author(block: Bottleneck, x: Tensor, frames: int, stride: int) -> Tensor:
    space = block.spatial.relu(x, stride=stride)
    time_input = temporal_view(every(x, stride), frames)
    mixed = block.temporal.relu(time_input, temporal_view(space, frames))
    return spatial_view(mixed, *space.shape[2:])


def _mix_b_port(block: Bottleneck, x: Tensor, frames: int, stride: int) -> Tensor:
    time = block.temporal.relu(temporal_view(every(x, stride), frames))
    space = block.spatial.relu(x, stride=stride)
    joined: Tensor = block.join(space, spatial_view(time, *space.shape[2:]))
    return joined


def _mix_c_author(
    block: Bottleneck, x: Tensor, frames: int, stride: int, factor: float = 0.5
) -> Tensor:
    images = block.spatial.relu(x, stride=stride)
    space = temporal_view(images, frames)
    return spatial_view(block.temporal.relu(space, space, factor), *images.shape[2:])


def _mix_c_author_doubled(block: Bottleneck, x: Tensor, frames: int, stride: int) -> Tensor:
    """Return twice the block's mix, for an `expand` with half the weight."""
    return _mix_c_author(block, x, frames, stride, 1.0)


def _mix_c_port(block: Bottleneck, x: Tensor, frames: int, stride: int) -> Tensor:
    space = block.spatial.relu(x, stride=stride)
    time = block.temporal.relu(temporal_view(space, frames))
    joined: Tensor = block.join(space, spatial_view(time, *space.shape[2:]))
    return joined


Mix = Callable[[Bottleneck, Tensor, int, int], Tensor]
MIXES: dict[str, dict[str, Mix]] = {
    "author": {"A": _mix_a, "B": _mix_b_author, "C": _mix_c_author, "2d": _mix_2d},
    "port": {"A": _mix_a, "B": _mix_b_port, "C": _mix_c_port, "2d": _mix_2d},
}


class Stem(ConvBN):
    """1x7x7 convolution, stride (1, 2, 2); batch normalization; ReLU; 2x3x3 max-pooling, stride 2.

    Max-pooling is separable and commutes with ReLU. So time is pooled before space, and ReLU comes
    last, when an eighth of the values is left.
    """

    def __init__(self, in_channels: int, wiring: Wiring) -> None:
        super().__init__(in_channels, PLANES[0], 7, stride=2, padding=3)
        self.wiring: Wiring = wiring

    def forward(self, x: Tensor, frames: int) -> tuple[Tensor, int]:  # type: ignore[override]
        """Map `(N*T, C, H, W)` to `(N*T/2, 64, H/4, W/4)`; return it and its T."""
        if self._takes_parts(x, frames):
            parts = [self._convolve_and_pool(part, 2)[0] for part in x.split(_FRAMES)]
            x, frames = torch.cat(parts), frames // 2
        else:
            x, frames = self._convolve_and_pool(x, frames)
        return F.relu(x, inplace=True), frames

    def _takes_parts(self, x: Tensor, frames: int) -> bool:
        """Return whether training on some frames at a time is possible, and faster.

        The convolution's output is by far the largest activation. In parts it is pooled while it is
        in a CPU's cache, and so is its gradient used. A normalization that is trained needs it as a
        whole.
        """
        # First, since an export must not ask for the size of an axis that is free.
        if not is_on_cpu(x) or not trains_eagerly():
            return False
        return frames % 2 == 0 and len(x) > 0 and not self.bn.training

    def _convolve_and_pool(self, x: Tensor, frames: int) -> tuple[Tensor, int]:
        y, is_normal = self._convolve(x)
        bn = self.bn
        if fuses(bn, y) and bn.training and not is_normal and frames % 2 == 0:
            x, frames = bn.max_of_pairs(y), frames // 2
        else:
            x, frames = pool_time(y if is_normal else bn(y), frames, self.wiring)
        return self.pool_space(x), frames

    def pool_space(self, x: Tensor) -> Tensor:
        """Pool `(N, C, H, W)` by 3x3 with stride 2."""
        if self.wiring == "author":
            return pool_up(x, (3, 3), (2, 2))
        return F.max_pool2d(x, 3, 2, padding=1)
