"""Convolutions over few pixels in training, where the weights are most of the work.

On a CPU, oneDNN reorders the weights of every convolution, in each direction anew. Over few pixels
that costs more than the product itself: a step of res5 takes two to five times as long. So 1x1
convolutions become matrix products.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from p3d.model.modes import is_on_cpu, trains_eagerly
from p3d.model.views import pixel_rows

MOST_ROWS = 2048
"""Pixels of all frames up to which the matrix product is faster, measured on 1 and 2 cores."""


def is_small(conv: nn.Module, x: Tensor) -> bool:
    """Return whether `convolve_small` is the faster way to train on `x`, `(N, C, H, W)`.

    Only a CPU takes it: other devices have no such reorders.
    """
    if not isinstance(conv, nn.Conv2d) or conv.kernel_size != (1, 1):
        return False
    return is_on_cpu(x) and trains_eagerly() and _pixels(conv, x) <= MOST_ROWS


def outweighs_output(conv: nn.Conv2d, x: Tensor) -> bool:
    """Return whether training is faster with the output scaled than with the weight scaled.

    That is where the weight has more elements than the output for `x`, `(N, C, H, W)`.
    """
    return trains_eagerly() and _pixels(conv, x) < conv.weight[0].numel()


def _pixels(conv: nn.Conv2d, x: Tensor) -> float:
    """Return about how many pixels the output for `x` has; the padding keeps the size."""
    return len(x) * x.shape[2] * x.shape[3] / (conv.stride[0] * conv.stride[1])


def convolve_small(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """Convolve with a kernel of 1x1, with gradients.

    Args:
        x: `(N, C, H, W)`, channels-last if nothing is to be copied.
        weight: `(C', C, 1, 1)`.
        bias: `(C')` or None.
        stride: Stride in both directions.

    Returns:
        `(N, C', H', W')`, channels-last.
    """
    bias = None if bias is None else bias.to(x.dtype)
    convolve: Any = _Pointwise.apply
    out: Tensor = convolve(x, weight.to(x.dtype), bias, stride)
    return out


class _Pointwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        chosen = x[:, :, ::stride, ::stride]
        count, _, height, width = chosen.shape
        rows, matrix = pixel_rows(chosen), weight.flatten(1)
        # The result is not a view, so that a ReLU may overwrite it.
        shape = (count, len(matrix), height, width)
        out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        if bias is None:
            torch.mm(rows, matrix.t(), out=pixel_rows(out))
        else:
            torch.addmm(bias, rows, matrix.t(), out=pixel_rows(out))
        ctx.save_for_backward(rows, matrix)
        ctx.shape, ctx.stride = x.shape, stride
        ctx.kernel = (weight.shape, weight.stride())
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, matrix = ctx.saved_tensors
        gradient = pixel_rows(gradients[0])
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        grad_x = _spread(gradient @ matrix, ctx.shape, ctx.stride) if needs_x else None
        grad_weight = None
        if needs_weight:
            # In the weight's order of memory, which DistributedDataParallel expects.
            grad_weight = rows.new_empty_strided(*ctx.kernel)
            torch.mm(gradient.t(), rows, out=grad_weight.view(len(grad_weight), -1))
        return grad_x, grad_weight, gradient.sum(0) if needs_bias else None, None


def _spread(rows: Tensor, shape: torch.Size, stride: int) -> Tensor:
    """Return `(N, C, H, W)` with rows at every `stride`th pixel and zeros elsewhere."""
    count, channels, height, width = shape
    chosen = rows.view(count, -(-height // stride), -(-width // stride), channels)
    if stride == 1:
        return chosen.permute(0, 3, 1, 2)
    out = rows.new_zeros((count, height, width, channels))
    out[:, ::stride, ::stride] = chosen
    return out.permute(0, 3, 1, 2)
