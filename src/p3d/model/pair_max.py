"""Maximum of pairs, with a cheaper backward pass than that of `max_pool2d`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _PairMax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        first, second = x.unbind(1)
        # As numbers, since PyTorch does not vectorize operations that mix bool with another dtype.
        is_first = torch.empty_like(first, memory_format=torch.contiguous_format)
        ctx.save_for_backward(torch.ge(first, second, out=is_first))
        return torch.maximum(first, second)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        [gradient] = gradients
        [is_first] = ctx.saved_tensors
        out = gradient.new_empty((len(gradient), 2, *gradient.shape[1:]))
        torch.mul(gradient, is_first, out=out[:, 0])
        torch.sub(gradient, out[:, 0], out=out[:, 1])
        return out


def max_of_pairs(x: Tensor) -> Tensor:
    """Return the maximum of neighboring pairs, with a gradient.

    `max_pool2d` stores an int64 index per output and clears the gradient before filling it. This
    stores a factor per output and writes the gradient once. As there, the first of two equal values
    gets the gradient.

    Args:
        x: Float `(M, 2, ...)`.

    Returns:
        `(M, ...)`.
    """
    out: Tensor = _PairMax.apply(x)  # type: ignore[no-untyped-call]
    return out
