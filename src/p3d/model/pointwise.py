"""1x1 convolutions in training on a CPU, as matrix products where those are faster.

Over few pixels the weights are most of the work: oneDNN reorders the weights of every convolution,
in each direction anew, which costs more than the product itself. A step of res5 takes two to five
times as long.

Where a residual block starts with such a convolution, the gradient of the block's input is a sum,
that of the convolution's input and that of the shortcut. A matrix product can add to what is
there, which saves a pass over the largest activations.
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
    if not _is_pointwise(conv) or not is_on_cpu(x) or not trains_eagerly():
        return False  # before an export is asked for the size of an axis that is free
    return _pixels(x) <= MOST_ROWS


def outweighs_output(conv: nn.Conv2d, x: Tensor) -> bool:
    """Return whether training is faster with the output scaled than with the weight scaled.

    That is where the weight has more elements than the output for `x`, `(N, C, H, W)`.
    """
    if not trains_eagerly():
        return False
    return _pixels(x) < conv.weight[0].numel() * conv.stride[0] * conv.stride[1]


def _is_pointwise(conv: nn.Module) -> bool:
    return isinstance(conv, nn.Conv2d) and conv.kernel_size == conv.stride == (1, 1)


def _pixels(x: Tensor) -> int:
    return len(x) * x.shape[2] * x.shape[3]


def convolve_small(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve with a kernel of 1x1, with gradients.

    Args:
        x: `(N, C, H, W)`, channels-last if nothing is to be copied.
        weight: `(C', C, 1, 1)`.
        bias: `(C')` or None.

    Returns:
        `(N, C', H, W)`, channels-last.
    """
    convolve: Any = _Pointwise.apply
    out: Tensor = convolve(x, *_cast(weight, bias, x.dtype))
    return out


def _cast(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    return weight.to(dtype), None if bias is None else bias.to(dtype)


def shares_gradient(conv: nn.Module, x: Tensor) -> bool:
    """Return whether `convolve_beside` is the faster way to train on `x`, `(N, C, H, W)`."""
    return _is_pointwise(conv) and x.requires_grad and is_on_cpu(x) and trains_eagerly()


def convolve_beside(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Convolve with a kernel of 1x1, and return the input for the shortcut around a block.

    In the backward pass, the gradient of the shortcut is overwritten by that of `x`, the sum. It
    must have no other use then: a block's other layers, whose gradients may be the same tensor, are
    done, since the convolution's output depends on them.

    Args:
        x: `(N, C, H, W)`, channels-last if nothing is to be copied.
        weight: `(C', C, 1, 1)`.
        bias: `(C')` or None.

    Returns:
        `(N, C', H, W)`, channels-last, and `x`.
    """
    convolve: Any = _PointwiseBeside.apply
    out, same = convolve(x, *_cast(weight, bias, x.dtype))
    return out, same


class _Pointwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rows = pixel_rows(gradients[0])
        grad_x = _images(rows @ weight.flatten(1), x.shape) if ctx.needs_input_grad[0] else None
        return grad_x, *_parameter_gradients(rows, x, weight, ctx.needs_input_grad)


class _PointwiseBeside(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias), x.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rows, shortcut = pixel_rows(gradients[0]), gradients[1]
        of_parameters = _parameter_gradients(rows, x, weight, ctx.needs_input_grad)
        return _add_product(shortcut, rows, weight.flatten(1)), *of_parameters


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the convolution of `(N, C, H, W)` by a kernel of 1x1, channels-last."""
    count, _, height, width = x.shape
    rows, matrix = pixel_rows(x), weight.flatten(1)
    # The result is not a view, so that a ReLU may overwrite it.
    shape = (count, len(matrix), height, width)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    if bias is None:
        torch.mm(rows, matrix.t(), out=pixel_rows(out))
    else:
        torch.addmm(bias, rows, matrix.t(), out=pixel_rows(out))
    return out


def _parameter_gradients(
    rows: Tensor, x: Tensor, weight: Tensor, needed: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of weight and bias that are needed, of those of x, weight and bias.

    Args:
        rows: The gradient of the output's pixels.
        x: The input.
        weight: The weight.
        needed: For x, weight and bias.
    """
    of_weight = None
    if needed[1] and torch.is_grad_enabled():
        of_weight = (rows.t() @ pixel_rows(x)).view_as(weight)
    elif needed[1]:
        # In the weight's order of memory, which DistributedDataParallel expects.
        of_weight = torch.empty_like(weight)
        torch.mm(rows.t(), pixel_rows(x), out=of_weight.view(len(weight), -1))
    return of_weight, rows.sum(0) if needed[2] else None


def _add_product(x: Tensor, rows: Tensor, matrix: Tensor) -> Tensor:
    """Return `(N, C, H, W)` plus a product that has its rows, in place where that is possible."""
    if torch.is_grad_enabled() or not x.is_contiguous(memory_format=torch.channels_last):
        return x + _images(rows @ matrix, x.shape)
    pixel_rows(x).addmm_(rows, matrix)
    return x


def _images(rows: Tensor, shape: torch.Size) -> Tensor:
    """View rows of pixels as `(N, C, H, W)`."""
    count, channels, height, width = shape
    return rows.view(count, height, width, channels).permute(0, 3, 1, 2)
