"""2-D ImageNet ResNets as a start for P3D (Qiu et al. 2017, sec. 4.1).

A 2-D kernel is a spatial one already, so that it is taken as it is. What remains is to choose the
temporal convolutions T so that the network starts as the 2-D network: on a clip of one repeated
frame both compute the same features. Where T lies in the path (A in both wirings, C in "author",
where `0.5 s + 0.5 s = s`) it starts as the identity; where it is added (B in both wirings, C in
"port") it starts as zero, in such a way that it can learn.

That holds against a 2-D network that strides as P3D does: in the first 1x1 convolution of res3-res5
(as the first Caffe ResNets did) and with the wiring's pooling in the stem. torchvision's and timm's
ResNets stride in the 3x3 convolution instead ("ResNet v1.5"): their weights fit, and are the usual
start, but the features are then close in kind, not equal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import cycle

import torch
from torch import Tensor

from p3d.errors import UserError
from p3d.model.network import CHANNELS
from p3d.weights.keys import block_counts

_BN_EPS = 1e-5
_MOTION = 2.0**-6
"""Size of the second difference in the port's B and C; a power of two, so that it sums to zero."""

_PARTS = {
    "conv1": "reduce.conv",
    "bn1": "reduce.bn",
    "conv2": "spatial.conv",
    "bn2": "spatial.bn",
    "conv3": "expand.conv",
    "bn3": "expand.bn",
    "downsample.0": "shortcut.conv",
    "downsample.1": "shortcut.bn",
}
_TOP = {"conv1": "stem.conv", "bn1": "stem.bn", "fc": "fc"}


def is_resnet(state: Mapping[str, Tensor]) -> bool:
    """Whether these tensors are a 2-D bottleneck ResNet's (torchvision's or timm's names)."""
    stem = state.get("conv1.weight")
    return stem is not None and stem.dim() == 4 and "layer1.0.conv3.weight" in state


def _our_key(key: str) -> str:
    layer, _, leaf = key.rpartition(".")
    if layer in _TOP:
        return f"{_TOP[layer]}.{leaf}"
    stage, _, rest = layer.partition(".")
    index, _, part = rest.partition(".")
    if stage in ("layer1", "layer2", "layer3", "layer4") and part in _PARTS:
        return f"res{int(stage[-1]) + 1}.{index}.{_PARTS[part]}.{leaf}"
    return key


def _rectified_moments(norm: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and variance of `relu(z)` a channel, z being Gaussian as its BN makes it."""
    mean = norm["bias"]
    sigma = norm["weight"].abs().clamp_min(1e-12)
    ratio = mean / sigma
    density = torch.exp(-(ratio**2) / 2) / math.sqrt(2 * math.pi)
    share = (1 + torch.erf(ratio / math.sqrt(2))) / 2
    first = mean * share + sigma * density
    second = (mean**2 + sigma**2) * share + mean * sigma * density
    return first, (second - first**2).clamp_min(0)


def _transparent_norm(mean: Tensor, variance: Tensor) -> dict[str, Tensor]:
    """A BN that passes its input unchanged, with the statistics that this input has.

    Any running statistics can be undone by weight and bias. The true ones make the BN transparent
    in training too, where it uses the batch's statistics. For a branch that is zero (variance 0) it
    follows that weight = sqrt(eps): a frozen BN passes gradients unscaled, so that the kernel
    learns, and a trained one does not blow the first small step up to unit variance. (A BN weight
    of zero could never learn once frozen; one of 1 would be blown up.)
    """
    return {
        "weight": (variance + _BN_EPS).sqrt(),
        "bias": mean.clone(),
        "running_mean": mean.clone(),
        "running_var": variance.clone(),
        "num_batches_tracked": torch.tensor(0),
    }


def _start(kind: str, wiring: str) -> tuple[float, float, float]:
    """The three taps with which T starts, each channel on its own.

    In the port's B and C a ReLU stands between T and the sum. At zero it passes no gradient, so
    that a kernel of zeros would stay there for good. Its input is never negative: a small second
    difference in time is zero or less wherever frames repeat (less at the clip's ends, beyond which
    there are zeros), which ReLU makes zero, and lets gradients pass where something moves.
    """
    if kind == "A" or (kind == "C" and wiring == "author"):
        return 0.0, 1.0, 0.0
    return (0.0, 0.0, 0.0) if wiring == "author" else (_MOTION, -2 * _MOTION, _MOTION)


def _temporal(spatial: dict[str, Tensor], kind: str, wiring: str) -> dict[str, Tensor]:
    """T and its BN for a block whose spatial convolution has the BN `spatial`."""
    channels = len(spatial["weight"])
    taps = _start(kind, wiring)
    kernel = spatial["weight"].new_zeros(channels, channels, 3, 1)
    kernel[range(channels), range(channels), :, 0] = kernel.new_tensor(taps)
    mean, variance = torch.zeros_like(spatial["bias"]), torch.zeros_like(spatial["bias"])
    if taps == (0.0, 1.0, 0.0):
        mean, variance = _rectified_moments(spatial)
    norm = _transparent_norm(mean, variance)
    return {"temporal.conv.weight": kernel} | {f"temporal.bn.{leaf}": norm[leaf] for leaf in norm}


def _kinds(variant: str, blocks: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    """`("res2.0", "A")` and so on, for all blocks that have a T."""
    if variant == "2d":
        return
    kinds = cycle(variant)
    for stage, count in zip((2, 3, 4), blocks[:3], strict=True):
        for index in range(count):
            yield f"res{stage}.{index}", next(kinds)


def inflate(
    state: Mapping[str, Tensor],
    *,
    wiring: str = "author",
    variant: str = "ABC",
    modality: str = "rgb",
) -> dict[str, Tensor]:
    """Turn a 2-D ResNet-50, -101 or -152 into a P3D-63, -131 or -199 that starts as its equal.

    For flow, the stem's kernel is averaged over the colours and repeated for x and y, unscaled (the
    usual cross-modality start); its BN, the one that every recipe trains, settles the scale.

    Args:
        state: The 2-D network's tensors, its `fc` included (which is passed on).
        wiring: Wiring of the P3D, "author" or "port"; it decides how B and C start.
        variant: "ABC", "A", "B", "C" or "2d" (no T at all: the 2-D network over clips).
        modality: "rgb" or "flow".

    Returns:
        Our tensors, in the dtype of the given ones.

    Raises:
        UserError: The depth is not one of the three, or a block is not a plain bottleneck.
    """
    ours = {_our_key(key): value for key, value in state.items()}
    if modality == "flow":
        stem = ours["stem.conv.weight"]
        ours["stem.conv.weight"] = stem.mean(1, keepdim=True).repeat(1, CHANNELS["flow"], 1, 1)
    for block, kind in _kinds(variant, block_counts(ours)):
        norm = {
            leaf: value
            for leaf in ("weight", "bias")
            if (value := ours.get(f"{block}.spatial.bn.{leaf}")) is not None
        }
        if len(norm) != 2:
            raise UserError(f"{block} has no second batch normalisation; give a bottleneck ResNet")
        for name, value in _temporal(norm, kind, wiring).items():
            ours[f"{block}.{name}"] = value
    return ours
