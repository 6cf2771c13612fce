"""Pairs of classes that a network cannot tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from p3d.scores.arrays import Floats, Integers
from p3d.scores.resampling import Bootstrap, Interval, number_groups

CHANCE = 0.5
_CLOSE = 0.75
"""Pairs that are told apart more often than this are not in question."""


class ClassPair(NamedTuple):
    """Two classes that are not told apart better than by chance.

    Attributes:
        first: Index of a class.
        second: Index of the other class.
        right: How often the network is right if it has to choose between the two: the mean over
            both classes, in [0, 1].
        interval: Its 95% interval by bootstrap over groups.
        groups: Number of groups.
    """

    first: int
    second: int
    right: float
    interval: Interval
    groups: int


def inseparable_pairs(
    probabilities: Floats,
    labels: Integers,
    groups: Sequence[str],
    classes: Integers,
    bootstrap: Bootstrap,
) -> list[ClassPair]:
    """Return the pairs of classes that the network cannot tell apart, the worst first.

    The videos of both classes are divided between the two by the more probable one; equal
    probabilities are half right. Two classes cannot be told apart if that is right in less than
    75%, as a mean over both, and its 95% interval reaches 50%. So neither answers of a third class
    nor a difference in numbers of videos hides it. A class whose videos are all taken for the other
    one counts, too.

    Args:
        probabilities: `(V, num_classes)`.
        labels: `(V,)`.
        groups: Group of each video; "" if unknown.
        classes: The classes to compare, each with videos.
        bootstrap: How intervals are computed.
    """
    wins = np.stack([_wins(probabilities, labels, each)[classes] for each in classes.tolist()])
    right = (wins + wins.T) / 2
    close = np.argwhere(np.triu(right < _CLOSE, 1))
    pairs = []
    for row, column in close.tolist():
        first, second = int(classes[row]), int(classes[column])
        inside = np.isin(labels, (first, second))
        names = [groups[video] for video in np.flatnonzero(inside).tolist()]
        interval, count = _interval(
            probabilities[inside][:, [first, second]], labels[inside] == second, names, bootstrap
        )
        if interval is not None and interval.low <= CHANCE:
            pairs.append(ClassPair(first, second, float(right[row, column]), interval, count))
    return sorted(pairs, key=lambda pair: pair.right)


def _wins(probabilities: Floats, labels: Integers, label: int) -> Floats:
    """Return how often the videos of a class prefer it to each class, `(num_classes,)`."""
    videos = probabilities[labels == label]
    wins: Floats = _compare(videos[:, [label]], videos).mean(0)
    return wins


def _compare(own: Floats, other: Floats) -> Floats:
    """Return 1 where the own class is more probable than the other, 0.5 where equally so."""
    result: Floats = (own > other) + 0.5 * (own == other)
    return result


def _interval(
    pair: Floats, is_second: Integers, groups: Sequence[str], bootstrap: Bootstrap
) -> tuple[Interval | None, int]:
    """Return the interval of a pair of classes, and the number of groups."""
    side = is_second.astype(np.int64)
    rows = np.arange(len(side))
    right = _compare(pair[rows, side], pair[rows, 1 - side])
    members = np.eye(2)[side]
    values = np.concatenate([members, members * right[:, None]], 1)
    numbered = number_groups(groups)
    [interval] = bootstrap.intervals(numbered, values, _mean_of_two)
    return interval, numbered.count


def _mean_of_two(sums: Floats) -> Floats:
    """Return the mean over both classes, NaN where one has no video."""
    totals, hits = np.split(sums, 2, axis=-1)
    parts = np.divide(hits, totals, out=np.full_like(hits, np.nan), where=totals > 0)
    mean: Floats = parts.mean(-1, keepdims=True)
    return mean
