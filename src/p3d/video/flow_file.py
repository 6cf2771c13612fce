"""Optical flow as bytes, and the note by which a file of flow is known.

A frame of flow is uint8 `(H, W, 2)`: the motion along x (to the right) and along y (down) from one
video frame to the next, in pixels of the frames that it was computed on. Motion is cut off at 20 px
and stored as `round(128 + 6.35 * motion)`, in [1, 255]: 128 is rest, and motion and its opposite
lie at equal distances from it, so that a mirrored clip is an exact one (`256 - x`).

The usual map of [-20, 20] to [0, 255] (Wang et al. 2016, TSN) has its rest at 127.5, between two
bytes, and steps of 6.375; no motion differs by more than one byte between the two.

A file of flow is lossless video, FFV1 in Matroska. Every picture stands for itself and has two
channels, which FFmpeg calls grey and alpha (`ya8`): x and y.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BOUND = 20.0
"""Motion beyond this, in pixels a frame, is stored as this."""

STEP = BOUND / 127
"""Pixels between neighbouring bytes."""

PIXEL_FORMAT = "ya8"
_TAG = "P3D_FLOW"


@dataclass(frozen=True)
class FlowNote:
    """How the flow in a file was computed.

    Attributes:
        short_side: What the frames' shorter side was limited to before, in pixels.
        source: Height and width of the video, in pixels.
    """

    short_side: int
    source: tuple[int, int]

    def fits(self, short_side: int) -> bool:
        """Whether another limit would have given the same."""
        own = min(self.source)
        return min(self.short_side, own) == min(short_side, own)

    def tags(self) -> dict[str, str]:
        """The note as a file's metadata."""
        values = {"method": "tvl1", "short_side": self.short_side, "source": self.source}
        return {_TAG: json.dumps(values)}


def read_note(tags: Mapping[str, str]) -> FlowNote | None:
    """The note in a file's metadata; None where it holds pictures.

    Raises:
        ValueError: There is a note, but not one of ours.
    """
    if _TAG not in tags:
        return None
    try:
        values = json.loads(tags[_TAG])
        height, width = map(int, values["source"])
        return FlowNote(int(values["short_side"]), (height, width))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"its note on optical flow is damaged ({error!r})") from error


def quantise(motion: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Motion in pixels, of any shape, as bytes in [1, 255]."""
    levels: NDArray[np.float32] = np.rint(128 + motion / np.float32(STEP))
    return levels.clip(1, 255).astype(np.uint8)


def motion_of(flow: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Undo `quantise`: motion in pixels, right to half a `STEP` where it is below `BOUND`."""
    return (flow.astype(np.float32) - 128) * np.float32(STEP)
