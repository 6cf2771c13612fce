"""Differences between two networks on the same videos."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from p3d.scores.arrays import Floats
from p3d.scores.calibration import log_losses
from p3d.scores.figures import headline_of, headline_values
from p3d.scores.resampling import Bootstrap, Groups, Interval, number_groups, sign_flip_test
from p3d.scores.score_file import ScoreFile

COMPARED = ("top1", "mean_class", "loss")
_COLUMNS = [0, 2, 3]
"""Their places in `headline_of`."""


@dataclass(frozen=True)
class Difference:
    """A figure of two networks.

    Attributes:
        first: The first network's.
        second: The second network's.
        interval: 95% interval of second - first; None if there are fewer than two groups.
        p_value: Of the permutation test over groups, in (0, 1].
    """

    first: float
    second: float
    interval: Interval | None
    p_value: float

    @property
    def difference(self) -> float:
        """Second minus first."""
        return self.second - self.first


@dataclass(frozen=True)
class Comparison:
    """Two networks on the same videos.

    Attributes:
        differences: By name of the figure, see `COMPARED`.
        both_right: Videos that both answer rightly.
        first_only: Videos that only the first answers rightly.
        second_only: Videos that only the second answers rightly.
        both_wrong: Videos that both answer wrongly.
        groups: The groups that are resampled.
    """

    differences: dict[str, Difference]
    both_right: int
    first_only: int
    second_only: int
    both_wrong: int
    groups: Groups


def compare(first: ScoreFile, second: ScoreFile, bootstrap: Bootstrap) -> Comparison:
    """Compare two networks, with paired resampling of groups.

    Args:
        first: Scores of videos that all have a label.
        second: Scores of the same videos in the same order.
        bootstrap: How intervals are computed; its seed is the permutation test's too.
    """
    groups = number_groups(first.groups)
    ours, theirs = _values(first), _values(second)
    width = ours.shape[1]

    def difference(sums: Floats) -> Floats:
        figures = headline_of(sums[..., width:]) - headline_of(sums[..., :width])
        return figures[..., _COLUMNS]

    intervals = bootstrap.intervals(groups, np.concatenate([ours, theirs], 1), difference)
    figures = [headline_of(values.sum(0))[_COLUMNS].tolist() for values in (ours, theirs)]
    p_values = sign_flip_test(groups, _paired(ours, theirs), bootstrap.seed)
    rows = zip(COMPARED, *figures, intervals, p_values, strict=True)
    one, other = ours[:, 1] > 0, theirs[:, 1] > 0
    return Comparison(
        {name: Difference(*row) for name, *row in rows},
        both_right=int((one & other).sum()),
        first_only=int((one & ~other).sum()),
        second_only=int((~one & other).sum()),
        both_wrong=int((~one & ~other).sum()),
        groups=groups,
    )


def _values(scores: ScoreFile) -> Floats:
    return headline_values(scores.probabilities(), scores.labels, log_losses(scores))


def _paired(ours: Floats, theirs: Floats) -> Floats:
    """Return each video's part of the differences in `COMPARED`, from `headline_values`."""
    classes = (ours.shape[1] - 4) // 2
    one_hot = ours[:, 4 : 4 + classes]
    videos = one_hot.sum(0)
    share = one_hot @ (1 / np.maximum(videos, 1)) / (videos > 0).sum()
    right, loss = (theirs[:, column] - ours[:, column] for column in (1, 3))
    return np.stack([right / len(ours), right * share, loss / len(ours)], 1)
