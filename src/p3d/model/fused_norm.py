"""Batch normalization and what follows it in training, as compiled code for CPUs.

PyTorch's operations pass over an activation many times: for its statistics, its normalization, a
sum and a ReLU, and as often in the backward pass. Here each direction passes over it twice, once
for the sums over all pixels and once for the values. `torch.compile` makes the code from the
functions of `p3d.model.norm_passes`, for any size.
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
from p3d.model import norm_passes as passes
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


_COMPILED: dict[tuple[Function, torch.dtype], Function] = {}


def _call(function: Function, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Call a function of `norm_passes`, compiled for tensors of any size."""
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
            out, *saved = _call(passes.relu, _blocks(x), *norm)
        else:
            out, *saved = _call(passes.sum_relu, _blocks(x), _blocks(addend), ctx.factor, *norm)
        out = _unblocked(out, x)
        ctx.save_for_backward(x, *saved, *(() if addend is None else (out,)))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, center, rate, scale, shift, *outs = ctx.saved_tensors
        blocks, gradient, of_addend = _blocks(x), _blocks(gradients[0]), None
        if outs:
            passed, of_x, *of_norm = _call(
                passes.sum_relu_backward,
                *(blocks, _blocks(outs[0]), gradient),
                *(ctx.factor, center, rate, scale),
            )
            of_addend = _unblocked(passed, x)
        else:
            of_x, *of_norm = _call(
                passes.relu_backward, blocks, gradient, center, rate, scale, shift
            )
        return _unblocked(of_x, x), of_addend, *of_norm, None, None


class _NormMax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, state: tuple[Tensor, ...]
    ) -> Tensor:
        out, *saved = _call(passes.max_of_pairs, _pairs(x), weight, bias, *state)
        ctx.save_for_backward(x, *saved)
        return _unblocked(out, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        pairs, gradient = _pairs(x), _blocks(gradients[0])
        gradient = gradient.view(len(pairs), *pairs.shape[2:])
        of_x, *of_norm = _call(passes.max_of_pairs_backward, pairs, gradient, *saved)
        return _unblocked(of_x, x), *of_norm, None


class _SumRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, addend: Tensor, factor: float) -> Tensor:
        [out] = _call(passes.relu_of_sum, _blocks(x), _blocks(addend), torch.tensor(factor))
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
