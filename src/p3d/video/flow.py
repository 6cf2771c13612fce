"""Optical flow computed from frames.

Flow is computed on gray frames by one of the methods of `p3d.video.flow_methods`.
`p3d.video.flow_file` describes how it is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from p3d.preprocessing import FlowMethod
from p3d.video.flow_file import FlowInfo, quantize
from p3d.video.flow_methods import make_estimator, pairs_at_once, to_gray
from p3d.video.geometry import Box, limited_size, resize
from p3d.video.sources import FrameSource, Piece, frames_per_chunk

NO_GRAYS: Mapping[int, Tensor] = MappingProxyType({})


def scaled_gray(frames: Tensor, height: int, width: int) -> Tensor:
    """Return frames as flow is computed from.

    Args:
        frames: RGB, uint8 `(T, H, W, 3)`.
        height: Height in pixels to scale to.
        width: Width.

    Returns:
        uint8 `(T, height, width)`.
    """
    return resize(to_gray(frames).unsqueeze(-1), height, width).squeeze(-1)


class PairFlow:
    """Computes the flow of pairs of gray frames as bytes.

    It keeps buffers, which two threads must not share.

    Args:
        method: How motion is estimated.
        device: Where "tvl1" computes.
        height: Height of the frames in pixels.
        width: Their width.

    Attributes:
        at_once: Pairs that are computed together.

    Raises:
        UserError: The method needs OpenCV or an OpenCL device, and there is none.
    """

    def __init__(self, method: FlowMethod, device: torch.device, height: int, width: int) -> None:
        self._estimate = make_estimator(method, device)
        self.at_once = pairs_at_once(method, device, height * width)

    def __call__(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> NDArray[np.uint8]:
        """Return the flow of pairs.

        Args:
            first: Gray frames, each uint8 `(height, width)`; at least one.
            second: The frames that follow.

        Returns:
            `(N, height, width, 2)`, see `quantize`.
        """
        found = []
        for start in range(0, len(first), self.at_once):
            part = slice(start, start + self.at_once)
            motion = self._estimate(torch.stack([*first[part]]), torch.stack([*second[part]]))
            found.append(quantize(motion.numpy()))
        return np.concatenate(found)


class ComputedFlow(FrameSource):
    """The flow of a video, computed when it is read.

    Frame i is the motion from video frame i to i + 1, so T video frames give T - 1 flow frames; a
    single video frame gives one without motion. Frames whose shorter side exceeds `short_side` are
    first scaled down to it; motion is in pixels of the scaled frames.

    Args:
        video: The RGB video; must stay open while flow is read.
        short_side: Limit of the frames' shorter side, in pixels.
        method: How motion is estimated.
        device: Where "tvl1" computes.
        grays: Frames that were decoded before, see `scaled_gray`, by number.
        each: Iterates over the frame numbers to compute, as `tqdm` does.

    Raises:
        UserError: The method needs OpenCV or an OpenCL device, and there is none.
    """

    def __init__(
        self,
        video: FrameSource,
        short_side: int,
        method: FlowMethod = "tvl1-opencv",
        *,
        device: torch.device | None = None,
        grays: Mapping[int, Tensor] = NO_GRAYS,
        each: Callable[[Sequence[int]], Iterable[int]] = iter,
    ) -> None:
        self._device = device or torch.device("cpu")
        make_estimator(method, self._device)  # raises if it cannot work
        self._method = method
        self._video = video
        self._known = grays
        self._each = each
        self.num_frames = max(1, video.num_frames - 1)
        self.height, self.width = limited_size(video.height, video.width, short_side)
        self.fps = video.fps
        self.knows_fps = video.knows_fps
        self.flow: FlowInfo = FlowInfo(short_side, (video.height, video.width), method)

    @property
    def times(self) -> NDArray[np.float64]:
        """See `FrameSource`: flow has the time of the first of its two frames."""
        return self._video.times[: self.num_frames]

    def pieces(self, frames: Sequence[int], box: Box | None = None) -> Iterator[Piece]:
        """See `FrameSource`."""
        for frame, flow in self._compute(list(frames)):
            yield [frame], torch.from_numpy(box.crop(flow) if box else flow).unsqueeze(0)

    def _compute(self, frames: list[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        compute = PairFlow(self._method, self._device, self.height, self.width)
        pairs = compute.at_once
        step = -(-frames_per_chunk(self._video.height, self._video.width) // pairs) * pairs
        grays: dict[int, Tensor] = {}
        flows = np.empty(0, np.uint8)
        for index, frame in enumerate(self._each(frames)):
            if index % step == 0:
                grays = self._read_grays(frames[index : index + step])
            if index % pairs == 0:
                group = frames[index : index + pairs]
                following = [grays[self._next(number)] for number in group]
                flows = compute([grays[number] for number in group], following)
            yield frame, flows[index % pairs]

    def video_frames(self, flow_frames: Iterable[int]) -> list[int]:
        """Return the video frames from which frames of flow are computed, in order."""
        frames = set(flow_frames)
        return sorted(frames | {self._next(frame) for frame in frames})

    def _next(self, frame: int) -> int:
        return min(frame + 1, self._video.num_frames - 1)

    def _read_grays(self, flow_frames: list[int]) -> dict[int, Tensor]:
        needed = self.video_frames(flow_frames)
        missing = [number for number in needed if number not in self._known]
        grays = {number: self._known[number] for number in needed if number in self._known}
        if missing:
            scaled = scaled_gray(self._video.read(missing), self.height, self.width)
            grays |= zip(missing, scaled, strict=True)
        return grays
