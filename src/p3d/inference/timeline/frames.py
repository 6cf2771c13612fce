"""The frames of a video as a network takes them, from a file, a folder or memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from av.video.frame import VideoFrame
from torch import Tensor

from p3d.data.transforms import EvalTransform, eval_transform
from p3d.errors import UserError
from p3d.inference.arrays import Frames, FramesInMemory
from p3d.inference.network_input import network_input
from p3d.inference.timeline.windows import Frame
from p3d.preprocessing import MAX_FPS, Preprocessing
from p3d.video.decode import open_video
from p3d.video.sources import ASSUMED_FPS, FrameSource
from p3d.video.stream import FrameStream, stream_file
from p3d.video.suffixes import STILL_SUFFIXES


class TimedFrames:
    """The frames of a video, in order, to be read once.

    Args:
        frames: The frames.
        gap: Seconds that a single frame is shown.
    """

    def __init__(self, frames: Iterator[Frame], gap: float) -> None:
        self._frames, self._gap = frames, gap
        self._last = 0.0

    @property
    def end(self) -> float:
        """Seconds from the first frame to the end of the last one so far.

        That one is taken to be shown as long as the one before it.
        """
        return self._last + self._gap

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._frames:
            if frame.time > self._last:
                self._gap = frame.time - self._last
                self._last = frame.time
            yield frame

    def describe_faults(self) -> str:
        """Return in words what was wrong with the timestamps; empty if nothing was."""
        return ""


class StreamedFrames(TimedFrames):
    """The frames of a stream.

    Args:
        stream: The stream.
        prep: The network's preprocessing.
    """

    def __init__(self, stream: FrameStream, prep: Preprocessing) -> None:
        transform = eval_transform(stream.height, stream.width, prep)

        def read(frame: VideoFrame) -> Tensor:
            return _apply(transform, stream.rgb(frame))

        frames = (Frame(time, partial(read, frame)) for time, frame in stream)
        super().__init__(frames, stream.clock.gap)
        self._clock = stream.clock

    def describe_faults(self) -> str:
        """See `TimedFrames`."""
        return self._clock.describe_faults()


def _apply(transform: EvalTransform, pixels: Tensor) -> Tensor:
    """Map one frame, uint8 `(1, H, W, C)`, to uint8 `(side, side, C)`."""
    return transform(pixels)[0, 0]


@contextmanager
def open_frames(
    path: Path,
    prep: Preprocessing,
    threads: int = 1,
    fps: float | None = None,
    *,
    device: torch.device,
) -> Iterator[TimedFrames]:
    """Open a video file or a folder of frames for a `with` block.

    A flow network takes files of flow; for other videos it computes the flow of all frames. Memory
    grows with the number of frames where flow is computed or read.

    Args:
        path: The file or folder.
        prep: The network's preprocessing.
        threads: Threads that decode a file.
        fps: Rate of a folder, in frames per second; None for 25. A file has its own times.
        device: Where flow is computed, see `network_input`.

    Raises:
        BadVideoError: It cannot be read.
    """
    is_still = path.name.lower().endswith(STILL_SUFFIXES)
    if prep.channels == "flow" or is_still or path.is_dir():
        with open_video(path, prefer_flow=prep.channels == "flow", fps=fps) as source:
            yield source_frames(source, prep, path, device)
        return
    with stream_file(path, threads) as stream:
        yield StreamedFrames(stream, prep)


def source_frames(
    source: FrameSource, prep: Preprocessing, path: Path | None, device: torch.device
) -> TimedFrames:
    """Return the frames of a source of which any frame can be read.

    Raises:
        BadVideoError: It does not hold what the network takes.
    """
    source = network_input(source, prep, path, device)
    times = source.times.tolist()
    gap = 1 / (source.fps or ASSUMED_FPS)
    return TimedFrames(_read_source(source, times, prep), gap)


def _read_source(source: FrameSource, times: list[float], prep: Preprocessing) -> Iterator[Frame]:
    transform = eval_transform(source.height, source.width, prep)
    for numbers, pixels in source.pieces(range(source.num_frames)):
        for row, number in enumerate(numbers):
            yield Frame(times[number], partial(_apply, transform, pixels[row : row + 1]))


def memory_frames(
    frames: Frames, prep: Preprocessing, fps: float | None, device: torch.device
) -> TimedFrames:
    """Return frames in memory as a video.

    Args:
        frames: uint8 `(T, H, W, C)`, see `FramesInMemory`.
        prep: The network's preprocessing.
        fps: Their rate in frames per second.
        device: Where flow is computed, see `network_input`.

    Raises:
        UserError: They are no frames, or the rate is missing or out of range.
    """
    if fps is None:
        raise UserError("frames in memory have no times; give their rate as fps=")
    check_fps(fps)
    return source_frames(FramesInMemory(frames, prep, fps), prep, None, device)


def check_fps(fps: float | None) -> None:
    """Raise UserError if a rate in frames per second is out of range."""
    if fps is not None and not 0 < fps <= MAX_FPS:
        raise UserError(f"fps is {fps:g}; give a rate above 0, at most {MAX_FPS:g}")
