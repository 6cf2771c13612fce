"""Sliding windows over the frames of a video, each frame read once, in memory of a few windows.

Window k starts k strides after the first frame. Its frames are picked by their times at a rate, see
`p3d.data.sampling.frames_at`, or are the video's own frames from there on ("native"). A window is
complete when the video shows its last frame. A video shorter than a window has one, which repeats
the last frame.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple, TypeAlias

import numpy as np
from torch import Tensor

from p3d.data.sampling import frames_at
from p3d.errors import UserError
from p3d.inference.timeline.motion import Motion
from p3d.preprocessing import Preprocessing

_TOLERANCE = 0.001
"""By which times are rounded in `frames_at`, in seconds."""
_MARGIN = 2 * _TOLERANCE

SHORTEST = 0.001
"""Shortest window and stride in seconds."""


Pixels: TypeAlias = "tuple[Tensor | Motion, ...]"
"""A frame as each of one or two networks takes it: uint8 `(side, side, C)`, or flow to compute."""


class Frame(NamedTuple):
    """A frame that is read when it is needed.

    Attributes:
        time: Its time in seconds from the first frame.
        read: Returns what each network takes of it.
    """

    time: float
    read: Callable[[], Pixels]


class Window(NamedTuple):
    """The frames of a window.

    Attributes:
        time: The middle between the times of its first and its last frame, in seconds.
        frames: What `Frame.read` has returned of each.
    """

    time: float
    frames: tuple[Pixels, ...]

    def clip(self, network: int = 0) -> tuple[Tensor | Motion, ...]:
        """Return the frames as one of the networks takes them."""
        return tuple(frame[network] for frame in self.frames)


@dataclass(frozen=True)
class WindowPlan:
    """Where windows are, and which frames they show.

    Attributes:
        num_frames: Frames of a window.
        rate: Frames per second of a window; None for the video's own.
        frame_stride: Distance of these, in frames of the video; only without a rate.
        stride: Seconds from one window to the next; None for half a window, in frames.
    """

    num_frames: int
    rate: float | None
    frame_stride: int
    stride: float | None

    @property
    def seconds(self) -> float | None:
        """Length of a window in seconds; None if it depends on the video."""
        return None if self.rate is None else self.num_frames / self.rate

    def describe(self) -> str:
        """Return the frames of a window in words."""
        if self.rate is None:
            return f"windows of {self.num_frames} frames, {self.frame_stride} apart"
        return f"windows of {self.num_frames} frames at {self.rate:g} a second"

    def windows(self, frames: Iterable[Frame], done: int = 0) -> Iterator[Window]:
        """Return the windows of a video.

        Args:
            frames: Its frames in order.
            done: Number of windows to leave out at the start. Frames that only they show are not
                read.
        """
        if self.rate is None:
            return _native_windows(_with_next(frames), self, done)
        assert self.stride is not None, "make_plan sets both"
        return _timed_windows(_with_next(frames), self.num_frames, self.rate, self.stride, done)


def make_plan(prep: Preprocessing, window: float | None, stride: float | None) -> WindowPlan:
    """Return the plan of a network's windows.

    Args:
        prep: Its preprocessing, which says how long a clip is.
        window: Length in seconds over which the frames of a clip are spread evenly; None for the
            length of a clip at the rate of the weights, or at the video's own if they have none.
        stride: Seconds from one window to the next; None for half a window.

    Raises:
        UserError: A length is below 0.001.
    """
    for flag, seconds in (("--window", window), ("--stride", stride)):
        if seconds is not None and not SHORTEST <= seconds < float("inf"):
            raise UserError(f"{flag} is {seconds:g}; give seconds, at least {SHORTEST:g}")
    rate = None if prep.fps is None else prep.fps / prep.frame_stride
    if window is not None:
        rate = prep.num_frames / window
    if rate is not None and stride is None:
        stride = prep.num_frames / rate / 2
    return WindowPlan(prep.num_frames, rate, prep.frame_stride, stride)


_Pairs = Iterator[tuple[Frame, float]]
"""Frames, each with the time of the next one; infinite for the last one."""


def _with_next(frames: Iterable[Frame]) -> _Pairs:
    last: Frame | None = None
    for frame in frames:
        if last is not None:
            yield last, frame.time
        last = frame
    if last is not None:
        yield last, float("inf")


class _Ring:
    """The frames that later windows may show."""

    def __init__(self) -> None:
        self.times: deque[float] = deque()
        self._pixels: deque[Pixels] = deque()

    def add(self, frame: Frame) -> None:
        self.times.append(frame.time)
        self._pixels.append(frame.read())

    def drop(self, number: int) -> None:
        """Drop the first frames."""
        for _ in range(min(number, len(self.times))):
            self.times.popleft()
            self._pixels.popleft()

    def frames(self, numbers: Iterable[int]) -> tuple[Pixels, ...]:
        return tuple(self._pixels[number] for number in numbers)


def _timed_windows(
    pairs: _Pairs, num_frames: int, rate: float, stride: float, number: int
) -> Iterator[Window]:
    """Yield windows from a number on, whose frames are picked by their times."""
    offsets = np.arange(num_frames) / rate
    ring, found = _Ring(), number > 0

    def is_shown(time: float, until: float) -> bool:
        """Return whether a window shows the frame of these times."""
        for k in count(number):
            if k * stride > until + _MARGIN:
                return False
            instants = k * stride + offsets
            if ((instants >= time - _MARGIN) & (instants <= until + _MARGIN)).any():
                return True
        raise AssertionError

    for frame, until in pairs:
        is_last = until == float("inf")
        if is_last or is_shown(frame.time, until):
            ring.add(frame)
        known = frame.time + 2 * _MARGIN if is_last else until
        while number * stride + offsets[-1] + _MARGIN < known or (is_last and not found):
            times = np.array(ring.times)
            yield Window(
                number * stride + offsets[-1] / 2,
                ring.frames(frames_at(times, number * stride, num_frames, rate).tolist()),
            )
            found, number = True, number + 1
            ring.drop(_num_before(ring.times, number * stride))


def _num_before(times: Iterable[float], start: float) -> int:
    """Return how many frames are no longer shown at an instant."""
    return max(sum(time + _MARGIN < start for time in times) - 1, 0)


def _native_windows(pairs: _Pairs, plan: WindowPlan, done: int) -> Iterator[Window]:
    """Yield windows of the video's own frames."""
    offsets = np.arange(plan.num_frames) * plan.frame_stride
    step = max(1, plan.num_frames * plan.frame_stride // 2)
    ring, starts = _Ring(), deque[int]()  # first frames of the windows that are not complete
    begun, first, found = 0, 0, done > 0

    def begins(number: int, until: float) -> bool:
        if plan.stride is None:
            return begun * step <= number
        return begun * plan.stride + _TOLERANCE < until

    for number, (frame, until) in enumerate(pairs):
        is_last = until == float("inf")
        while begins(number, frame.time + _MARGIN if is_last else until):
            if begun >= done:
                starts.append(number)
            begun += 1
        if starts:
            first = first if ring.times else number
            ring.add(frame)
        while starts and (number - starts[0] >= offsets[-1] or (is_last and not found)):
            shown = np.minimum(starts.popleft() + offsets, number) - first
            yield Window(
                (ring.times[shown[0]] + ring.times[shown[-1]]) / 2, ring.frames(shown.tolist())
            )
            found = True
            later = starts[0] if starts else number + 1
            ring.drop(later - first)
            first = later
