"""Infer from the tensors of a port file which wiring and which pixels it was trained with.

Port files state neither. Two kinds are in use: the authors' Caffe weights after conversion, which
need the authors' wiring and pixels, and networks trained in the port. The stem distinguishes them:
the running variance of its batch normalization, divided by the squared norm of the kernel, is an
estimate of the input's variance. That is in the thousands for pixels of 0-255 and about one for
pixels divided by ImageNet's deviation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from p3d.model.config import P3DConfig, Wiring
from p3d.preprocessing import Preprocessing

UNIT_FLOW = Preprocessing(channels="flow", mean=(127.5, 127.5), std=(57.63, 57.63))
"""Flow as the public port scales it: minus 127.5, divided by ImageNet's mean deviation."""

_THRESHOLDS = {"rgb": 60.0, "flow": 1.7}
"""Input variance above which pixels count as 0-255: about the geometric mean of the variance of
0-255 pixels (some 3600 for RGB, 100 for flow) and that of the same pixels divided by 57.6."""

_RELEASED = {400: "Kinetics-400", 487: "Sports-1M"}
"""Class counts of the networks that the authors released, all of them P3D-199."""


def stem_input_variance(state: Mapping[str, Tensor]) -> float:
    """Estimate the variance of the pixels that a network was trained on.

    Args:
        state: Tensors under our names, of which the stem's kernel and running variance are used.

    Returns:
        The median over the stem's filters of output variance / squared kernel norm.
    """
    kernel = state["stem.conv.weight"].double().flatten(1)
    length = kernel.square().sum(1).clamp_min(1e-12)
    return float((state["stem.bn.running_var"].double() / length).median())


def infer_origin(
    state: Mapping[str, Tensor], config: P3DConfig, *, port: bool
) -> tuple[Wiring, Literal["authors", "imagenet"], str]:
    """Infer wiring and preprocessing of tensors without metadata.

    Args:
        state: Tensors under our names.
        config: The configuration that follows from their keys and shapes.
        port: Whether the file had the port's names rather than ours.

    Returns:
        Wiring, preprocessing and the reason, a phrase.
    """
    variance = stem_input_variance(state)
    kind = "a port file" if port else "a bare p3d state dict"
    seen = f"{kind} whose stem saw an input variance of about {variance:.2g}"
    if variance > _THRESHOLDS[config.modality]:
        return "author", "authors", f"{seen} (0-255 pixels), as in the authors' converted weights"
    if not port:
        return "author", "imagenet", f"{seen} (unit scale), and the default"
    counters = [value for key, value in state.items() if key.endswith("num_batches_tracked")]
    trained_in_torch = any(counter.item() > 0 for counter in counters)
    released = _RELEASED.get(config.num_classes) if config.name == "p3d199" else None
    if released and not trained_in_torch:
        return (
            "author",
            "authors",
            f"{seen} (unit scale), but otherwise like the authors' converted {released} network, "
            "which takes precedence (override if wrong)",
        )
    return "port", "imagenet", f"{seen} (unit scale), as in networks trained in the port"
