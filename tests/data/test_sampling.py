from __future__ import annotations

import math
from fractions import Fraction
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p3d.data.sampling import (
    author_windows,
    clip_rng,
    clips_to_see_all,
    epoch_permutation,
    frames_at,
    random_window,
    reorder,
    seen_fraction,
    spaced_windows,
    uniform_windows,
)
from p3d.data.views import Spacing

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


@given(frames, clip_lengths, strides, st.integers(1, 40), st.sampled_from(get_args(Spacing)))
def test_seen_fraction_counts_the_frames_that_clips_span(
    num_frames, clip_frames, stride, clips, spacing
):
    windows = spaced_windows(num_frames, clip_frames, stride, clips, spacing)
    seen = np.zeros(num_frames, bool)
    for first, *_ in windows:
        seen[first : first + span(clip_frames, stride)] = True
    assert seen_fraction(windows, num_frames) == pytest.approx(seen.mean())


@given(frames, clip_lengths, strides)
def test_clips_to_see_all_is_the_smallest_such_number(num_frames, clip_frames, stride):
    clips = clips_to_see_all(num_frames, clip_frames, stride)
    assert seen_fraction(uniform_windows(num_frames, clip_frames, stride, clips), num_frames) == 1
    if clips > 1:
        windows = uniform_windows(num_frames, clip_frames, stride, clips - 1)
        assert seen_fraction(windows, num_frames) < 1


@given(frames, clip_lengths, strides, st.integers(1, 32))
def test_author_windows_keep_range_and_stride(num_frames, clip_frames, stride, clips):
    windows = author_windows(num_frames, clip_frames, stride, clips)
    assert windows.shape == (clips, clip_frames)
    for window in windows:
        assert_is_window(window, num_frames, clip_frames, stride)


def test_author_windows_are_those_of_the_authors_formula():
    for num_frames in range(1, 700):
        stride = max(Fraction(num_frames - 16 - 2, 20), 0)
        starts = [math.floor((i - 1) * stride) + 1 for i in range(1, 21)]
        windows = author_windows(num_frames, 16, 1, 20)
        assert (windows[:, 0] + 1).tolist() == starts
        if num_frames >= 16:
            assert windows[-1, -1] + 1 == starts[-1] + 15 <= num_frames


@pytest.mark.parametrize(
    ("num_frames", "starts"),
    [
        (1, [0] * 20),
        (18, [0] * 20),
        (19, [0] * 20),
        (38, list(range(20))),
        (58, list(range(0, 40, 2))),
    ],
)
def test_examples_of_author_windows(num_frames, starts):
    assert author_windows(num_frames, 16, 1, 20)[:, 0].tolist() == starts


def test_no_author_windows_is_an_error():
    with pytest.raises(ValueError, match="clips must be at least 1, not 0"):
        author_windows(8, 2, 1, 0)


@given(frames, clip_lengths, strides, st.integers(1, 12), seeds, st.integers(0, 1000))
def test_orders_of_frames(num_frames, clip_frames, stride, clips, seed, video):
    windows = uniform_windows(num_frames, clip_frames, stride, clips)
    assert reorder(windows, "ordered", seed, video) is windows
    reversed_, shuffled, still = (
        reorder(windows, order, seed, video).tolist() for order in ("reversed", "shuffled", "still")
    )
    for number, window in enumerate(windows.tolist()):
        assert reversed_[number] == window[::-1]
        assert sorted(shuffled[number]) == window
        assert still[number] == [window[clip_frames // 2]] * clip_frames


def test_a_shuffled_clip_is_a_function_of_seed_video_and_clip():
    windows = uniform_windows(200, 16, 1, 6)
    shuffled = reorder(windows, "shuffled", 3, 7)
    np.testing.assert_array_equal(shuffled, reorder(windows, "shuffled", 3, 7))
    np.testing.assert_array_equal(shuffled[:4], reorder(windows[:4], "shuffled", 3, 7))
    permutations = {tuple(row) for row in shuffled - windows[:, :1]}
    assert len(permutations) == 6, "the clips of a video are shuffled differently"
    for seed, video in ((4, 7), (3, 8)):
        assert (shuffled != reorder(windows, "shuffled", seed, video)).any(1).all()


@given(
    st.lists(st.integers(1, 200), max_size=60),
    st.integers(0, 5000),
    st.integers(1, 40),
    st.sampled_from([1, 10, 25, 50, 100]),
)
def test_frames_at_are_the_last_ones_shown(gaps, start, count, fps):
    times = np.cumsum([0, *gaps])  # in hundredths, and so the instants: no ties to round
    found = frames_at(times / 100, start / 100, count, fps)
    instants = [start + i * 100 // fps for i in range(count)]
    expected = [max(i for i, time in enumerate(times) if time <= instant) for instant in instants]
    assert found.dtype == np.int64
    assert found.tolist() == expected


def test_frames_at_another_rate():
    assert frames_at(np.arange(99) / 30, 0, 7, 25).tolist() == [0, 1, 2, 3, 4, 6, 7]
    assert frames_at(np.arange(99) / 30, 0, 6, 60).tolist() == [0, 0, 1, 1, 2, 2]
    assert frames_at(np.arange(99) / 60, 0.5, 4, 30).tolist() == [30, 32, 34, 36]
    assert frames_at(np.arange(3) / 25, -1, 2, 0.5).tolist() == [0, 2]


@pytest.mark.parametrize("args", [([], 0, 1, 25), ([0], 0, 0, 25), ([0], 0, 1, 0)])
def test_frames_at_needs_times_count_and_rate(args):
    times, *others = args
    with pytest.raises(ValueError, match="give some"):
        frames_at(np.array(times, float), *others)
