"""Sliding windows, compared with picking the frames of a whole video."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from p3d.data.sampling import frames_at
from p3d.errors import UserError
from p3d.inference.timeline.windows import Frame, Window, WindowPlan, make_plan
from p3d.preprocessing import Preprocessing

Times = NDArray[np.float64]


class Numbered:
    """Frames that show their numbers, and which of them were read."""

    def __init__(self, times: Times) -> None:
        self.times = times
        self.read: list[int] = []

    def __iter__(self) -> Iterator[Frame]:
        for number, time in enumerate(self.times.tolist()):
            yield Frame(time, lambda number=number: self._pixels(number))  # type: ignore[misc]

    def _pixels(self, number: int) -> tuple[torch.Tensor]:
        self.read.append(number)
        return (torch.tensor(number),)


def shown(windows: Iterator[Window]) -> list[list[int]]:
    return [[int(pixels[0]) for pixels in window.frames] for window in windows]  # type: ignore[arg-type]


times_of_videos = st.lists(st.sampled_from([10, 20, 33, 40, 40, 170]), max_size=60).map(
    lambda gaps: np.cumsum([0, *gaps]) / 1000
)


@settings(max_examples=200, deadline=None)
@given(
    times_of_videos,
    st.integers(1, 6),
    st.sampled_from([12.5, 25.0, 30.0]),
    st.sampled_from([0.04, 0.1, 0.3, 1.0]),
    st.integers(0, 3),
)
def test_timed_windows_show_what_the_whole_video_shows(
    times: Times, num_frames: int, rate: float, stride: float, done: int
) -> None:
    frames = Numbered(times)
    found = shown(WindowPlan(num_frames, rate, 1, stride).windows(frames, done))
    last = (num_frames - 1) / rate
    starts = [k * stride for k in range(1000) if k * stride + last < times[-1] + 0.002]
    starts = (starts or [0.0])[done:] if done == 0 else starts[done:]
    assert found == [frames_at(times, start, num_frames, rate).tolist() for start in starts]
    assert len(set(frames.read)) == len(frames.read)
    assert set().union(*found) <= set(frames.read)


@settings(max_examples=200, deadline=None)
@given(
    times_of_videos,
    st.integers(1, 6),
    st.integers(1, 3),
    st.sampled_from([None, 0.04, 0.1, 0.3, 1.0]),
    st.integers(0, 3),
)
def test_native_windows_show_the_frames_of_the_video(
    times: Times, num_frames: int, step: int, stride: float | None, done: int
) -> None:
    frames = Numbered(times)
    found = shown(WindowPlan(num_frames, None, step, stride).windows(frames, done))
    span = (num_frames - 1) * step
    if stride is None:
        starts = list(range(0, len(times), max(1, num_frames * step // 2)))
    else:
        instants = [k * stride for k in range(1000) if k * stride < times[-1] + 0.001]
        starts = [int(frames_at(times, instant, 1, 1)[0]) for instant in instants]
    whole = [start for start in starts if start + span < len(times)][done:]
    if not whole and not done:
        whole = [0]
    last = len(times) - 1
    assert found == [[min(s + i * step, last) for i in range(num_frames)] for s in whole]
    assert len(set(frames.read)) == len(frames.read)


def test_frames_between_distant_windows_are_not_read() -> None:
    frames = Numbered(np.arange(100) / 25)
    (*_,) = WindowPlan(2, 25.0, 1, 1.0).windows(frames)
    assert len(frames.read) < 30


def test_defaults_follow_the_weights() -> None:
    native = Preprocessing(num_frames=16, frame_stride=2)
    assert make_plan(native, None, None) == WindowPlan(16, None, 2, None)
    assert make_plan(native, 0.64, None) == WindowPlan(16, 25.0, 2, 0.32)
    rated = Preprocessing(num_frames=16, frame_stride=2, fps=25.0)
    assert make_plan(rated, None, None) == WindowPlan(16, 12.5, 2, 0.64)
    assert make_plan(rated, None, 2.0).stride == 2.0


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 0.0001])
def test_lengths_are_positive(seconds: float) -> None:
    with pytest.raises(UserError, match=r"--stride is .*; give seconds"):
        make_plan(Preprocessing(), None, seconds)
