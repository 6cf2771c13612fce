"""Average precision and F1 of segments, against slow versions of their definitions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p3d.scores.detection import (
    TIOU_THRESHOLDS,
    Found,
    average_precision,
    detection_figures,
    segmental_f1,
)


@st.composite
def _segments(draw: st.DrawFn, *, least: int, labels: str) -> list[Found]:
    count = draw(st.integers(least, 9))
    starts = [draw(st.integers(0, 12)) for _ in range(count)]
    # Different scores: the definitions leave the order of equal ones open.
    scores = draw(st.permutations(range(count)))
    return [
        Found(
            draw(st.sampled_from("uv")),
            start / 2,
            (start + draw(st.integers(1, 8))) / 2,
            draw(st.sampled_from(labels)),
            float(score),
        )
        for start, score in zip(starts, scores, strict=True)
    ]


def _overlap(one: Found, other: Found) -> float:
    """Count quarters of seconds that both hold, and that either holds."""
    ticks = [set(range(round(4 * s.start), round(4 * s.end))) for s in (one, other)]
    return len(ticks[0] & ticks[1]) / len(ticks[0] | ticks[1])


def _slow_precision(found: Sequence[Found], truth: Sequence[Found], threshold: float) -> float:
    """Walk through the true segments by falling overlap, and add up the area by recall."""
    taken: set[int] = set()
    points = [(0.0, 0.0)]
    for seen, segment in enumerate(sorted(found, key=lambda s: s.score, reverse=True), start=1):
        ranked = sorted(range(len(truth)), key=lambda n: -_overlap(segment, truth[n]))
        for n in ranked:
            if truth[n].video != segment.video or n in taken:
                continue
            if _overlap(segment, truth[n]) >= threshold:
                taken.add(n)
            break
        points.append((len(taken) / len(truth), len(taken) / seen))
    recalls = sorted({recall for recall, _ in points})
    return sum(
        (high - low) * max(precision for recall, precision in points if recall >= high)
        for low, high in pairwise(recalls)
    )


@settings(max_examples=150, deadline=None)
@given(_segments(least=0, labels="a"), _segments(least=1, labels="a"))
def test_average_precision_is_the_area_by_its_definition(
    found: list[Found], truth: list[Found]
) -> None:
    thresholds = (0.125, 0.5, 0.75)
    expected = [_slow_precision(found, truth, threshold) for threshold in thresholds]
    np.testing.assert_allclose(average_precision(found, truth, thresholds), expected, atol=1e-12)


def _slow_f1(found: Sequence[Found], truth: Sequence[Found], threshold: float) -> float:
    """Count right, wrong and missed segments."""
    hit: set[int] = set()
    wrong = 0
    for segment in sorted(found):
        scores = [
            _overlap(segment, each)
            if (each.video, each.label) == (segment.video, segment.label)
            else -1.0
            for each in truth
        ]
        best = scores.index(max(scores))
        if scores[best] >= threshold and best not in hit:
            hit.add(best)
        else:
            wrong += 1
    missed = len(truth) - len(hit)
    return 2 * len(hit) / (2 * len(hit) + wrong + missed)


@settings(max_examples=150, deadline=None)
@given(_segments(least=0, labels="ab"), _segments(least=1, labels="ab"))
def test_f1_counts_as_its_definition(found: list[Found], truth: list[Found]) -> None:
    for threshold in (0.1, 0.25, 0.5):
        expected = _slow_f1(found, truth, threshold)
        assert segmental_f1(found, truth, threshold) == pytest.approx(expected)


def test_figures_of_a_case_by_hand() -> None:
    truth = [Found("v", 0, 10, "a"), Found("v", 20, 30, "a"), Found("w", 0, 4, "b")]
    found = [
        Found("v", 0, 6, "a", 0.9),  # overlap 0.6
        Found("v", 40, 50, "a", 0.8),
        Found("v", 20, 30, "a", 0.7),
    ]
    figures = detection_figures(found, truth)
    assert list(figures.average_precision) == ["a", "b"]
    # At 0.6 both are right, at ranks 1 and 3; above it only the one at rank 3 is.
    expected = [(1 + 2 / 3) / 2] * 3 + [1 / 3 / 2] * 7
    np.testing.assert_allclose(figures.average_precision["a"], expected)
    assert not figures.average_precision["b"].any()
    assert len(figures.mean_average_precision) == len(TIOU_THRESHOLDS)
    assert figures.f1 == pytest.approx((4 / 6,) * 3)
