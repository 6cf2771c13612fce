"""Optical flow as bytes, and the metadata of flow files.

A frame of flow is uint8 `(H, W, 2)`: the motion along x (right) and y (down) from one video frame
to the next, in pixels of the frames it was computed on. Motion is clipped to 20 px and stored as
`round(128 + 6.35 * motion)`, in [1, 255]. 128 is no motion, and opposite motions are equally far
from it, so that `256 - x` mirrors a clip exactly.

The usual map of [-20, 20] to [0, 255] (Wang et al. 2016, TSN) puts no motion at 127.5, between two
bytes, and has steps of 6.375; the two maps differ by at most one byte.

A flow file is lossless video, FFV1 in Matroska. Every frame is a key frame with two channels, which
FFmpeg calls gray and alpha (`ya8`): x and y.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from p3d.preprocessing import FlowMethod

BOUND = 20.0
"""Limit of stored motion, in pixels per frame."""

STEP = BOUND / 127
"""Pixels between neighboring bytes."""

PIXEL_FORMAT = "ya8"
_TAG = "P3D_FLOW"
_VERSION = 2
"""Version 1 had no number, and only flow by OpenCV's TV-L1, which it called "tvl1"."""

_TVL1 = {
    "tau": 0.25,
    "lambda": 0.15,
    "theta": 0.3,
    "scales": 5,
    "scale_step": 0.8,
    "warps": 5,
    "epsilon": 0.01,
    "outer_iterations": 10,
    "inner_iterations": 30,
    "median": 5,
}
PARAMETERS: dict[FlowMethod, dict[str, Any]] = {
    "tvl1": _TVL1,
    "tvl1-opencv": _TVL1,
    "tvl1-opencl": _TVL1,
    "dis": {"preset": "medium"},
}
"""The parameters of each method, as flow files state them."""


@dataclass(frozen=True)
class FlowInfo:
    """How the flow in a file was computed.

    Attributes:
        short_side: Limit of the frames' shorter side, in pixels.
        source: Height and width of the video, in pixels.
        method: How it was computed; None if another tool did, in a way that its files do not tell.
    """

    short_side: int
    source: tuple[int, int]
    method: FlowMethod | None = "tvl1-opencv"

    def fits(self, short_side: int) -> bool:
        """Return whether the limit `short_side` would have given the same flow."""
        own = min(self.source)
        return min(self.short_side, own) == min(short_side, own)

    def made_by(self, method: FlowMethod) -> bool:
        """Return whether `method` computed the flow, or an unknown tool did."""
        return self.method in (None, method)

    def tags(self) -> dict[str, str]:
        """Return this as container metadata."""
        values: dict[str, Any] = {"version": _VERSION, "method": self.method}
        if self.method is not None:
            values["parameters"] = PARAMETERS[self.method]
        values |= {"short_side": self.short_side, "source": self.source}
        return {_TAG: json.dumps(values)}


def is_flow_file(tags: Mapping[str, str]) -> bool:
    """Return whether container metadata is that of a flow file."""
    return _TAG in tags


def read_flow_info(tags: Mapping[str, str]) -> FlowInfo | None:
    """Read container metadata; None for RGB.

    Raises:
        ValueError: The metadata is malformed.
    """
    if not is_flow_file(tags):
        return None
    try:
        values = json.loads(tags[_TAG])
        height, width = map(int, values["source"])
        return FlowInfo(int(values["short_side"]), (height, width), _method(values))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"its optical flow metadata is damaged ({error!r})") from error


def _method(values: Mapping[str, Any]) -> FlowMethod | None:
    if "version" not in values:
        return "tvl1-opencv"
    method: FlowMethod | None = values["method"]
    if method is None:
        return None
    if method not in get_args(FlowMethod) or values["parameters"] != PARAMETERS[method]:
        raise ValueError(f"flow by {method!r} with parameters of another version of p3d")
    return method


def quantize(motion: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return motion in pixels, of any shape, as bytes in [1, 255]."""
    levels: NDArray[np.float32] = np.rint(128 + motion / np.float32(STEP))
    return levels.clip(1, 255).astype(np.uint8)


def motion_of(flow: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Undo `quantize`: return motion in pixels, exact to half a `STEP` where below `BOUND`."""
    return (flow.astype(np.float32) - 128) * np.float32(STEP)
