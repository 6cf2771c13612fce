"""The public PyTorch port's parameter names and shapes, and ours.

The two hold the same numbers. The port keeps 5-D kernels in res2-res4 (`(O, I, 1, 3, 3)` for S,
`(O, I, 3, 1, 1)` for T) and 4-D ones in res5; ours are 4-D throughout, and differ from the port's
by an axis of length one. Both directions are exact, so that a trip there and back changes no bit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from p3d.errors import UserError

_PART = {
    "conv1": "reduce.conv",
    "bn1": "reduce.bn",
    "conv2": "spatial.conv",
    "bn2": "spatial.bn",
    "conv_normal": "spatial.conv",
    "bn_normal": "spatial.bn",
    "conv3": "temporal.conv",
    "bn3": "temporal.bn",
    "conv4": "expand.conv",
    "bn4": "expand.bn",
    "downsample.0": "shortcut.conv",
    "downsample.1": "shortcut.bn",
}
_TOP = {"conv1_custom": "stem.conv", "bn1": "stem.bn", "fc": "fc"}
_PORT_BLOCK = re.compile(r"layer([1-4])\.(\d+)\.(.+)\.(\w+)")
_OUR_BLOCK = re.compile(r"res([2-5])\.(\d+)\.(\w+\.\w+)\.(\w+)")


def is_port(state: Mapping[str, object]) -> bool:
    """Whether these keys are the port's."""
    return "conv1_custom.weight" in state


def _our_key(key: str) -> str:
    if match := _PORT_BLOCK.fullmatch(key):
        stage, index, part, leaf = match.groups()
        if part in _PART:
            return f"res{int(stage) + 1}.{index}.{_PART[part]}.{leaf}"
    layer, _, leaf = key.rpartition(".")
    # What the port does not have keeps its name, so that the strict check can report it.
    return f"{_TOP[layer]}.{leaf}" if layer in _TOP else key


def _port_key(key: str) -> str:
    if match := _OUR_BLOCK.fullmatch(key):
        stage, index, part, leaf = match.groups()
        names = {ours: port for port, ours in _PART.items() if "normal" not in port}
        if stage == "5":
            names |= {"spatial.conv": "conv_normal", "spatial.bn": "bn_normal"}
        return f"layer{int(stage) - 1}.{index}.{names[part]}.{leaf}"
    layer, _, leaf = key.rpartition(".")
    return f"{ {ours: port for port, ours in _TOP.items()}[layer] }.{leaf}"


def flatten_kernel(key: str, kernel: Tensor) -> Tensor:
    """Drop the axis of length one that tells a 5-D kernel from ours.

    Args:
        key: Our name of the parameter.
        kernel: `(O, I, T, H, W)`, or `(O, I, H, W)` which is returned as it is.

    Returns:
        `(O, I, 3, 1)` for a temporal kernel, `(O, I, H, W)` for any other: a view.

    Raises:
        UserError: The axis to drop is longer than one, as in a full 3-D convolution.
    """
    if kernel.dim() != 5:
        return kernel
    axis = 4 if ".temporal." in key else 2
    if kernel.shape[axis] != 1:
        raise UserError(
            f"{key} has a kernel {tuple(kernel.shape)}, which is neither spatial nor temporal; "
            "these weights are of another 3-D network, not of a P3D"
        )
    return kernel.squeeze(axis)


def from_port(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The port's tensors under our names and in our shapes (views; nothing is copied).

    Raises:
        UserError: A kernel is no P3D kernel.
    """
    return {(ours := _our_key(key)): flatten_kernel(ours, value) for key, value in state.items()}


def to_port(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under the port's names and in the port's shapes: undoes `from_port`."""
    ported = {}
    for key, value in state.items():
        if value.dim() == 4 and not key.startswith("res5."):
            value = value.unsqueeze(4 if ".temporal." in key else 2)
        ported[_port_key(key)] = value
    return ported
