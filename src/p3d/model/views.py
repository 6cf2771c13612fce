"""The two views of a batch of clips in memory, and strides and max-pooling in them.

All convolutions are 2-D, and no activation is copied to change its shape. A batch of clips stored
as `(N, T, H, W, C)` is also a channels-last batch of images `(N*T, C, H, W)`, the spatial view. The
same memory is a channels-last batch `(N, C, T, H*W)`, the temporal view.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from p3d.model.config import Wiring
from p3d.model.modes import is_tracing, trains_eagerly
from p3d.model.pair_max import max_of_pairs


def pixel_rows(x: Tensor) -> Tensor:
    """Return `(N, C, H, W)` as a matrix `(N*H*W, C)`, a view if it is channels-last."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def temporal_view(x: Tensor, frames: int) -> Tensor:
    """View `(N*T, C, H, W)` as `(N, C, T, H*W)`."""
    rows, channels, height, width = x.shape
    flat = x.permute(0, 2, 3, 1).reshape(rows // frames, frames, height * width, channels)
    return flat.permute(0, 3, 1, 2)


def spatial_view(x: Tensor, height: int, width: int) -> Tensor:
    """View `(N, C, T, H*W)` as `(N*T, C, H, W)`."""
    batch, channels, frames, _ = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(batch * frames, height, width, channels)
    return rows.permute(0, 3, 1, 2)


def every(x: Tensor, stride: int) -> Tensor:
    """Return every `stride`th pixel of `(N, C, H, W)` in height and width, channels-last."""
    if stride == 1:
        return x
    if x.requires_grad and trains_eagerly():
        choose: Any = _Every.apply
        out: Tensor = choose(x, stride)
        return out
    return x[:, :, ::stride, ::stride].contiguous(memory_format=torch.channels_last)


class _Every(torch.autograd.Function):
    """`every` with a gradient that is channels-last, unlike that of a slice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: int) -> Tensor:
        ctx.shape, ctx.stride = x.shape, stride
        return x[:, :, ::stride, ::stride].contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        count, channels, height, width = ctx.shape
        out = gradients[0].new_zeros((count, height, width, channels)).permute(0, 3, 1, 2)
        out[:, :, :: ctx.stride, :: ctx.stride] = gradients[0]
        return out, None


def pool_up(x: Tensor, kernel: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """Max-pool `(N, C, H, W)`, rounding output sizes up, as Caffe does."""
    if all(isinstance(size, int) for size in x.shape):
        return F.max_pool2d(x, kernel, stride, ceil_mode=True)
    # torch.export cannot round symbols up. A last row and column that never win do the same.
    padding = (0, stride[1] - 1, 0, stride[0] - 1)
    return F.max_pool2d(F.pad(x, padding, value=-torch.inf), kernel, stride)


def pool_time(x: Tensor, frames: int, wiring: Wiring) -> tuple[Tensor, int]:
    """Max-pool `(N*T, C, H, W)` over pairs of frames; return the result and its T.

    The last of an odd number of frames is kept by "author" (Caffe rounds up) and dropped by "port".
    A single frame is always kept.
    """
    if frames == 1:
        return x, 1
    rows, channels, height, width = x.shape
    # A trace must not depend on gradients, since torch checks it without them.
    tracing = is_tracing()
    # While a network of free clip length is exported, `frames` is a symbol that may be odd.
    is_even = isinstance(frames, int) and frames % 2 == 0
    if is_even and (tracing or not (x.requires_grad and torch.compiler.is_compiling())):
        # The maximum over a view takes a third of the pooling kernel's time.
        pairs = x.permute(0, 2, 3, 1).reshape(rows // 2, 2, height * width, channels)
        larger = max_of_pairs(pairs) if x.requires_grad and not tracing else pairs.amax(1)
        larger = larger.reshape(rows // 2, height, width, channels)
        return larger.permute(0, 3, 1, 2), frames // 2
    pool = pool_up if wiring == "author" else F.max_pool2d
    values = x if x.is_floating_point() else x.float()  # for 8-bit integers, which pooling lacks
    pooled = pool(temporal_view(values, frames), (2, 1), (2, 1)).to(x.dtype)
    return spatial_view(pooled, height, width), pooled.shape[2]
