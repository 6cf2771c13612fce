"""Optical flow between the frames of a stream, computed once, when a network needs it.

Frames are read in one thread, and flow is computed in that of the network: on its device, and not
at all for windows that are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import torch
from torch import Tensor

from p3d.data.transforms import EvalTransform, eval_transform
from p3d.preprocessing import Preprocessing
from p3d.video.flow import PairFlow, scaled_gray
from p3d.video.geometry import limited_size


class Picture:
    """A frame of a video, which is converted when it is first needed, and once.

    Args:
        time: Its time in seconds from the first frame.
        convert: Returns its pixels, uint8 `(1, H, W, C)`.

    Attributes:
        time: As given.
        gray: The frame as flow is computed from; None before.
        motion: Flow from it to the next frame; None before it is asked for.
    """

    def __init__(self, time: float, convert: Callable[[], Tensor]) -> None:
        self.time, self._convert = time, convert
        self.gray: Tensor | None = None
        self.motion: Motion | None = None

    @cached_property
    def pixels(self) -> Tensor:
        """uint8 `(1, H, W, C)`."""
        return self._convert()


class MotionMaker:
    """Computes the flow of a video as a network takes it.

    Args:
        height: Height of the video's frames in pixels.
        width: Their width.
        prep: The network's preprocessing.
        device: Where the method "tvl1" computes.

    Raises:
        UserError: The method needs OpenCV or an OpenCL device, and there is none.
    """

    def __init__(self, height: int, width: int, prep: Preprocessing, device: torch.device) -> None:
        self._size = limited_size(height, width, prep.flow_short_side)
        self._compute = PairFlow(prep.flow_method, device, *self._size)
        self._transform = eval_transform(*self._size, prep)

    def between(self, first: Picture, second: Picture) -> Motion:
        """Return the motion from one picture to the next, which is computed later."""
        if first.motion is None:
            first.motion = Motion(self, self._gray(first), self._gray(second))
        return first.motion

    def _gray(self, picture: Picture) -> Tensor:
        if picture.gray is None:
            (picture.gray,) = scaled_gray(picture.pixels, *self._size)
        return picture.gray

    def compute(self, motions: Sequence[Motion]) -> None:
        """Compute motions of this video that are not computed yet."""
        flows = self._compute([each.first for each in motions], [each.second for each in motions])
        taken = apply(self._transform, torch.from_numpy(flows))
        for motion, pixels in zip(motions, taken, strict=True):
            motion.pixels = pixels


@dataclass(eq=False)
class Motion:
    """The flow from one frame to the next.

    Attributes:
        maker: What computes it.
        first: The frame, gray, uint8 `(height, width)`.
        second: The next one.
        pixels: Flow as the network takes it, uint8 `(side, side, 2)`; None before `read_clips`.
    """

    maker: MotionMaker
    first: Tensor
    second: Tensor
    pixels: Tensor | None = None


def apply(transform: EvalTransform, frames: Tensor) -> Tensor:
    """Map frames, uint8 `(T, H, W, C)`, to those that a network takes, `(T, side, side, C)`."""
    return transform(frames)[:, 0]


def read_clips(clips: Iterable[Sequence[Tensor | Motion]]) -> Tensor:
    """Return clips as one batch; flow is computed where it is not yet.

    Args:
        clips: The frames of each, uint8 `(side, side, C)`.

    Returns:
        uint8 `(N, T, side, side, C)`.
    """
    clips = list(clips)
    waiting: dict[MotionMaker, dict[Motion, None]] = {}  # each once, in order
    for frame in chain.from_iterable(clips):
        if isinstance(frame, Motion) and frame.pixels is None:
            waiting.setdefault(frame.maker, {})[frame] = None
    for maker, motions in waiting.items():
        maker.compute(list(motions))
    return torch.stack([torch.stack([_pixels(frame) for frame in clip]) for clip in clips])


def _pixels(frame: Tensor | Motion) -> Tensor:
    if isinstance(frame, Tensor):
        return frame
    assert frame.pixels is not None, "it was computed above"
    return frame.pixels
