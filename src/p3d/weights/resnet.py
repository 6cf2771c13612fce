"""Initialization of P3D from 2-D ImageNet ResNets (Qiu et al. 2017, sec. 4.1).

2-D kernels become spatial kernels unchanged. The temporal convolutions T are initialized so that
the network starts as the 2-D network: on a clip of one repeated frame both compute the same
features. T starts as the identity where it is in series with S (A in both wirings; C in "author",
where `0.5 s + 0.5 s = s`). It starts as zero where it is added to S (B in both wirings, C in
"port"), in a form that can learn.

Features are equal only for a 2-D network that strides as P3D does, in the first 1x1 convolution of
res3 to res5 (as the first Caffe ResNets), and pools in its stem as the wiring does. torchvision's
and timm's ResNets stride in the 3x3 convolution ("ResNet v1.5"). Their weights are the usual start,
but the features are then similar, not equal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import cycle

import torch
from torch import Tensor

from p3d.model.config import CHANNELS
from p3d.weights.keys import add_counters, block_counts, check_fit, config_from, rename
from p3d.weights.metadata import skeleton

_BN_EPS = 1e-5
_DIFFERENCE = 2.0**-6
"""Scale of the second difference in the port's B and C. A power of two makes its taps sum to zero
exactly."""

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
    """Return whether these are a 2-D bottleneck ResNet's keys (torchvision's or timm's)."""
    stem = state.get("conv1.weight")
    return stem is not None and stem.dim() == 4 and "layer1.0.conv3.weight" in state


def _rectified_moments(norm: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return each channel's mean and variance after BN and ReLU, for a Gaussian input of the BN."""
    mean = norm["bias"]
    sigma = norm["weight"].abs().clamp_min(1e-12)
    ratio = mean / sigma
    density = torch.exp(-(ratio**2) / 2) / math.sqrt(2 * math.pi)
    positive = (1 + torch.erf(ratio / math.sqrt(2))) / 2
    first = mean * positive + sigma * density
    second = (mean**2 + sigma**2) * positive + mean * sigma * density
    return first, (second - first**2).clamp_min(0)


def _identity_norm(mean: Tensor, variance: Tensor) -> dict[str, Tensor]:
    """Return a BN that passes on its input unchanged, with its input's statistics.

    Weight and bias could undo any running statistics. With the input's own, BN is the identity in
    training too, where it uses the batch's statistics. For a branch of zeros (variance 0) the
    weight is sqrt(eps): a frozen BN then passes gradients unscaled, so that T learns, and a trained
    one does not amplify the first small update to unit variance. (A weight of 0 would never learn
    when frozen, and one of 1 would amplify.)
    """
    return {
        "weight": (variance + _BN_EPS).sqrt(),
        "bias": mean.clone(),
        "running_mean": mean.clone(),
        "running_var": variance.clone(),
        "num_batches_tracked": torch.tensor(0),
    }


def _initial_taps(kind: str, wiring: str) -> tuple[float, float, float]:
    """Return the three taps with which T starts in every channel.

    In the port's B and C, a ReLU follows T before the sum. At zero it passes no gradients, so a
    kernel of zeros would never learn. T's input is not negative, so a small second difference in
    time is zero or less where frames repeat (less at the ends of the clip, because of padding): the
    ReLU maps it to zero there, and passes gradients where something moves.
    """
    if kind == "A" or (kind == "C" and wiring == "author"):
        return 0.0, 1.0, 0.0
    return (0.0, 0.0, 0.0) if wiring == "author" else (_DIFFERENCE, -2 * _DIFFERENCE, _DIFFERENCE)


def _temporal(spatial: dict[str, Tensor], kind: str, wiring: str) -> dict[str, Tensor]:
    """Return T and its BN for a block in which S has the BN `spatial`."""
    channels = len(spatial["weight"])
    taps = _initial_taps(kind, wiring)
    kernel = spatial["weight"].new_zeros(channels, channels, 3, 1)
    kernel[range(channels), range(channels), :, 0] = kernel.new_tensor(taps)
    mean, variance = torch.zeros_like(spatial["bias"]), torch.zeros_like(spatial["bias"])
    if taps == (0.0, 1.0, 0.0):
        mean, variance = _rectified_moments(spatial)
    norm = _identity_norm(mean, variance)
    return {"temporal.conv.weight": kernel} | {f"temporal.bn.{leaf}": norm[leaf] for leaf in norm}


def _kinds(variant: str, blocks: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    """Yield `("res2.0", "A")` and so on, for all blocks that have a T."""
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
    """Convert a 2-D ResNet-50, -101 or -152 to a P3D-63, -131 or -199 (see the module's docstring).

    For flow, the stem's kernel is averaged over the colors and repeated for x and y without scaling
    (the usual cross-modality start). Its BN, which every recipe trains, adapts to the scale.

    Args:
        state: The 2-D network's tensors, including its classifier `fc`, which is kept.
        wiring: Wiring of the P3D, "author" or "port".
        variant: Its kinds of block: "ABC", "A", "B", "C" or "2d" (no T).
        modality: "rgb" or "flow".

    Returns:
        Tensors under our names, in their original dtype.

    Raises:
        UserError: The tensors are not those of one of the three networks.
    """
    ours = {rename(key, _TOP, _PARTS): value for key, value in state.items()}
    # The 2-D network has the shapes of a P3D without T.
    config = config_from(ours, wiring=wiring, variant="2d")
    check_fit(skeleton(config), add_counters(ours))
    if modality == "flow":
        stem = ours["stem.conv.weight"]
        ours["stem.conv.weight"] = stem.mean(1, keepdim=True).repeat(1, CHANNELS["flow"], 1, 1)
    for block, kind in _kinds(variant, block_counts(ours)):
        norm = {leaf: ours[f"{block}.spatial.bn.{leaf}"] for leaf in ("weight", "bias")}
        for name, value in _temporal(norm, kind, wiring).items():
            ours[f"{block}.{name}"] = value
    return ours
