"""Conversion between the public PyTorch port's state dicts and ours.

Both hold the same numbers. In res2 to res4 the port has 5-D kernels, `(O, I, 1, 3, 3)` for S and
`(O, I, 3, 1, 1)` for T, and in res5 4-D ones. Ours are 4-D everywhere, without the port's axis of
length one. Conversion is exact in both directions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from p3d.errors import UserError
from p3d.weights.keys import rename

_PARTS = {
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
_OUR_BLOCK = re.compile(r"res([2-5])\.(\d+)\.(\w+\.\w+)\.(\w+)")


def is_port(state: Mapping[str, object]) -> bool:
    """Return whether these keys are the port's."""
    return "conv1_custom.weight" in state


def _port_key(key: str) -> str:
    if match := _OUR_BLOCK.fullmatch(key):
        stage, index, part, leaf = match.groups()
        names = {ours: port for port, ours in _PARTS.items() if "normal" not in port}
        if stage == "5":
            names |= {"spatial.conv": "conv_normal", "spatial.bn": "bn_normal"}
        return f"layer{int(stage) - 1}.{index}.{names[part]}.{leaf}"
    module, _, leaf = key.rpartition(".")
    return f"{ {ours: port for port, ours in _TOP.items()}[module] }.{leaf}"


def flatten_kernel(key: str, kernel: Tensor) -> Tensor:
    """Remove the axis of length one from a 5-D kernel.

    Args:
        key: Our name of the parameter.
        kernel: `(O, I, T, H, W)`, or `(O, I, H, W)`, which is returned as it is.

    Returns:
        A view, `(O, I, 3, 1)` for a temporal kernel and `(O, I, H, W)` for any other.

    Raises:
        UserError: The axis is longer than one, as in a full 3-D convolution.
    """
    if kernel.dim() != 5:
        return kernel
    axis = 4 if ".temporal." in key else 2
    if kernel.shape[axis] != 1:
        raise UserError(
            f"{key} has a kernel {tuple(kernel.shape)}, which is neither spatial nor temporal; "
            "these are the weights of another 3-D network, give those of a P3D"
        )
    return kernel.squeeze(axis)


def from_port(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the port's tensors under our names and in our shapes, as views.

    Raises:
        UserError: A kernel is not a P3D's.
    """
    return {
        (ours := rename(key, _TOP, _PARTS)): flatten_kernel(ours, value)
        for key, value in state.items()
    }


def to_port(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return our tensors under the port's names and in its shapes: the inverse of `from_port`."""
    ported = {}
    for key, value in state.items():
        if value.dim() == 4 and not key.startswith("res5."):
            value = value.unsqueeze(4 if ".temporal." in key else 2)
        ported[_port_key(key)] = value
    return ported
