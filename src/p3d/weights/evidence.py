"""What a file of the public port was trained for, as far as its tensors betray it.

Such files name neither their wiring nor their pixels. Those that go around are of two kinds: the
authors' Caffe weights, converted (which want the authors' wiring and pixels), and networks trained
in the port. The stem tells them apart: its batch normalisation recorded the variance of the stem's
output, and divided by the squared length of the kernel this estimates the variance of the input. It
is in the thousands for pixels of 0-255 and about one for pixels scaled by ImageNet's deviation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from p3d.model.network import P3DConfig, Wiring
from p3d.preprocessing import Preprocessing

UNIT_FLOW = Preprocessing(channels="flow", mean=(127.5, 127.5), std=(57.63, 57.63))
"""Flow as the public port scales it: 127.5 subtracted, divided by the mean ImageNet deviation."""

_PIXEL_VARIANCE = {"rgb": 60.0, "flow": 1.7}
"""Halfway, in logarithms, between 0-255 input (RGB some 3600, flow some 100) and the same input
divided by 57.6."""

_RELEASED = {400: "Kinetics-400", 487: "Sports-1M"}
"""Class counts of the networks that the authors released, all of them P3D-199."""


def stem_input_variance(state: Mapping[str, Tensor]) -> float:
    """Estimate the variance of the pixels that a network was trained on.

    Args:
        state: Our tensors; the stem's kernel `(64, C, 7, 7)` and its BN are used.

    Returns:
        Median over the stem's filters of output variance over squared kernel length.
    """
    kernel = state["stem.conv.weight"].double().flatten(1)
    length = kernel.square().sum(1).clamp_min(1e-12)
    return float((state["stem.bn.running_var"].double() / length).median())


def judge(
    state: Mapping[str, Tensor], config: P3DConfig, *, port: bool
) -> tuple[Wiring, Literal["authors", "imagenet"], str]:
    """Conclude wiring and preprocessing of tensors that came without a record.

    Args:
        state: Our tensors.
        config: What their keys and shapes say.
        port: Whether they came under the port's names; else they came under ours.

    Returns:
        Wiring, preprocessing, and why, in words.
    """
    variance = stem_input_variance(state)
    kind = "a port file" if port else "a bare p3d state dict"
    seen = f"{kind} whose stem saw an input variance of about {variance:.2g}"
    if variance > _PIXEL_VARIANCE[config.modality]:
        return "author", "authors", f"{seen} (0-255 pixels), as in the authors' converted weights"
    if not port:
        return "author", "imagenet", f"{seen} (unit scale), and the default"
    counters = [value for key, value in state.items() if key.endswith("num_batches_tracked")]
    trained_here = any(int(counter) > 0 for counter in counters)
    released = config.name == "p3d199" and config.num_classes in _RELEASED
    if released and not trained_here:
        return (
            "author",
            "authors",
            f"{seen} (unit scale), but otherwise like the authors' converted "
            f"{_RELEASED[config.num_classes]} network, which decides (override if it is not)",
        )
    return "port", "imagenet", f"{seen} (unit scale), as in networks trained in the port"
