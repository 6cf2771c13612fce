"""Optical flow computed from frames.

Flow is TV-L1 (Zach, Pock and Bischof 2007) by OpenCV with its default parameters, on gray frames.
`p3d.video.flow_file` describes how it is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from p3d.errors import UserError
from p3d.video.flow_file import FlowInfo, quantize
from p3d.video.geometry import Box, limited_size, resize
from p3d.video.sources import FrameSource, Piece, frames_per_chunk


def load_opencv() -> Any:
    """Import OpenCV with its optical flow module.

    Raises:
        UserError: It is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            f"optical flow needs OpenCV ({error}); install it: pip install 'p3d[flow]'"
        ) from error
    if not hasattr(cv2, "optflow"):
        raise UserError(
            "optical flow needs OpenCV's contrib modules, and the installed OpenCV lacks them; "
            "uninstall it, then: pip install opencv-contrib-python-headless"
        )
    return cv2


class ComputedFlow(FrameSource):
    """The flow of a video, computed when it is read.

    Frame i is the motion from video frame i to i + 1, so T video frames give T - 1 flow frames; a
    single video frame gives one without motion. Frames whose shorter side exceeds `short_side` are
    first scaled down to it; motion is in pixels of the scaled frames.

    Args:
        video: The RGB video; must stay open while flow is read.
        short_side: Limit of the frames' shorter side, in pixels.
        each: Iterates over the frame numbers to compute, as `tqdm` does.

    Raises:
        UserError: OpenCV is not installed.
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
        self.knows_fps = video.knows_fps
        self.flow: FlowInfo = FlowInfo(short_side, (video.height, video.width))

    @property
    def times(self) -> NDArray[np.float64]:
        """See `FrameSource`: flow has the time of the first of its two frames."""
        return self._video.times[: self.num_frames]

    def pieces(self, frames: Sequence[int], box: Box | None = None) -> Iterator[Piece]:
        """See `FrameSource`."""
        for frame, flow in self._compute(list(frames)):
            yield [frame], torch.from_numpy(box.crop(flow) if box else flow).unsqueeze(0)

    def _compute(self, frames: list[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        # One for each call: it keeps buffers, which two threads must not share.
        method = self._cv2.optflow.DualTVL1OpticalFlow_create()
        step = frames_per_chunk(self._video.height, self._video.width)
        grays: dict[int, NDArray[np.uint8]] = {}
        for index, frame in enumerate(self._each(frames)):
            if index % step == 0:
                grays = self._read_grays(frames[index : index + step])
            yield frame, quantize(method.calc(grays[frame], grays[self._next(frame)], None))

    def _next(self, frame: int) -> int:
        return min(frame + 1, self._video.num_frames - 1)

    def _read_grays(self, flow_frames: list[int]) -> dict[int, NDArray[np.uint8]]:
        needed = sorted({*flow_frames, *map(self._next, flow_frames)})
        to_gray, code = self._cv2.cvtColor, self._cv2.COLOR_RGB2GRAY
        grays = np.stack([to_gray(rgb, code) for rgb in self._video.read(needed).numpy()])
        scaled = resize(torch.from_numpy(grays).unsqueeze(-1), self.height, self.width)
        return dict(zip(needed, scaled.squeeze(-1).numpy(), strict=True))
