"""Optical flow from frames, and whether a video holds what a network takes.

Flow is TV-L1 (Zach, Pock and Bischof 2007) by OpenCV, with its default parameters, on grey frames.
`p3d.video.flow_file` says how it is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from p3d.errors import UserError
from p3d.video.flow_file import FlowNote, quantise
from p3d.video.sources import Box, FrameSource, Piece, gather, limited_size, resize

_PIECE_BYTES = 64 * 2**20
"""What is decoded in one go, at most, while flow is computed."""


def load_opencv() -> Any:
    """OpenCV with its module for optical flow.

    Raises:
        UserError: It is not there.
    """
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            f"optical flow needs OpenCV ({error}); install it: pip install 'p3d[flow]'"
        ) from error
    if not hasattr(cv2, "optflow"):
        raise UserError(
            "optical flow needs OpenCV's contrib modules, which the OpenCV here lacks; uninstall "
            "it, then: pip install opencv-contrib-python-headless"
        )
    return cv2


class ComputedFlow:
    """The flow of a video as a `FrameSource`, computed when it is read.

    Frame i is the motion from video frame i to i + 1, so a video of T frames has T - 1 of flow; a
    lone frame has one, at rest. Frames with a longer shorter side than `short_side` are first
    scaled down to it, and motion is in pixels of the result.

    Args:
        video: The pictures, open for as long as flow is read.
        short_side: Limit of the frames' shorter side, in pixels.
        each: Goes through the numbers of the frames about to be computed, as `tqdm` does.

    Raises:
        UserError: OpenCV is not there.
    """

    def __init__(
        self,
        video: FrameSource,
        short_side: int,
        *,
        each: Callable[[Sequence[int]], Iterable[int]] = iter,
    ) -> None:
        self._cv2 = load_opencv()
        self._video = video
        self._each = each
        self.num_frames = max(1, video.num_frames - 1)
        self.height, self.width = limited_size(video.height, video.width, short_side)
        self.fps = video.fps
        self.flow = FlowNote(short_side, (video.height, video.width))

    def read(self, indices: Sequence[int]) -> Tensor:
        """See `FrameSource`."""
        return gather(self, indices)

    def pieces(self, frames: Sequence[int], box: Box | None = None) -> Iterator[Piece]:
        """See `FrameSource`."""
        for frame, flow in self._compute(list(frames)):
            yield [frame], torch.from_numpy(box.of(flow) if box else flow).unsqueeze(0)

    def _compute(self, wanted: list[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        # Not shared between calls: it keeps its buffers and must not be used by two threads.
        method = self._cv2.optflow.DualTVL1OpticalFlow_create()
        step = max(1, _PIECE_BYTES // (3 * self._video.height * self._video.width))
        greys: dict[int, NDArray[np.uint8]] = {}
        for place, frame in enumerate(self._each(wanted)):
            if place % step == 0:
                greys = self._read_greys(wanted[place : place + step])
            yield frame, quantise(method.calc(greys[frame], greys[self._next(frame)], None))

    def _next(self, frame: int) -> int:
        return min(frame + 1, self._video.num_frames - 1)

    def _read_greys(self, flow_frames: list[int]) -> dict[int, NDArray[np.uint8]]:
        needed = sorted({*flow_frames, *map(self._next, flow_frames)})
        to_grey, code = self._cv2.cvtColor, self._cv2.COLOR_RGB2GRAY
        greys = np.stack([to_grey(rgb, code) for rgb in self._video.read(needed).numpy()])
        scaled = resize(torch.from_numpy(greys).unsqueeze(-1), self.height, self.width)
        return dict(zip(needed, scaled.squeeze(-1).numpy(), strict=True))
