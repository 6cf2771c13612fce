"""A plain P3D: `nn.Conv3d` over `(N, C, T, H, W)`, as a reference for tests and benchmarks.

It follows the published layer tables without views, folding or in-place operations, and names its
parameters as the public PyTorch port does. Tests compare `p3d.model.network` and the reading of
port files with it; `p3d bench` measures against it.
"""

from __future__ import annotations

from itertools import cycle

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from p3d.model.config import BLOCKS, CHANNELS, EXPANSION, FEATURES, PLANES, P3DConfig


def _conv(
    in_channels: int, out_channels: int, kernel: tuple[int, int, int], stride: int = 1
) -> nn.Conv3d:
    """Return a convolution of spatial stride `stride`, padded to keep the size otherwise."""
    strides, padding = (1, stride, stride), tuple(k // 2 for k in kernel)
    return nn.Conv3d(in_channels, out_channels, kernel, strides, padding, bias=False)  # type: ignore[arg-type]


class _Block(nn.Module):
    """A bottleneck around 1x3x3 and 3x1x1 (kinds A, B, C) or around 1x3x3 alone ("2d")."""

    def __init__(
        self, in_channels: int, planes: int, stride: int, kind: str, wiring: str, res5: bool
    ) -> None:
        super().__init__()
        self.kind, self.wiring, self.res5 = kind, wiring, res5
        self.conv1 = _conv(in_channels, planes, (1, 1, 1), stride)
        self.bn1 = nn.BatchNorm3d(planes)
        spatial, spatial_bn = _conv(planes, planes, (1, 3, 3)), nn.BatchNorm3d(planes)
        if res5:
            self.conv_normal, self.bn_normal = spatial, spatial_bn
        else:
            self.conv2, self.bn2 = spatial, spatial_bn
        if kind != "2d":
            self.conv3 = _conv(planes, planes, (3, 1, 1))
            self.bn3 = nn.BatchNorm3d(planes)
        self.conv4 = _conv(planes, planes * EXPANSION, (1, 1, 1))
        self.bn4 = nn.BatchNorm3d(planes * EXPANSION)
        self.downsample: nn.Sequential | None = None

    def _spatial(self, x: Tensor) -> Tensor:
        if self.res5:
            return F.relu(self.bn_normal(self.conv_normal(x)))
        return F.relu(self.bn2(self.conv2(x)))

    def _temporal(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn3(self.conv3(x))
        return out

    def _middle(self, x: Tensor) -> Tensor:
        s = self._spatial(x)
        if self.kind == "2d":
            return s
        if self.kind == "A":
            return F.relu(self._temporal(s))
        t = self._temporal(x if self.kind == "B" else s)
        if self.wiring == "port":
            return s + F.relu(t)
        return F.relu(s + t) if self.kind == "B" else F.relu(0.5 * s + 0.5 * t)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        middle = self._middle(F.relu(self.bn1(self.conv1(x))))
        return F.relu(self.bn4(self.conv4(middle)) + shortcut)


class PlainP3D(nn.Module):
    """The network that a `P3DConfig` describes."""

    def __init__(self, config: P3DConfig) -> None:
        super().__init__()
        self.config = config
        self.conv1_custom = _conv(CHANNELS[config.modality], PLANES[0], (1, 7, 7), 2)
        self.bn1 = nn.BatchNorm3d(PLANES[0])
        kinds = cycle([config.variant] if config.variant == "2d" else config.variant)
        width = PLANES[0]
        for stage, (planes, depth) in enumerate(zip(PLANES, BLOCKS[config.name], strict=True)):
            blocks = []
            for i in range(depth):
                res5 = stage == 3
                kind = "2d" if res5 else next(kinds)
                stride = 2 if i == 0 and stage > 0 else 1
                block = _Block(width, planes, stride, kind, config.wiring, res5)
                if i == 0:
                    block.downsample = nn.Sequential(
                        _conv(width, planes * EXPANSION, (1, 1, 1), stride),
                        nn.BatchNorm3d(planes * EXPANSION),
                    )
                blocks.append(block)
                width = planes * EXPANSION
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.dropout = nn.Dropout(config.dropout)
        self.fc = nn.Linear(FEATURES, config.num_classes)

    def _pool(self, x: Tensor, space: int) -> Tensor:
        """Max-pool over two frames (or a single one) and `space` x `space` pixels."""
        kernel = (min(2, x.shape[2]), space, space)
        stride = (kernel[0], min(2, space), min(2, space))
        if self.config.wiring == "author":
            return F.max_pool3d(x, kernel, stride, ceil_mode=True)
        return F.max_pool3d(x, kernel, stride, (0, space // 2, space // 2))

    def forward(self, clips: Tensor) -> Tensor:
        """Map clips, float `(N, C, T, H, W)`, to logits `(N, num_classes)`."""
        x = self._pool(F.relu(self.bn1(self.conv1_custom(clips))), 3)
        for stage in (1, 2, 3, 4):
            x = getattr(self, f"layer{stage}")(x)
            x = x if stage == 4 else self._pool(x, 1)
        pooled = F.adaptive_avg_pool3d(x, 1).flatten(1)
        logits: Tensor = self.fc(self.dropout(pooled))
        return logits


def plain_twin(config: P3DConfig) -> PlainP3D:
    """Return a plain network with random, non-trivial values in all weights and statistics."""
    generator = torch.Generator().manual_seed(0)
    net = PlainP3D(config)
    for name, tensor in net.state_dict().items():
        if tensor.dim() > 1:
            fan_in = tensor[0].numel()
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * (2 / fan_in) ** 0.5)
        elif name.endswith("running_var"):
            tensor.copy_(1 + 0.2 * torch.rand(tensor.shape, generator=generator))
        elif name.endswith(("bias", "running_mean")):
            tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
        elif name.endswith("weight"):
            gain = 0.3 if ".bn4." in name or "downsample" in name else 1.0
            tensor.copy_(gain * (1 + 0.1 * torch.randn(tensor.shape, generator=generator)))
    return net
