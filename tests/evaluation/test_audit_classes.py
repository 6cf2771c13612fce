"""Classes that cannot be told apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p3d.evaluation.audit_classes import inseparable_pairs
from p3d.scores.arrays import Floats, Integers
from p3d.scores.resampling import Bootstrap

BOOTSTRAP = Bootstrap(300)


def score_alike(third: float) -> tuple[Floats, Integers]:
    """Return probabilities and labels of four classes.

    Classes 0 and 1 look alike; `third` is what their videos have of class 2.
    """
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 40)
    logits = rng.normal(size=(160, 4)) + 6.0 * np.eye(4)[labels]
    logits[labels < 2] = rng.normal(size=(80, 4)) + np.array([6.0, 6.0, third, 0.0])
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True), labels


GROUPS = [f"g{number // 4}" for number in range(160)]


def test_classes_that_get_the_same_scores_are_found() -> None:
    p, labels = score_alike(third=0.0)
    [pair] = inseparable_pairs(p, labels, GROUPS, np.arange(4), BOOTSTRAP)
    assert (pair.first, pair.second, pair.groups) == (0, 1, 20)
    assert pair.interval.low <= 0.5 <= pair.interval.high
    assert inseparable_pairs(p, labels, GROUPS, np.array([0, 2, 3]), BOOTSTRAP) == []
    assert inseparable_pairs(p, labels, ["one"] * 160, np.arange(4), BOOTSTRAP) == []


def test_a_third_class_that_is_always_the_answer_hides_nothing() -> None:
    p, labels = score_alike(third=12.0)
    found = inseparable_pairs(p, labels, GROUPS, np.arange(4), BOOTSTRAP)
    assert {(pair.first, pair.second) for pair in found} == {(0, 1), (0, 2), (1, 2)}


@given(st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_right_is_the_mean_over_both_classes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(3), (6, 9, 15)))
    p = rng.dirichlet(np.ones(3), size=30).round(1)
    for pair in inseparable_pairs(p, labels, [""] * 30, np.arange(3), BOOTSTRAP):
        parts = []
        for own, other in ((pair.first, pair.second), (pair.second, pair.first)):
            videos = [row for row, label in zip(p, labels, strict=True) if label == own]
            points = [
                1.0 if row[own] > row[other] else 0.5 if row[own] == row[other] else 0.0
                for row in videos
            ]
            parts.append(sum(points) / len(points))
        assert pair.right == pytest.approx(sum(parts) / 2)
        assert pair.right < 0.75
