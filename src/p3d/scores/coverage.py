"""Coverage: how accurate the answers are if only the more certain ones are given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from p3d.scores.arrays import Booleans, Floats

FRACTIONS = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.25, 0.1)
"""Fractions of answered videos in the table."""


@dataclass(frozen=True)
class Coverage:
    """What happens if every answer less probable than a threshold becomes "unknown".

    Attributes:
        threshold: The threshold, in [0, 1].
        answered: Number of videos with an answer, at least 1.
        coverage: Their fraction of all videos.
        accuracy: Fraction of right answers among them.
    """

    threshold: float
    answered: int
    coverage: float
    accuracy: float


def coverage_curve(confidence: Floats, is_right: Booleans) -> list[Coverage]:
    """Return the coverage at each probability that an answer has, the highest first.

    Args:
        confidence: `(V,)`, the probability of each video's answer.
        is_right: `(V,)`, whether the answer is right.
    """
    order = np.argsort(-confidence, kind="stable")
    sorted_confidence = confidence[order]
    last = np.append(np.flatnonzero(np.diff(sorted_confidence)), len(order) - 1)
    answered, right = last + 1, np.cumsum(is_right[order])[last]
    return [
        Coverage(threshold, count, count / len(order), hits / count)
        for threshold, count, hits in zip(
            sorted_confidence[last].tolist(), answered.tolist(), right.tolist(), strict=True
        )
    ]


def coverage_table(
    confidence: Floats, is_right: Booleans, fractions: Sequence[float] = FRACTIONS
) -> list[Coverage]:
    """Return the coverage at thresholds of three digits that answer about these fractions.

    Each row holds exactly for its threshold. Rows with equal thresholds are there once.
    """
    descending = -np.sort(-confidence)
    counts = [max(1, round(fraction * len(descending))) for fraction in fractions]
    thresholds = [
        0.0 if count == len(descending) else math.floor(1000 * descending[count - 1]) / 1000
        for count in counts
    ]
    return [
        _coverage_at(threshold, confidence, is_right) for threshold in dict.fromkeys(thresholds)
    ]


def _coverage_at(threshold: float, confidence: Floats, is_right: Booleans) -> Coverage:
    is_answered = confidence >= threshold
    return Coverage(
        threshold,
        int(is_answered.sum()),
        float(is_answered.mean()),
        float(is_right[is_answered].mean()),
    )


def area_of_errors(curve: Sequence[Coverage]) -> float:
    """Return the area under the curve of errors among the answers against coverage.

    0 means that no answer is wrong; the error rate of all answers means that the probabilities say
    nothing about which are wrong.
    """
    widths = np.diff([each.coverage for each in curve], prepend=0)
    return float((widths * [1 - each.accuracy for each in curve]).sum())
