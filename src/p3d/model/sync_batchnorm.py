"""Batch normalization over the clips of all processes.

PyTorch's SyncBatchNorm does not run on CPUs and needs kernels of its own on every accelerator. This
one needs only all-reduce, so it runs on every device that has it. An empty batch is allowed.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from p3d.model.blocks import ConvBN
from p3d.model.moments import track
from p3d.model.network import P3D

_CHANNEL = (1, -1, 1, 1)
_ALL_BUT_CHANNEL = (0, 2, 3)


class SyncNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` that in training computes its statistics over all processes.

    Parameters, buffers and evaluation mode are those of `nn.BatchNorm2d`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize `(N, C, H, W)`, N >= 0."""
        if not self.training or not dist.is_initialized():
            return super().forward(x)
        out: Tensor
        normalize: Any = _Normalize.apply
        out, mean, variance, count = normalize(x, self.weight, self.bias, self.eps)
        track(self, mean, variance, count)
        return out


class _Normalize(torch.autograd.Function):
    """Batch normalization over all processes, with statistics in float32 or wider."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        sums = torch.cat(
            [values.sum(_ALL_BUT_CHANNEL), values.new_tensor([values.numel() / values.shape[1]])]
        )
        dist.all_reduce(sums)
        # The number of values stays a tensor, so that nothing waits for the device.
        count = sums[-1]
        divisor = count.clamp_min(1)
        mean = sums[:-1] / divisor
        # In a second pass, since the difference of two large sums would lose precision.
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
        gradient = gradients[0].to(mean.dtype)
        normal = (x.to(mean.dtype) - mean.view(_CHANNEL)) * scale.view(_CHANNEL)
        grad_bias = gradient.sum(_ALL_BUT_CHANNEL)
        grad_weight = (gradient * normal).sum(_ALL_BUT_CHANNEL)
        sums = torch.stack([grad_bias, grad_weight])
        dist.all_reduce(sums)
        mean_bias, mean_weight = (sums / divisor).unbind()
        rest = gradient - mean_bias.view(_CHANNEL) - normal * mean_weight.view(_CHANNEL)
        grad_x = rest * (scale * weight).view(_CHANNEL)
        return grad_x.to(x.dtype), grad_weight, grad_bias, None


def synchronize_norms(model: P3D) -> None:
    """Replace every batch normalization of a network by a `SyncNorm`, in place."""
    for module in model.modules():
        if isinstance(module, ConvBN) and isinstance(module.bn, nn.BatchNorm2d):
            norm = module.bn
            assert norm.momentum is not None
            module.bn = SyncNorm(norm.num_features, norm.eps, norm.momentum).to(norm.weight.device)
            module.bn.load_state_dict(norm.state_dict())
