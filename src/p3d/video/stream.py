"""Frames of a video one after another, each decoded once, in memory that does not grow.

Unlike `VideoFile`, a stream needs no index of the whole file, so that it can also be a camera. Its
frames are those of a plain decode, from the first to the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from torch import Tensor

from p3d.errors import BadVideoError
from p3d.system.text import counted
from p3d.video.display_matrix import display_matrix
from p3d.video.flow_file import is_flow_file
from p3d.video.geometry import Box
from p3d.video.packets import check_size, decode, demux, open_stream
from p3d.video.rgb import RgbConverter
from p3d.video.sources import ASSUMED_FPS
from p3d.video.video_file import check_file, missing_file

MAX_GAP = 600.0
"""Longest time in seconds that a frame is shown."""

_MICROSECONDS = 1_000_000


class Clock:
    """Turns timestamps of frames into seconds from the first frame, which never go back.

    * A frame without a timestamp follows the one before at the average rate.
    * Where timestamps go back, the clock goes on: that frame comes as long after the one before as
      that one did, and later timestamps count from there.
    * It goes on likewise where they jump ahead by more than ten minutes.
    * Frames of the same timestamp are shown at the same time, the last of them for longer.

    Args:
        time_base: Seconds of a tick.
        rate: Average frame rate in frames per second.

    Attributes:
        rate: As given.
        time: Seconds of the last frame.
        gap: Seconds between the last two frames of different times.
        missing: Number of frames without a timestamp.
        backward: How often timestamps went back.
        jumps: How often they jumped ahead.
        repeated: Number of frames that have the timestamp of the one before.
    """

    def __init__(self, time_base: Fraction, rate: float) -> None:
        self._tick, self.rate = time_base, rate
        self.time, self.gap = 0.0, 1 / rate
        self.missing = self.backward = self.jumps = self.repeated = 0
        self._is_new = True
        self._origin: int | None = None  # the timestamp of second 0
        self._known, self._run = 0.0, 0  # the last known time, and frames since then

    def tell(self, stamp: int | None) -> float:
        """Return the time of the next frame, by its timestamp in ticks."""
        self.missing += stamp is None
        return self._advance(self._untimed() if stamp is None else self._timed(stamp))

    def _advance(self, time: float) -> float:
        if time > self.time:
            self.gap = time - self.time
        self.time, self._is_new = time, False
        return time

    def count(self) -> float:
        """Return the time of the next frame, which has no timestamp by design."""
        return self._advance(self._untimed())

    def _untimed(self) -> float:
        self._run += not self._is_new
        return self._known + self._run / self.rate

    def _timed(self, stamp: int) -> float:
        if self._origin is None:
            # Frames without a timestamp may have come first.
            self._continue(stamp, 0.0 if self._is_new else self.time + self.gap)
        time = self._seconds(stamp)
        is_jump = time > self.time + MAX_GAP
        if time < self.time or is_jump:
            self.jumps += is_jump
            self.backward += not is_jump
            self._continue(stamp, self.time + self.gap)
            time = self._seconds(stamp)
        self.repeated += time == self.time and not self._is_new
        self._known, self._run = time, 0
        return time

    def _continue(self, stamp: int, time: float) -> None:
        self._origin = stamp - round(time / self._tick)

    def _seconds(self, stamp: int) -> float:
        assert self._origin is not None
        # Integers are exact, so that each time is rounded once.
        return (stamp - self._origin) * self._tick.numerator / self._tick.denominator

    def describe_faults(self) -> str:
        """Return in words what was wrong with the timestamps; empty if nothing was."""
        rule = f"counted at {self.rate:.5g} frames per second"
        faults = [
            f"{counted(self.missing, 'frame')} without a timestamp, {rule}" * (self.missing > 0),
            f"timestamps went back {counted(self.backward, 'time')}, time goes on"
            * (self.backward > 0),
            f"timestamps jumped ahead {counted(self.jumps, 'time')}, time goes on"
            * (self.jumps > 0),
            f"{counted(self.repeated, 'frame')} with the timestamp of the one before"
            * (self.repeated > 0),
        ]
        return "; ".join(filter(None, faults))


@dataclass(frozen=True)
class _Shape:
    height: int
    width: int
    matrix: tuple[int, int, int, int]


class FrameStream:
    """The frames of an opened video, in order.

    Args:
        path: Its name, for messages.
        stream: The stream that is decoded.
        decoded: Its frames.

    Attributes:
        height: Height in pixels, after rotation. Frames of other sizes than the first are scaled.
        width: Width in pixels, after rotation.
        clock: The times of the frames so far.
        is_flow: Whether they are optical flow, of a file of `p3d prepare flow`.

    Raises:
        BadVideoError: There is no frame, or it is too large.
    """

    def __init__(
        self, path: Path | str, stream: VideoStream, decoded: Iterable[VideoFrame]
    ) -> None:
        self.is_flow = is_flow_file(stream.container.metadata)
        frames = iter(decoded)
        first = next(frames, None)
        if first is None:
            raise BadVideoError(path, "holds no frame that can be decoded")
        check_size(path, first.width, first.height)
        self._frames = chain([first], frames)
        shape = _Shape(first.height, first.width, display_matrix(first))
        is_upright = shape.matrix[0] != 0
        self.height, self.width = (
            (shape.height, shape.width) if is_upright else (shape.width, shape.height)
        )
        rate = float(stream.average_rate or stream.guessed_rate or ASSUMED_FPS)
        self._has_stamps = not _only_counts(stream)
        self.clock = Clock(stream.time_base or Fraction(1, round(ASSUMED_FPS)), rate)
        self._converter = RgbConverter(path, shape, Box(0, 0, self.height, self.width))

    def __iter__(self) -> Iterator[tuple[float, VideoFrame]]:
        """Yield the frames with their times in seconds from the first one."""
        for frame in self._frames:
            yield self.clock.tell(frame.pts) if self._has_stamps else self.clock.count(), frame

    def rgb(self, frame: VideoFrame) -> Tensor:
        """Convert a frame to uint8 `(1, height, width, 3)`.

        Raises:
            BadVideoError: It cannot be converted.
        """
        return self._converter.whole(frame)


def _only_counts(stream: VideoStream) -> bool:
    """Return whether a stream stores when a frame is decoded, not when it is shown.

    In AVI, these differ for codecs that change the order of frames. Its rate is constant.
    """
    return stream.container.format.name == "avi" and stream.codec.reorder


@contextmanager
def stream_file(path: Path, threads: int = 1) -> Iterator[FrameStream]:
    """Open a video file from its first frame for a `with` block.

    Args:
        path: The file.
        threads: Threads that decode.

    Raises:
        BadVideoError: It cannot be read.
    """
    container, stream = _open(path)
    try:
        if threads > 1:
            stream.codec_context.thread_count = threads
            stream.thread_type = "AUTO"
        yield FrameStream(path, stream, _decoded(container, stream))
    finally:
        container.close()


def file_seconds(path: Path) -> float | None:
    """Return the length of a video file as its header says; None if it does not.

    Raises:
        BadVideoError: It cannot be read.
    """
    container, _ = _open(path)
    duration = container.duration
    container.close()
    return duration / _MICROSECONDS if duration and duration > 0 else None


def _open(path: Path) -> tuple[InputContainer, VideoStream]:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise missing_file(path) from None
    except OSError as error:
        raise BadVideoError(path, f"cannot be opened ({error.strerror})") from error
    check_file(path, status)
    return open_stream(path)


def _decoded(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    for packet in chain(demux(container, stream), [None]):
        yield from decode(stream.codec_context, packet)
