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

import numpy as np
from numpy.typing import NDArray

BOUND = 20.0
"""Limit of stored motion, in pixels per frame."""

STEP = BOUND / 127
"""Pixels between neighboring bytes."""

PIXEL_FORMAT = "ya8"
_TAG = "P3D_FLOW"


@dataclass(frozen=True)
class FlowInfo:
    """How the flow in a file was computed.

    Attributes:
        short_side: Limit of the frames' shorter side, in pixels.
        source: Height and width of the video, in pixels.
    """

    short_side: int
    source: tuple[int, int]

    def fits(self, short_side: int) -> bool:
        """Return whether the limit `short_side` would have given the same flow."""
        own = min(self.source)
        return min(self.short_side, own) == min(short_side, own)

    def tags(self) -> dict[str, str]:
        """Return this as container metadata."""
        values = {"method": "tvl1", "short_side": self.short_side, "source": self.source}
        return {_TAG: json.dumps(values)}


def read_flow_info(tags: Mapping[str, str]) -> FlowInfo | None:
    """Read container metadata; None for RGB.

    Raises:
        ValueError: The metadata is malformed.
    """
    if _TAG not in tags:
        return None
    try:
        values = json.loads(tags[_TAG])
        height, width = map(int, values["source"])
        return FlowInfo(int(values["short_side"]), (height, width))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"its optical flow metadata is damaged ({error!r})") from error


def quantize(motion: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return motion in pixels, of any shape, as bytes in [1, 255]."""
    levels: NDArray[np.float32] = np.rint(128 + motion / np.float32(STEP))
    return levels.clip(1, 255).astype(np.uint8)


def motion_of(flow: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Undo `quantize`: return motion in pixels, exact to half a `STEP` where below `BOUND`."""
    return (flow.astype(np.float32) - 128) * np.float32(STEP)
