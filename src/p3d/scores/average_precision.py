"""Average precision: how well the scores of a class put its videos before all others."""

from __future__ import annotations

import numpy as np

from p3d.scores.arrays import Booleans, Floats, Integers


def average_precision(scores: Floats, is_positive: Booleans) -> float | None:
    """Return the area under the steps of the precision-recall curve.

    It is the sum over thresholds of (recall - recall at the next higher threshold) * precision.
    Videos with equal scores share a threshold. Nothing is interpolated.

    Args:
        scores: `(V,)`.
        is_positive: `(V,)`, whether a video belongs to the class.

    Returns:
        A number in (0, 1], or None if no video belongs to the class.
    """
    if not is_positive.any():
        return None
    order = np.argsort(-scores, kind="stable")
    # Positions of the last video of each threshold.
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits = np.cumsum(is_positive[order])[last]
    recall_steps = np.diff(hits, prepend=0) / hits[-1]
    return float((recall_steps * hits / (last + 1)).sum())


def average_precisions(probabilities: Floats, labels: Integers) -> list[float | None]:
    """Return the average precision of each class, one against all others.

    Args:
        probabilities: `(V, num_classes)`.
        labels: `(V,)`.

    Returns:
        A number for each class; None for a class without videos.
    """
    return [
        average_precision(scores, labels == number) for number, scores in enumerate(probabilities.T)
    ]


def mean_of_known(values: list[float | None]) -> float:
    """Return the mean of the values that are not None; there must be one."""
    return float(np.mean([value for value in values if value is not None]))
