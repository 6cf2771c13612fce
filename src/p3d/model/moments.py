"""Statistics of batch normalization that are known before its convolution, with gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from p3d.model.modes import is_on_cpu, trains_eagerly

_EXPANSION = 4
"""Channels of the output for one of the input, from which on the covariance is cheap."""
_PIXELS = 8
"""Pixels of all frames for a channel of the input, from which on its covariance is small work."""


def foresees_output(conv: nn.Conv2d, bn: nn.Module, x: Tensor) -> bool:
    """Return whether training on `x`, `(N, C, H, W)`, takes `output_moments`.

    That is so for expanding 1x1 convolutions. A normalization that follows one reads its output
    three times in each direction, and autograd keeps it; the input has a quarter of the channels.
    Only CPUs take this way, since it was not measured elsewhere, and only a normalization over the
    clips of one process.
    """
    if not is_on_cpu(x) or not trains_eagerly() or type(bn) is not nn.BatchNorm2d:
        return False
    if conv.kernel_size != (1, 1) or conv.stride != (1, 1) or conv.bias is not None:
        return False
    channels, pixels = conv.in_channels, len(x) * x.shape[2] * x.shape[3]
    return conv.out_channels >= _EXPANSION * channels and pixels >= _PIXELS * channels


def output_moments(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of a 1x1 convolution's output without computing the output.

    The output Wx has the mean W mean(x) and the variances diag(W cov(x) W').

    Args:
        x: The input, `(N, C, H, W)`, channels-last if nothing is to be copied.
        weight: W, `(C', C, 1, 1)`.

    Returns:
        Mean and (biased) variance over N, H and W, each `(C')`, in float32 or wider.
    """
    with torch.autocast("cpu", enabled=False):
        moments: Any = _InputMoments.apply
        mean, covariance = moments(x)
        matrix = weight.flatten(1).to(mean.dtype)
        return matrix @ mean, ((matrix @ covariance) * matrix).sum(1).clamp_min(0)


class _InputMoments(torch.autograd.Function):
    """Mean `(C)` and covariance `(C, C)` of `(N, C, H, W)`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        rows = _rows(x).to(_precise(x.dtype))
        mean = rows.mean(0)
        covariance = torch.addmm(
            torch.outer(mean, mean), rows.t(), rows, beta=-1, alpha=1 / len(rows)
        )
        ctx.save_for_backward(x, mean)
        return mean, covariance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        rows, (grad_mean, grad_covariance) = _rows(x), gradients
        slope = (grad_covariance + grad_covariance.t()) / len(rows)
        offset = grad_mean / len(rows) - slope @ mean
        out = torch.addmm(offset.to(x.dtype), rows, slope.to(x.dtype))
        return out.view(len(x), *x.shape[2:], -1).permute(0, 3, 1, 2)


@torch.no_grad()
def track(bn: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: Tensor | int) -> None:
    """Update running statistics as `nn.BatchNorm2d` does.

    Args:
        bn: The normalization.
        mean: Mean of the batch, `(C)`.
        variance: Its (biased) variance, `(C)`.
        count: Number of values of a channel. 0 changes nothing.
    """
    assert bn.running_mean is not None
    assert bn.running_var is not None
    assert bn.num_batches_tracked is not None
    assert bn.momentum is not None
    bn.num_batches_tracked.add_(1)
    # As a tensor, so that nothing waits for the device.
    count = torch.as_tensor(count, dtype=mean.dtype, device=mean.device)
    momentum = bn.momentum * count.clamp_max(1)
    unbiased = variance * (count / (count - 1).clamp_min(1))
    bn.running_mean.lerp_(mean, momentum)
    bn.running_var.lerp_(unbiased, momentum)


def _rows(x: Tensor) -> Tensor:
    """Return `(N, C, H, W)` as a matrix `(N*H*W, C)`, a view if it is channels-last."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def _precise(dtype: torch.dtype) -> torch.dtype:
    """Return float32, or the dtype if it is wider."""
    return torch.promote_types(dtype, torch.float32)
