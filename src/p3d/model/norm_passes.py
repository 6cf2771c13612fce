"""What is compiled for `p3d.model.fused_norm`: batch normalization and what follows it.

Activations are `(..., P, Q, C)`: P blocks of Q pixels, which are summed at once and so stay in
the cache. All other tensors are of channels, `(C)`, in float32 or wider, but for factors, `()`. A
normalization is given by weight, bias, running mean, running variance, and `(2)`: momentum and
epsilon; its running statistics are updated. Forward functions return the output, and what the
backward functions take: mean, inverse standard deviation, scale and shift.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _sum(x: Tensor) -> Tensor:
    """Sum over all pixels: first those of a block, then the blocks."""
    return x.sum(-2).flatten(0, -2).sum(0)


def _count(x: Tensor) -> int:
    return x.numel() // x.shape[-1]


def _normalization(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, settings: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return mean, inverse standard deviation, scale and shift; update the running statistics.

    Values are taken relative to the mean of some, since the difference of two large sums would lose
    precision.
    """
    momentum, eps = settings[0], settings[1]
    origin = _wide(x.flatten(0, -3)[0]).mean(0)
    values, count = _wide(x) - origin, _count(x)
    offset = _sum(values) / count
    spread = (_sum(values * values) / count - offset * offset).clamp_min(0)
    center = origin + offset
    mean.lerp_(center, momentum)
    variance.lerp_(spread * (count / (count - 1)), momentum)
    rate = (spread + eps).rsqrt()
    scale = weight * rate
    return center, rate, scale, bias - center * scale


def relu(x: Tensor, *norm: Tensor) -> tuple[Tensor, ...]:
    """Return `relu(norm(x))` and the normalization."""
    center, rate, scale, shift = _normalization(x, *norm)
    return (_wide(x) * scale + shift).relu().to(x.dtype), center, rate, scale, shift


def sum_relu(x: Tensor, addend: Tensor, factor: Tensor, *norm: Tensor) -> tuple[Tensor, ...]:
    """Return `relu(factor * (norm(x) + addend))` and the normalization."""
    center, rate, scale, shift = _normalization(x, *norm)
    out = ((_wide(x) * scale + shift + _wide(addend)) * factor).relu()
    return out.to(x.dtype), center, rate, scale, shift


def max_of_pairs(x: Tensor, *norm: Tensor) -> tuple[Tensor, ...]:
    """Return the larger of the normalized pairs of `(M, 2, P, Q, C)`, and the normalization."""
    center, rate, scale, shift = _normalization(x, *norm)
    first, second = (_wide(x) * scale + shift).unbind(1)
    return torch.maximum(first, second).to(x.dtype), center, rate, scale, shift


def relu_of_sum(x: Tensor, addend: Tensor, factor: Tensor) -> tuple[Tensor, ...]:
    """Return `relu(factor * (x + addend))`."""
    return (((_wide(x) + _wide(addend)) * factor).relu().to(x.dtype),)


def _gradients(
    x: Tensor,
    gradient: Tensor,
    sums: tuple[Tensor, Tensor],
    rate: Tensor,
    scale: Tensor,
    count: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of a normalization's input, weight and bias.

    Args:
        x: Its input, minus its mean.
        gradient: That of its output.
        sums: Of the gradient, and of its product with `x`.
        rate: Inverse standard deviation.
        scale: Its product with the weight.
        count: Pixels.
    """
    level, slope = sums[0] / count, sums[1] * rate * rate / count
    return (gradient - level - x * slope) * scale, sums[1] * rate, sums[0]


def relu_backward(
    x: Tensor, gradient: Tensor, center: Tensor, rate: Tensor, scale: Tensor, shift: Tensor
) -> tuple[Tensor, ...]:
    """Return the gradients of `relu`: those of input, weight and bias."""
    values = _wide(x) - center
    passed = torch.where(_wide(x) * scale + shift > 0, _wide(gradient), 0.0)
    sums = _sum(passed), _sum(passed * values)
    of_x, *of_norm = _gradients(values, passed, sums, rate, scale, _count(x))
    return of_x.to(x.dtype), *of_norm


def sum_relu_backward(
    x: Tensor,
    out: Tensor,
    gradient: Tensor,
    factor: Tensor,
    center: Tensor,
    rate: Tensor,
    scale: Tensor,
) -> tuple[Tensor, ...]:
    """Return the gradients of `sum_relu`: those of addend, input, weight and bias."""
    values = _wide(x) - center
    passed = torch.where(out > 0, _wide(gradient) * factor, 0.0)
    sums = _sum(passed), _sum(passed * values)
    of_x, *of_norm = _gradients(values, passed, sums, rate, scale, _count(x))
    return passed.to(x.dtype), of_x.to(x.dtype), *of_norm


def max_of_pairs_backward(
    x: Tensor, gradient: Tensor, center: Tensor, rate: Tensor, scale: Tensor, shift: Tensor
) -> tuple[Tensor, ...]:
    """Return the gradients of `max_of_pairs`: those of input, weight and bias."""
    first, second = _wide(x).unbind(1)
    is_first = first * scale + shift >= second * scale + shift
    of_first = torch.where(is_first, _wide(gradient), 0.0)
    of_second = _wide(gradient) - of_first
    chosen = torch.where(is_first, first, second) - center
    sums = _sum(_wide(gradient)), _sum(_wide(gradient) * chosen)
    # Each alone, since the compiler makes slow code for values that are stacked before the end.
    parts = [
        _gradients(values - center, passed, sums, rate, scale, _count(x))
        for values, passed in ((first, of_first), (second, of_second))
    ]
    [(of_first, *of_norm), (of_second, *_)] = parts
    return torch.stack([of_first.to(x.dtype), of_second.to(x.dtype)], 1), *of_norm
