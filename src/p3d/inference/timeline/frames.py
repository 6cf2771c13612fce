"""The frames of a video as networks take them, from a file, a folder or memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from p3d.data.clips import check_source
from p3d.data.transforms import eval_transform
from p3d.errors import BadVideoError, UserError
from p3d.inference.arrays import Frames, FramesInMemory
from p3d.inference.timeline.motion import Motion, MotionMaker, Picture, apply
from p3d.inference.timeline.windows import Frame, Pixels
from p3d.preprocessing import MAX_FPS, Preprocessing
from p3d.video.decode import open_video
from p3d.video.sources import ASSUMED_FPS, FrameSource
from p3d.video.stream import FrameStream, stream_file
from p3d.video.suffixes import STILL_SUFFIXES


class TimedFrames:
    """The frames of a video, in order, to be read once.

    Args:
        pictures: The frames.
        gap: Seconds that a single frame is shown.
        height: Their height in pixels.
        width: Their width.
        is_flow: Whether they are optical flow.

    Attributes:
        height: As given.
        width: As given.
        is_flow: As given.
    """

    def __init__(
        self,
        pictures: Iterator[Picture],
        gap: float,
        height: int,
        width: int,
        *,
        is_flow: bool = False,
    ) -> None:
        self._pictures, self._gap = pictures, gap
        self.height, self.width, self.is_flow = height, width, is_flow
        self._last = 0.0

    @property
    def end(self) -> float:
        """Seconds from the first frame to the end of the last one so far.

        That one is taken to be shown as long as the one before it.
        """
        return self._last + self._gap

    def __iter__(self) -> Iterator[Picture]:
        for picture in self._pictures:
            if picture.time > self._last:
                self._gap = picture.time - self._last
                self._last = picture.time
            yield picture

    def describe_faults(self) -> str:
        """Return in words what was wrong with the timestamps; empty if nothing was."""
        return ""


class StreamedFrames(TimedFrames):
    """The frames of a stream.

    Args:
        stream: The stream.
    """

    def __init__(self, stream: FrameStream) -> None:
        pictures = (Picture(time, partial(stream.rgb, frame)) for time, frame in stream)
        super().__init__(pictures, stream.clock.gap, stream.height, stream.width)
        self._clock = stream.clock

    def describe_faults(self) -> str:
        """See `TimedFrames`."""
        return self._clock.describe_faults()


_Step: TypeAlias = "tuple[Picture | None, Picture, Picture | None]"
"""A frame, with the one before it and the one after it."""

_View: TypeAlias = "Callable[[_Step], Tensor | Motion]"
"""Returns what a network takes of a frame."""


def network_frames(
    video: TimedFrames, preps: Sequence[Preprocessing], device: torch.device
) -> Iterator[Frame]:
    """Yield the frames of a video as networks take them.

    Optical flow is that from a frame to the next. So a flow network by itself takes all frames but
    the last; beside a network for pictures, the last flow is repeated.

    Args:
        video: Pictures, or flow if all networks take flow.
        preps: The preprocessing of each network.
        device: Where flow is computed.

    Raises:
        UserError: Flow must be computed by OpenCV, which is not installed.
    """
    computed = [prep.channels == "flow" and not video.is_flow for prep in preps]
    makers = zip(preps, computed, strict=True)
    views = [_view(video, prep, device, computes=each) for prep, each in makers]
    steps = _neighbors(video) if any(computed) else ((None, each, None) for each in video)
    for step in steps:
        before, picture, after = step
        if all(computed) and after is None and before is not None:
            return
        yield Frame(picture.time, partial(_read, views, step))


def _view(
    video: TimedFrames, prep: Preprocessing, device: torch.device, *, computes: bool
) -> _View:
    if computes:
        maker = MotionMaker(video.height, video.width, prep, device)
        return partial(_motion, maker)
    transform = eval_transform(video.height, video.width, prep)
    return lambda step: apply(transform, step[1].pixels)[0]


def _motion(maker: MotionMaker, step: _Step) -> Motion:
    before, picture, after = step
    if after is None:
        return maker.between(before or picture, picture)
    return maker.between(picture, after)


def _read(views: Sequence[_View], step: _Step) -> Pixels:
    return tuple(view(step) for view in views)


def _neighbors(pictures: Iterator[Picture] | TimedFrames) -> Iterator[_Step]:
    before: Picture | None = None
    picture: Picture | None = None
    for after in pictures:
        if picture is not None:
            yield before, picture, after
        before, picture = picture, after
    if picture is not None:
        yield before, picture, None


@contextmanager
def open_frames(
    path: Path, preps: Sequence[Preprocessing], threads: int = 1, fps: float | None = None
) -> Iterator[TimedFrames]:
    """Open a video file or a folder of frames for a `with` block.

    Where networks take optical flow and the video is no flow, `network_frames` computes it.

    Args:
        path: The file or folder.
        preps: The preprocessing of the networks.
        threads: Threads that decode a file.
        fps: Rate of a folder, in frames per second; None for 25. A file has its own times.

    Raises:
        BadVideoError: It cannot be read, or does not hold what the networks take.
    """
    with ExitStack() as stack:
        if not path.name.lower().endswith(STILL_SUFFIXES) and not path.is_dir():
            stream = stack.enter_context(stream_file(path, threads))
            if not stream.is_flow:
                yield StreamedFrames(stream)
                return
        takes_flow = any(prep.channels == "flow" for prep in preps)
        source = open_video(path, prefer_flow=takes_flow, fps=fps)
        yield source_frames(stack.enter_context(source), preps, path)


def source_frames(
    source: FrameSource, preps: Sequence[Preprocessing], path: Path | None
) -> TimedFrames:
    """Return the frames of a source of which any frame can be read.

    Args:
        source: The source.
        preps: The preprocessing of the networks.
        path: Its path; None for frames in memory.

    Raises:
        BadVideoError: It does not hold what the networks take.
    """
    is_flow = source.flow is not None
    for prep in preps:
        if is_flow and len(preps) > 1:
            raise BadVideoError(
                path or "frames in memory",
                "holds optical flow, and a timeline of two networks computes it from the pictures; "
                "give the video, or a folder of its frames alone",
            )
        if is_flow or prep.channels != "flow":
            check_source(path or "frames in memory", source, prep)
    gap = 1 / (source.fps or ASSUMED_FPS)
    return TimedFrames(_read_source(source), gap, source.height, source.width, is_flow=is_flow)


def _read_source(source: FrameSource) -> Iterator[Picture]:
    times = source.times.tolist()
    for numbers, pixels in source.pieces(range(source.num_frames)):
        for row, number in enumerate(numbers):
            yield Picture(times[number], partial(pixels.narrow, 0, row, 1))


def memory_frames(frames: Frames, prep: Preprocessing, fps: float | None) -> TimedFrames:
    """Return frames in memory as a video.

    Args:
        frames: uint8 `(T, H, W, C)`, see `FramesInMemory`.
        prep: The network's preprocessing.
        fps: Their rate in frames per second.

    Raises:
        UserError: They are no frames, or the rate is missing or out of range.
    """
    if fps is None:
        raise UserError("frames in memory have no times; give their rate as fps=")
    check_fps(fps)
    return source_frames(FramesInMemory(frames, prep, fps), [prep], None)


def check_fps(fps: float | None) -> None:
    """Raise UserError if a rate in frames per second is out of range."""
    if fps is not None and not 0 < fps <= MAX_FPS:
        raise UserError(f"fps is {fps:g}; give a rate above 0, at most {MAX_FPS:g}")
