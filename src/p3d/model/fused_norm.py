"""Batch normalization and what follows it in training, as compiled code for CPUs.

PyTorch's operations pass over an activation many times: for its statistics, its normalization, a
sum and a ReLU, and as often in the backward pass. Here each direction passes over it twice, once
for the sums over all pixels and once for the values. `torch.compile` makes the code from the
functions below, for any size.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, TypeGuard

import torch
import torch.fx.experimental._config as shape_settings
from torch import Tensor, nn

from p3d.errors import UserError
from p3d.model.modes import trains_eagerly
from p3d.model.views import pixel_rows
from p3d.system.compiler import find_compiler, use_cache

_SMALLEST = 2**20
"""Elements of an activation from which on compiled code is faster, measured on 2 cores."""
_MOST_PIXELS = 64
"""Pixels that are summed at once, so that they stay in the cache."""

Function = Callable[..., tuple[Tensor, ...]]


class FusedNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` that can include what follows it.

    Parameters, buffers, evaluation mode and results are those of `nn.BatchNorm2d`. Values between
    the normalization and the end are not rounded to the activation's dtype.
    """

    def relu(self, x: Tensor, addend: Tensor | None = None, factor: float = 1.0) -> Tensor:
        """Return `relu(factor * (norm(x) + addend))`, channels-last.

        Args:
            x: Float `(N, C, H, W)`.
            addend: Of the same shape, or None.
            factor: A positive number.
        """
        run: Any = _NormRelu.apply
        out: Tensor = run(x, addend, self.weight, self.bias, self._state(), factor)
        return out

    def max_of_pairs(self, x: Tensor) -> Tensor:
        """Return the maximum of the normalized neighbors, `(N/2, C, H, W)`, of `(N, C, H, W)`."""
        run: Any = _NormMax.apply
        out: Tensor = run(x, self.weight, self.bias, self._state())
        return out

    def _state(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the running statistics, and momentum and epsilon; count the batch."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        settings = torch.tensor([self.momentum, self.eps], dtype=self.weight.dtype)
        return self.running_mean, self.running_var, settings


def fuses(norm: nn.Module, x: Tensor) -> TypeGuard[FusedNorm]:
    """Return whether training on `x`, `(N, C, H, W)`, takes compiled code."""
    if not isinstance(norm, FusedNorm) or x.device.type != "cpu" or not trains_eagerly():
        return False
    return x.numel() >= _SMALLEST


def relu_of_sum(x: Tensor, addend: Tensor, factor: float = 1.0) -> Tensor:
    """Return `relu(factor * (x + addend))` of tensors `(N, C, H, W)`, channels-last."""
    run: Any = _SumRelu.apply
    out: Tensor = run(x, addend, factor)
    return out


def fuse_norms(model: nn.Module) -> None:
    """Turn every `nn.BatchNorm2d` of a network into a `FusedNorm`, in place.

    Parameters stay the same objects, which an optimizer may have.

    Raises:
        UserError: The machine has no C++ compiler.
    """
    if find_compiler() is None:
        raise UserError(
            "--compile needs a C++ compiler on a CPU; install g++ or clang, or omit --compile"
        )
    use_cache()
    for norm in model.modules():
        if type(norm) is nn.BatchNorm2d:
            norm.__class__ = FusedNorm


# What is compiled. Activations are `(..., Q, C)`, with Q pixels that are summed at once, and all
# other tensors are of channels, `(C)`.


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


def _relu(x: Tensor, *norm: Tensor) -> tuple[Tensor, ...]:
    center, rate, scale, shift = _normalization(x, *norm)
    return (_wide(x) * scale + shift).relu().to(x.dtype), center, rate, scale, shift


def _sum_relu(x: Tensor, addend: Tensor, factor: Tensor, *norm: Tensor) -> tuple[Tensor, ...]:
    center, rate, scale, shift = _normalization(x, *norm)
    out = ((_wide(x) * scale + shift + _wide(addend)) * factor).relu()
    return out.to(x.dtype), center, rate, scale, shift


def _max(x: Tensor, *norm: Tensor) -> tuple[Tensor, ...]:
    center, rate, scale, shift = _normalization(x, *norm)
    first, second = (_wide(x) * scale + shift).unbind(1)
    return torch.maximum(first, second).to(x.dtype), center, rate, scale, shift


def _plain_sum_relu(x: Tensor, addend: Tensor, factor: Tensor) -> tuple[Tensor, ...]:
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


def _relu_backward(
    x: Tensor, gradient: Tensor, center: Tensor, rate: Tensor, scale: Tensor, shift: Tensor
) -> tuple[Tensor, ...]:
    values = _wide(x) - center
    passed = torch.where(_wide(x) * scale + shift > 0, _wide(gradient), 0.0)
    sums = _sum(passed), _sum(passed * values)
    of_x, *of_norm = _gradients(values, passed, sums, rate, scale, _count(x))
    return of_x.to(x.dtype), *of_norm


def _sum_relu_backward(
    x: Tensor,
    out: Tensor,
    gradient: Tensor,
    factor: Tensor,
    center: Tensor,
    rate: Tensor,
    scale: Tensor,
) -> tuple[Tensor, ...]:
    values = _wide(x) - center
    passed = torch.where(out > 0, _wide(gradient) * factor, 0.0)
    sums = _sum(passed), _sum(passed * values)
    of_x, *of_norm = _gradients(values, passed, sums, rate, scale, _count(x))
    return passed.to(x.dtype), of_x.to(x.dtype), *of_norm


def _max_backward(
    x: Tensor, gradient: Tensor, center: Tensor, rate: Tensor, scale: Tensor, shift: Tensor
) -> tuple[Tensor, ...]:
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


_COMPILED: dict[tuple[Function, torch.dtype], Function] = {}


def _call(function: Function, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Call a function of the above, compiled for tensors of any size."""
    key = function, tensors[0].dtype
    compiled = _COMPILED.get(key)
    # The compiler would make code for the size of each parameter.
    tensors = tuple(tensor.detach() for tensor in tensors)
    if compiled is not None:
        return compiled(*tensors)
    compiled = _COMPILED[key] = torch.compile(function, dynamic=True, fullgraph=True)
    with _distinct_sizes():
        return compiled(*tensors)


def _distinct_sizes() -> AbstractContextManager[None, bool | None]:
    """Return a context in which axes that happen to be equal are not taken to be equal always.

    Older versions of PyTorch lack the setting; they compile once more for such sizes.
    """
    if not hasattr(shape_settings, "use_duck_shape"):
        return nullcontext()
    patch: Any = shape_settings.patch  # type: ignore[attr-defined]
    context: AbstractContextManager[None, bool | None] = patch(use_duck_shape=False)
    return context


@lru_cache
def _block_size(pixels: int) -> int:
    """Return how many pixels to sum at once, a divisor of their number."""
    return next(q for q in range(min(_MOST_PIXELS, pixels), 0, -1) if pixels % q == 0)


def _blocks(x: Tensor) -> Tensor:
    """View `(N, C, H, W)` as `(P, Q, C)`, with Q pixels that are summed at once."""
    return pixel_rows(x).view(-1, _block_size(x.shape[2] * x.shape[3]), x.shape[1])


def _pairs(x: Tensor) -> Tensor:
    """View `(N, C, H, W)` as `(N/2, 2, P, Q, C)`, see `_blocks`."""
    return _blocks(x).view(len(x) // 2, 2, -1, _block_size(x.shape[2] * x.shape[3]), x.shape[1])


def _unblocked(blocks: Tensor, like: Tensor) -> Tensor:
    """View blocks as `(N, C, H, W)`, channels-last, with C, H and W of another tensor."""
    _, channels, height, width = like.shape
    return blocks.view(-1, height, width, channels).permute(0, 3, 1, 2)


class _NormRelu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        addend: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        state: tuple[Tensor, ...],
        factor: float,
    ) -> Tensor:
        ctx.factor = torch.tensor(factor)
        norm = weight, bias, *state
        if addend is None:
            out, *saved = _call(_relu, _blocks(x), *norm)
        else:
            out, *saved = _call(_sum_relu, _blocks(x), _blocks(addend), ctx.factor, *norm)
        out = _unblocked(out, x)
        ctx.save_for_backward(x, *saved, *(() if addend is None else (out,)))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, center, rate, scale, shift, *outs = ctx.saved_tensors
        blocks, gradient, of_addend = _blocks(x), _blocks(gradients[0]), None
        if outs:
            passed, of_x, *of_norm = _call(
                _sum_relu_backward,
                *(blocks, _blocks(outs[0]), gradient),
                *(ctx.factor, center, rate, scale),
            )
            of_addend = _unblocked(passed, x)
        else:
            of_x, *of_norm = _call(_relu_backward, blocks, gradient, center, rate, scale, shift)
        return _unblocked(of_x, x), of_addend, *of_norm, None, None


class _NormMax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, state: tuple[Tensor, ...]
    ) -> Tensor:
        out, *saved = _call(_max, _pairs(x), weight, bias, *state)
        ctx.save_for_backward(x, *saved)
        return _unblocked(out, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        pairs, gradient = _pairs(x), _blocks(gradients[0])
        gradient = gradient.view(len(pairs), *pairs.shape[2:])
        of_x, *of_norm = _call(_max_backward, pairs, gradient, *saved)
        return _unblocked(of_x, x), *of_norm, None


class _SumRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, addend: Tensor, factor: float) -> Tensor:
        [out] = _call(_plain_sum_relu, _blocks(x), _blocks(addend), torch.tensor(factor))
        out = _unblocked(out, x)
        ctx.save_for_backward(out)
        ctx.factor = factor
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        passed = torch.ops.aten.threshold_backward(gradients[0], ctx.saved_tensors[0], 0)
        if ctx.factor != 1:
            passed.mul_(ctx.factor)
        return passed, passed, None
