"""Batch normalisation over the clips of all processes.

PyTorch's own SyncBatchNorm does not run on CPUs and asks each accelerator for kernels of its own.
This one needs nothing but a sum over processes, so it runs wherever they can meet, and a process
whose batch is empty takes part like any other.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from p3d.model.network import P3D, ConvBN

_CHANNEL = (1, -1, 1, 1)
_ALL_BUT_CHANNEL = (0, 2, 3)


class SyncNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose statistics in training are those of all processes together.

    Its parameters and buffers, and what it does in evaluation, are those of `nn.BatchNorm2d`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, C, H, W)`, N >= 0, to the same shape."""
        if not self.training or not dist.is_initialized():
            return super().forward(x)
        out: Tensor
        normalise: Any = _Normalise.apply
        out, mean, variance, count = normalise(x, self.weight, self.bias, self.eps)
        self._track(mean, variance, count)
        return out

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        # Nothing is learnt from a batch that is empty on all processes.
        share = self.momentum * (count > 0)
        unbiased = variance * (count / (count - 1).clamp_min(1))
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(unbiased, share)


def _precise(x: Tensor) -> Tensor:
    """The same numbers in float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class _Normalise(torch.autograd.Function):
    """Normalise over all processes; statistics and their gradients in float32 at least."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        values = _precise(x)
        sums = torch.cat(
            [values.sum(_ALL_BUT_CHANNEL), values.new_tensor([values.numel() / values.shape[1]])]
        )
        dist.all_reduce(sums)
        # Nothing here waits for the device: the number of values stays a tensor.
        count = sums[-1]
        divisor = count.clamp_min(1)
        mean = sums[:-1] / divisor
        # In a second pass, as the difference of two large sums would lose digits.
        squares = (values - mean.view(_CHANNEL)).square().sum(_ALL_BUT_CHANNEL)
        dist.all_reduce(squares)
        variance = squares / divisor
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, scale, divisor)
        ctx.mark_non_differentiable(mean, variance, count)
        out = (values - mean.view(_CHANNEL)) * (scale * weight).view(_CHANNEL) + bias.view(_CHANNEL)
        return out.to(x.dtype), mean, variance, count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, scale, divisor = ctx.saved_tensors
        gradient = _precise(gradients[0])
        normal = (_precise(x) - mean.view(_CHANNEL)) * scale.view(_CHANNEL)
        of_bias = gradient.sum(_ALL_BUT_CHANNEL)
        of_weight = (gradient * normal).sum(_ALL_BUT_CHANNEL)
        sums = torch.stack([of_bias, of_weight])
        dist.all_reduce(sums)
        of_mean, of_variance = (sums / divisor).unbind()
        rest = gradient - of_mean.view(_CHANNEL) - normal * of_variance.view(_CHANNEL)
        of_x = rest * (scale * weight).view(_CHANNEL)
        return of_x.to(x.dtype), of_weight, of_bias, None


def synchronize_norms(model: P3D) -> None:
    """Make every batch normalisation of a network one over all processes, in place."""
    for module in model.modules():
        if isinstance(module, ConvBN) and isinstance(module.bn, nn.BatchNorm2d):
            module.bn = _synchronized(module.bn)


def _synchronized(norm: nn.BatchNorm2d) -> SyncNorm:
    assert norm.momentum is not None
    ours = SyncNorm(norm.num_features, norm.eps, norm.momentum)
    ours.load_state_dict(norm.state_dict())
    return ours.to(norm.weight.device)
