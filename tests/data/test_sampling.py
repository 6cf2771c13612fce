from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p3d.data.sampling import (
    clip_rng,
    clips_to_see_all,
    epoch_permutation,
    random_window,
    seen_fraction,
    uniform_windows,
)

frames = st.integers(1, 400)
clip_lengths = st.integers(1, 64)
strides = st.integers(1, 8)
seeds = st.integers(0, 2**63)
counters = st.integers(0, 100_000)


def span(clip_frames: int, stride: int) -> int:
    return (clip_frames - 1) * stride + 1


def assert_is_window(window: np.ndarray, num_frames: int, clip_frames: int, stride: int) -> None:
    assert window.dtype == np.int64
    assert window.shape == (clip_frames,)
    assert window[0] >= 0
    assert window[-1] <= num_frames - 1
    expected = np.minimum(window[0] + stride * np.arange(clip_frames), num_frames - 1)
    np.testing.assert_array_equal(window, expected)
    if num_frames >= span(clip_frames, stride):
        assert (np.diff(window) == stride).all(), "no frame is repeated if the clip fits"
    else:
        assert window[0] == 0, "a short video starts at its first frame"


@given(frames, clip_lengths, strides, seeds)
def test_random_windows_keep_range_and_stride(num_frames, clip_frames, stride, seed):
    window = random_window(num_frames, clip_frames, stride, clip_rng(seed, 0, 0))
    assert_is_window(window, num_frames, clip_frames, stride)


@given(frames, clip_lengths, strides, st.integers(1, 32))
def test_uniform_windows_keep_range_and_stride(num_frames, clip_frames, stride, clips):
    windows = uniform_windows(num_frames, clip_frames, stride, clips)
    assert windows.shape == (clips, clip_frames)
    for window in windows:
        assert_is_window(window, num_frames, clip_frames, stride)


@given(frames, clip_lengths, strides, st.integers(2, 32))
def test_uniform_windows_span_the_video_evenly(num_frames, clip_frames, stride, clips):
    starts = uniform_windows(num_frames, clip_frames, stride, clips)[:, 0]
    last_start = max(num_frames - span(clip_frames, stride), 0)
    assert starts[0] == 0
    assert starts[-1] == last_start
    assert np.ptp(np.diff(starts)) <= 1
    exact = np.arange(clips) * last_start / (clips - 1)
    assert np.abs(starts - exact).max() <= 0.5


@given(frames, clip_lengths, strides)
def test_one_uniform_window_is_centered(num_frames, clip_frames, stride):
    (window,) = uniform_windows(num_frames, clip_frames, stride, 1)
    if num_frames >= span(clip_frames, stride):
        before, after = window[0], num_frames - 1 - window[-1]
        assert after - before in (0, 1)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((8, 2, 1, 1), [[3, 4]]),
        ((8, 2, 1, 3), [[0, 1], [3, 4], [6, 7]]),
        ((2, 3, 1, 2), [[0, 1, 1], [0, 1, 1]]),
        ((10, 3, 2, 2), [[0, 2, 4], [5, 7, 9]]),
    ],
)
def test_examples_of_uniform_windows(args, expected):
    np.testing.assert_array_equal(uniform_windows(*args), expected)


def test_all_starts_of_a_random_window_are_equally_likely():
    starts = [random_window(12, 4, 2, clip_rng(7, 0, index))[0] for index in range(3000)]
    counts = np.bincount(starts)
    assert len(counts) == 6
    assert abs(counts - 500).max() < 100  # five standard deviations


@given(seeds, counters, counters)
def test_a_clip_is_a_function_of_seed_epoch_and_index(seed, epoch, index):
    draws = clip_rng(seed, epoch, index).random(4)
    np.testing.assert_array_equal(draws, clip_rng(seed, epoch, index).random(4))
    for other in ((seed + 1, epoch, index), (seed, epoch + 1, index), (seed, epoch, index + 1)):
        assert (draws != clip_rng(*other).random(4)).all()


def test_epoch_and_index_are_not_interchangeable():
    assert clip_rng(0, 1, 2).random() != clip_rng(0, 2, 1).random()
    assert clip_rng(0, 1, 0).random() != clip_rng(1, 0, 0).random()


@given(seeds, counters, st.integers(0, 300))
def test_an_epoch_visits_every_clip_once_in_its_own_order(seed, epoch, size):
    order = epoch_permutation(seed, epoch, size)
    np.testing.assert_array_equal(np.sort(order), np.arange(size))
    np.testing.assert_array_equal(order, epoch_permutation(seed, epoch, size))
    if size > 20:
        assert (order != epoch_permutation(seed, epoch + 1, size)).any()


@pytest.mark.parametrize("args", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_counts_below_one_are_errors(args):
    with pytest.raises(ValueError, match="at least 1"):
        uniform_windows(*args, 1)
    with pytest.raises(ValueError, match="at least 1"):
        random_window(*args, clip_rng(0, 0, 0))


def test_no_windows_is_an_error():
    with pytest.raises(ValueError, match="clips must be at least 1, not 0"):
        uniform_windows(8, 2, 1, 0)


@given(frames, clip_lengths, strides, st.integers(1, 40))
def test_seen_fraction_counts_the_frames_that_clips_span(num_frames, clip_frames, stride, clips):
    seen = np.zeros(num_frames, bool)
    windows = uniform_windows(num_frames, clip_frames, stride, clips)
    for first, *_ in windows:
        seen[first : first + span(clip_frames, stride)] = True
    assert seen_fraction(windows, num_frames) == pytest.approx(seen.mean())


@given(frames, clip_lengths, strides)
def test_clips_to_see_all_is_the_smallest_such_number(num_frames, clip_frames, stride):
    clips = clips_to_see_all(num_frames, clip_frames, stride)
    windows = uniform_windows(num_frames, clip_frames, stride, clips)
    assert seen_fraction(windows, num_frames) == 1
    if clips > 1:
        fewer = uniform_windows(num_frames, clip_frames, stride, clips - 1)
        assert seen_fraction(fewer, num_frames) < 1
