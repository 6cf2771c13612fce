"""Methods of optical flow: TV-L1 by PyTorch or OpenCV, and OpenCV's DIS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from p3d.errors import UserError
from p3d.preprocessing import FlowMethod
from p3d.video.tvl1 import TVL1
from p3d.video.tvl1_opencl import OpenCLTVL1

Estimator = Callable[[Tensor, Tensor], Tensor]
"""From pairs of gray frames, uint8 `(N, H, W)`, to motion in pixels, float32 `(N, H, W, 2)`, both
on the CPU. An estimator keeps buffers, which two threads must not share."""

_Gray = NDArray[np.uint8]

_DEVICE_PIXELS = 64 * 320 * 240
_CPU_PIXELS = 320 * 240
"""Pixels of the pairs that a device gets at once. Small operations cost as much as larger ones, but
those of a CPU are to stay in its cache."""


def make_estimator(method: FlowMethod, device: torch.device) -> Estimator:
    """Return an estimator.

    Args:
        method: Its name.
        device: Where "tvl1" computes; "tvl1-opencl" uses the device that OpenCV chooses, the
            others use the CPU.

    Raises:
        UserError: The method needs OpenCV or an OpenCL device, and there is none.
    """
    if method == "tvl1":
        return _in_pytorch(device)
    cv2 = load_opencv()
    if method == "tvl1-opencl":
        return _by_pairs(OpenCLTVL1(cv2))
    if method == "dis":
        return _in_opencv(cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM))
    return _in_opencv(cv2.optflow.DualTVL1OpticalFlow_create())


def pairs_at_once(method: FlowMethod, device: torch.device, pixels: int) -> int:
    """Return how many pairs of frames of so many pixels an estimator should get at once."""
    if method != "tvl1":
        return 1
    return max(1, (_CPU_PIXELS if device.type == "cpu" else _DEVICE_PIXELS) // pixels)


def load_opencv() -> Any:
    """Import OpenCV with its optical flow module.

    Raises:
        UserError: It is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            f"this optical flow needs OpenCV ({error}); install it: pip install 'p3d[flow]'; "
            "the method tvl1 does without"
        ) from error
    if not hasattr(cv2, "optflow"):
        raise UserError(
            "this optical flow needs OpenCV's contrib modules, and the installed OpenCV lacks "
            "them; uninstall it, then: pip install opencv-contrib-python-headless; the method "
            "tvl1 does without"
        )
    return cv2


def to_gray(frames: Tensor) -> Tensor:
    """Return RGB frames, uint8 `(..., 3)`, as gray ones, uint8 `(...)`.

    Weights (BT.601) and rounding are those of OpenCV's `cvtColor`.
    """
    red, green, blue = frames.to(torch.int32).unbind(-1)
    return (red * 9798 + green * 19235 + blue * 3735 + (1 << 14) >> 15).to(torch.uint8)


def _in_pytorch(device: torch.device) -> Estimator:
    method = TVL1()

    def estimate(first: Tensor, second: Tensor) -> Tensor:
        motion = method(first.to(device).float(), second.to(device).float())
        return motion.permute(0, 2, 3, 1).cpu()

    return estimate


def _in_opencv(method: Any) -> Estimator:
    return _by_pairs(lambda first, second: method.calc(first, second, None))


def _by_pairs(compute: Callable[[_Gray, _Gray], NDArray[np.float32]]) -> Estimator:
    def estimate(first: Tensor, second: Tensor) -> Tensor:
        pairs = zip(first.numpy(), second.numpy(), strict=True)
        return torch.stack([torch.from_numpy(compute(*pair)) for pair in pairs])

    return estimate
