"""Segments, compared with cutting all scores at once."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from p3d.errors import UserError
from p3d.inference.timeline.cut_options import CutOptions
from p3d.inference.timeline.segments import Cutter, cut

NAMES = ("walk", "run", "background")
Scores = NDArray[np.float64]


def slow_cut(
    times: Scores, scores: Scores, duration: float, options: CutOptions
) -> list[tuple[float, float, str, float]]:
    """Smooth all scores, then find, merge and filter the stretches of each class."""
    smoothed = np.array(
        [scores[abs(times - time) <= options.smooth / 2 + 1e-6].mean(0) for time in times]
    )
    edges = [0.0, *((times[:-1] + times[1:]) / 2), max(duration, (times[-1] + times[-2:][0]) / 2)]
    found = []
    for label, name in enumerate(NAMES[:2]):
        stretches = []
        above = smoothed[:, label] >= options.low
        for is_above, cells in groupby(range(len(times)), above.__getitem__):
            members = list(cells)
            if is_above and smoothed[members, label].max() >= options.high:
                stretches.append(members)
        merged: list[list[int]] = []
        for members in stretches:
            gap = edges[members[0]] - edges[merged[-1][-1] + 1] if merged else np.inf
            if gap <= options.merge + 1e-6:
                merged[-1] += members
            else:
                merged.append(list(members))
        for members in merged:
            start, end = edges[members[0]], edges[members[-1] + 1]
            if end - start >= options.shortest - 1e-6 and end > start:
                lengths = np.diff(edges)[members]
                score = float((smoothed[members, label] * lengths).sum() / lengths.sum())
                found.append((start, end, name, score))
    return sorted(found)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([1, 2, 5]), *[st.integers(0, 10)] * 3), min_size=1),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from([0.0, 0.3, 1.0]),
)
def test_cutting_window_by_window_is_cutting_at_once(
    rows: list[tuple[int, int, int, int]], smooth: float, shortest: float, merge: float
) -> None:
    times = np.cumsum([row[0] for row in rows]) / 10
    scores = np.array([row[1:] for row in rows]) / 10
    options = CutOptions(smooth, 0.61, 0.41, shortest, merge)  # no ties
    duration = float(times[-1]) + 0.2
    found = cut(times, scores, NAMES, duration, options)
    expected = slow_cut(times, scores, duration, options)
    assert [segment[2] for segment in found] == [segment[2] for segment in expected]
    for segment, other in zip(found, expected, strict=True):
        assert (segment.start, segment.end) == pytest.approx(other[:2])
        assert segment.score == pytest.approx(other[3])


def test_segments_are_final_after_a_bounded_time() -> None:
    options = CutOptions(smooth=1.0, merge=0.5, shortest=0.0)
    cutter = Cutter(NAMES, options)
    for step in range(100):
        score = 1.0 if step < 20 else 0.0
        found = list(cutter.push(step / 10, np.array([score, 0, 0])))
        if found:
            assert found[0].end == pytest.approx(2.1, abs=0.2)
            assert step / 10 <= found[0].end + options.merge + options.smooth / 2 + 4 * 0.1
            return
    pytest.fail("no segment")


def test_equal_times_make_no_segment_of_no_length() -> None:
    times, scores = np.array([1.0, 1.0]), np.array([[1.0, 0, 0], [0, 1.0, 0]])
    for segment in cut(times, scores, NAMES, 1.0, CutOptions(0.0, shortest=0.0)):
        assert segment.end > segment.start


@pytest.mark.parametrize(
    "options",
    [
        {"low": 0.0},
        {"low": 0.6, "high": 0.5},
        {"high": 1.1},
        {"smooth": -1},
        {"merge": float("nan")},
    ],
)
def test_options_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match="give"):
        CutOptions(**options).check()
