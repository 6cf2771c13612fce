"""Intervals and tests that treat groups of videos, not videos, as independent.

Videos of one group (a person, a scene, a source video) resemble each other: a network that fails on
one of them tends to fail on the others. Drawing whole groups keeps that, so that intervals are as
wide as they have to be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from p3d.scores.arrays import Floats, Integers
from p3d.system.text import counted

_BLOCK = 4_000_000
"""Random numbers drawn at a time; it bounds the memory."""
_EXACT = 13
"""Most groups for which all sign patterns are tried."""
FEW_GROUPS = 10
"""Below this number of groups, percentiles are known to be too close together."""
PERMUTATIONS = 10_000
"""Random sign patterns for more groups."""


class Interval(NamedTuple):
    """A 95% interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Groups:
    """The groups of V videos.

    Attributes:
        numbers: int64 `(V,)`, the group of each video, from 0.
        count: Number of groups.
        ungrouped: Number of videos without a group; each is a group of its own.
    """

    numbers: Integers
    count: int
    ungrouped: int

    def describe(self) -> str:
        """Return what was resampled: `24 groups`, or `8 videos (no groups are known)`."""
        if self.ungrouped == len(self.numbers):
            return f"{counted(self.count, 'video')} (no groups are known)"
        groups = counted(self.count, "group")
        if self.ungrouped:
            alone = counted(self.ungrouped, "video")
            return f"{groups} ({alone} without a group count as one each)"
        return groups

    @property
    def warning(self) -> str:
        """What limits an interval over these groups; "" if nothing is known to."""
        few = "few groups: such intervals are rough, and too narrow"
        return few if self.count < FEW_GROUPS else ""

    def sums(self, values: Floats) -> Floats:
        """Return the sums of the videos' values in each group, `(count, K)` from `(V, K)`."""
        sums = np.zeros((self.count, values.shape[1]))
        np.add.at(sums, self.numbers, values)
        return sums


def number_groups(names: Sequence[str]) -> Groups:
    """Number the groups of videos; a video whose group is "" is a group of its own."""
    numbers: dict[object, int] = {}
    keys = [name or position for position, name in enumerate(names)]
    found = [numbers.setdefault(key, len(numbers)) for key in keys]
    ungrouped = sum(not name for name in names)
    return Groups(np.array(found, dtype=np.int64), len(numbers), ungrouped)


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are computed: percentiles over groups drawn with replacement.

    Attributes:
        resamples: Number of times that groups are drawn, as many as there are.
        seed: Seed of the draws.
    """

    resamples: int = 2000
    seed: int = 0

    def intervals(
        self, groups: Groups, values: Floats, statistic: Callable[[Floats], Floats]
    ) -> list[Interval | None]:
        """Return 95% intervals of figures that are functions of sums over videos.

        Args:
            groups: The groups of V videos.
            values: float64 `(V, K)`, what is summed over videos.
            statistic: Maps sums `(..., K)` to M figures `(..., M)`; NaN if one is undefined.

        Returns:
            M intervals; None if there are fewer than two groups.
        """
        figures = statistic(self._resampled_sums(groups, values))
        if groups.count < 2:
            return [None] * figures.shape[1]
        low, high = np.nanpercentile(figures, (2.5, 97.5), axis=0)
        return [Interval(*pair) for pair in zip(low.tolist(), high.tolist(), strict=True)]

    def interval_of_mean(self, groups: Groups, values: Floats) -> Interval | None:
        """Return the 95% interval of the mean of values `(V,)`, as `intervals`."""
        columns = np.stack([np.ones(len(values)), values], 1)
        [interval] = self.intervals(groups, columns, lambda sums: sums[..., 1:] / sums[..., :1])
        return interval

    def _resampled_sums(self, groups: Groups, values: Floats) -> Floats:
        sums, rng, count = groups.sums(values), np.random.default_rng(self.seed), groups.count
        return np.concatenate(
            [
                _counts(rng.integers(count, size=(rows, count)), count) @ sums
                for rows in _blocks(self.resamples, count)
            ]
        )


def _blocks(rows: int, width: int) -> Iterator[int]:
    """Yield numbers of rows that sum to `rows`, each of at most `_BLOCK` numbers."""
    step = max(1, _BLOCK // width)
    for start in range(0, rows, step):
        yield min(step, rows - start)


def _counts(draws: Integers, count: int) -> Floats:
    """Return how often each number below `count` is in each row."""
    rows = np.arange(len(draws))[:, None] * count
    counts = np.bincount((draws + rows).ravel(), minlength=len(draws) * count)
    return counts.reshape(len(draws), count).astype(np.float64)


def sign_flip_test(groups: Groups, differences: Floats, seed: int = 0) -> list[float]:
    """Return two-sided p-values of sums of paired differences.

    Under the null hypothesis, the two networks are exchangeable in each group, so that the sign of
    a group's sum is a coin toss. The p-value is the fraction of sign patterns whose total is at
    least as far from 0 as the one found. Up to 13 groups, all patterns are tried; else 10,000
    random ones, and the one found is counted among them, so that no p-value is 0.

    Args:
        groups: The groups of V videos.
        differences: float64 `(V, M)`, of M figures.
        seed: Seed of the random patterns.

    Returns:
        M p-values in (0, 1].
    """
    sums = groups.sums(differences)
    # Totals that differ only by rounding count as equal.
    limit = np.abs(sums.sum(0)) - 1e-9 * np.abs(sums).sum(0)
    if groups.count <= _EXACT:
        bits = np.arange(2**groups.count)[:, None] >> np.arange(groups.count) & 1
        extreme = (np.abs((1.0 - 2.0 * bits) @ sums) >= limit).sum(0)
        return [float(value) for value in extreme / 2**groups.count]
    rng, extreme = np.random.default_rng(seed), np.ones(sums.shape[1])
    for rows in _blocks(PERMUTATIONS, groups.count):
        signs = 1.0 - 2.0 * rng.integers(2, size=(rows, groups.count))
        extreme += (np.abs(signs @ sums) >= limit).sum(0)
    return [float(value) for value in extreme / (PERMUTATIONS + 1)]


def smallest_p(groups: int) -> float:
    """Return the smallest p-value that `sign_flip_test` can find with a number of groups."""
    return 2 / 2**groups if groups <= _EXACT else 1 / (PERMUTATIONS + 1)
