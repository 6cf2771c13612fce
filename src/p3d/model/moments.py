"""Statistics of batch normalization that are known before its convolution, with gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from p3d.model.fused_norm import FusedNorm
from p3d.model.modes import is_on_cpu, trains_eagerly
from p3d.model.views import pixel_rows

_EXPANSION = 4
"""Channels of the output for one of the input, from which on the covariance is cheap."""
_PIXELS = 8
"""Pixels of all frames for a channel of the input, from which on its covariance is small work."""


def foresees_output(conv: nn.Conv2d, bn: nn.Module, x: Tensor) -> bool:
    """Return whether training on `x`, `(N, C, H, W)`, takes `fold_by_input`.

    That is so for expanding 1x1 convolutions. A normalization that follows one reads its output
    three times in each direction, and autograd keeps it; the input has a quarter of the channels.
    Only CPUs take this way, since it was not measured elsewhere, and only a normalization over the
    clips of one process. In bf16 and fp16 the bias would be rounded, which moves the mean of a
    whole channel: by 0.01 standard deviations, and more where the input's mean is large.
    """
    if not is_on_cpu(x) or not trains_eagerly() or type(bn) not in (nn.BatchNorm2d, FusedNorm):
        return False
    if conv.kernel_size != (1, 1) or conv.stride != (1, 1) or conv.bias is not None:
        return False
    if x.dtype not in (torch.float32, torch.float64) or torch.is_autocast_enabled("cpu"):
        return False
    channels, pixels = conv.in_channels, len(x) * x.shape[2] * x.shape[3]
    return conv.out_channels >= _EXPANSION * channels and pixels >= _PIXELS * channels


def fold_by_input(x: Tensor, conv: nn.Conv2d, bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return a convolution's weight and bias with its normalization in training mode, for an input.

    The output Wx of a 1x1 convolution has the mean W mean(x) and the variances diag(W cov(x) W').
    The running statistics are updated.

    Args:
        x: The input, float32 or float64 `(N, C, H, W)`, channels-last if nothing is to be copied.
        conv: A convolution with a kernel of 1x1, stride 1 and no bias.
        bn: Its normalization.

    Returns:
        Weight `(C', C, 1, 1)` and bias `(C')`, with gradients.
    """
    moments: Any = _InputMoments.apply
    center, covariance = moments(x)
    matrix = conv.weight.flatten(1)
    mean = matrix @ center
    variance = ((matrix @ covariance) * matrix).sum(1).clamp_min(0)
    track(bn, mean, variance, x.numel() // x.shape[1])
    scale = bn.weight * (variance + bn.eps).rsqrt()
    return conv.weight * scale.view(-1, 1, 1, 1), bn.bias - mean * scale


class _InputMoments(torch.autograd.Function):
    """Mean `(C)` and covariance `(C, C)` of `(N, C, H, W)`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        rows = pixel_rows(x)
        mean = rows.mean(0)
        covariance = torch.addmm(
            torch.outer(mean, mean), rows.t(), rows, beta=-1, alpha=1 / len(rows)
        )
        ctx.save_for_backward(x, mean)
        return mean, covariance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        rows, (grad_mean, grad_covariance) = pixel_rows(x), gradients
        slope = (grad_covariance + grad_covariance.t()) / len(rows)
        offset = grad_mean / len(rows) - slope @ mean
        out = torch.addmm(offset, rows, slope)
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
