"""All figures of an evaluation, computed from its scores alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from p3d.errors import UserError
from p3d.scores.accuracy import Accuracy, label_ranks, measure
from p3d.scores.arrays import Booleans, Floats, Integers
from p3d.scores.average_precision import average_precisions, mean_of_known
from p3d.scores.calibration import BINS, Bin, calibration_error, log_losses, reliability
from p3d.scores.coverage import Coverage, area_of_errors, coverage_curve, coverage_table
from p3d.scores.resampling import Bootstrap, Groups, Interval, number_groups
from p3d.scores.score_file import ScoreFile
from p3d.system.text import format_percent

WITH_INTERVALS = ("top1", "top5", "mean_class", "loss")
"""Figures that are functions of sums over videos, in the order of `headline_sums`."""


@dataclass(frozen=True)
class Figures:
    """The figures of the videos that have a label.

    Attributes:
        accuracy: Top-1, top-5, mean class, per class and the confusion matrix.
        loss: Mean of -log(probability of the right class), without a limit.
        average_precision: Of each class; None for a class without videos.
        mean_average_precision: Mean over the classes with videos.
        reliability: The reliability table.
        bins: Number of its bins, with the empty ones.
        calibration_error: Expected calibration error, in [0, 1].
        coverage: Thresholds for "unknown", and the accuracy of the other answers.
        coverage_curve: The same at every probability of an answer.
        error_area: Area under the curve of errors against coverage, in [0, 1].
        intervals: 95% intervals by name of the figure; None if there are fewer than two groups.
        groups: The groups that are resampled.
        unlabeled: Number of videos without a label, which are left out.
        temperature: It divided every clip's logits.
    """

    accuracy: Accuracy
    loss: float
    average_precision: list[float | None]
    mean_average_precision: float
    reliability: list[Bin]
    bins: int
    calibration_error: float
    coverage: list[Coverage]
    coverage_curve: list[Coverage]
    error_area: float
    intervals: Mapping[str, Interval | None]
    groups: Groups
    unlabeled: int
    temperature: float

    def plain(self) -> dict[str, Any]:
        """Return the figures as plain values, for JSON."""
        accuracy = self.accuracy
        return {
            "videos": accuracy.videos,
            "unlabeled": self.unlabeled,
            "temperature": self.temperature,
            "top1": accuracy.top1,
            "top5": accuracy.top5,
            "mean_class": accuracy.mean_class,
            "mean_average_precision": self.mean_average_precision,
            "loss": self.loss,
            "calibration_error": self.calibration_error,
            "calibration_bins": self.bins,
            "error_area": self.error_area,
            "intervals": dict(self.intervals),
            "groups": self.groups.count,
            "videos_without_group": self.groups.ungrouped,
            "reliability": [asdict(each) for each in self.reliability],
            "coverage": [asdict(each) for each in self.coverage],
        }


def labeled_scores(scores: ScoreFile, name: str) -> ScoreFile:
    """Return the scores of the videos that have a label.

    Raises:
        UserError: No video has one.
    """
    labeled = scores.labeled()
    if not labeled.paths:
        raise UserError(f"{name}: none of its videos has a class, so nothing can be measured")
    return labeled


def compute_figures(
    scores: ScoreFile,
    bootstrap: Bootstrap,
    *,
    temperature: float = 1.0,
    bins: int = BINS,
    name: str = "the scores",
) -> Figures:
    """Compute all figures.

    Args:
        scores: The scores; videos without a label are left out.
        bootstrap: How intervals are computed.
        temperature: Divides every clip's logits.
        bins: Bins of the reliability table.
        name: The scores in messages.

    Raises:
        UserError: No video has a label.
    """
    labeled = labeled_scores(scores, name)
    probabilities, labels = labeled.probabilities(temperature), labeled.labels
    accuracy = measure(torch.from_numpy(probabilities), torch.from_numpy(labels))
    losses, groups = log_losses(labeled, temperature), number_groups(labeled.groups)
    confidence, is_right = probabilities.max(1), probabilities.argmax(1) == labels
    precisions = average_precisions(probabilities, labels)
    table, curve = reliability(confidence, is_right, bins), coverage_curve(confidence, is_right)
    values = headline_values(probabilities, labels, losses)
    intervals = bootstrap.intervals(groups, values, headline_of)
    return Figures(
        accuracy=accuracy,
        loss=float(losses.mean()),
        average_precision=precisions,
        mean_average_precision=mean_of_known(precisions),
        reliability=table,
        bins=bins,
        calibration_error=calibration_error(table),
        coverage=coverage_table(confidence, is_right),
        coverage_curve=curve,
        error_area=area_of_errors(curve),
        intervals=dict(zip(WITH_INTERVALS, intervals, strict=True)),
        groups=groups,
        unlabeled=len(scores.paths) - len(labeled.paths),
        temperature=temperature,
    )


def headline_values(probabilities: Floats, labels: Integers, losses: Floats) -> Floats:
    """Return what is summed over videos for `headline_of`, float64 `(V, 4 + 2 * num_classes)`."""
    ranks = label_ranks(torch.from_numpy(probabilities), torch.from_numpy(labels)).numpy()
    one_hot = np.eye(probabilities.shape[1])[labels]
    is_right: Booleans = ranks < 1
    columns = np.stack([np.ones(len(labels)), is_right, ranks < 5, losses], 1)
    return np.concatenate([columns, one_hot, one_hot * is_right[:, None]], 1)


def headline_of(sums: Floats) -> Floats:
    """Return the figures of `WITH_INTERVALS`, `(..., 4)`, from sums of `headline_values`.

    A class that no drawn video belongs to is left out of the mean over classes.
    """
    videos, top1, top5, loss = np.moveaxis(sums[..., :4], -1, 0)
    totals, hits = np.split(sums[..., 4:], 2, axis=-1)
    recalls = np.divide(hits, totals, out=np.zeros_like(hits), where=totals > 0)
    mean_class = recalls.sum(-1) / (totals > 0).sum(-1)
    return np.stack([top1 / videos, top5 / videos, mean_class, loss / videos], -1)


def describe_top1(is_right: Booleans, groups: Sequence[str]) -> str:
    """Return the 95% interval of top-1 accuracy, and what limits it.

    Args:
        is_right: `(V,)`, whether each video's answer is right.
        groups: The group of each video; "" if unknown.
    """
    numbered = number_groups(groups)
    interval = Bootstrap().interval_of_mean(numbered, is_right.astype(np.float64))
    if interval is None:
        return f"no interval of top-1: {numbered.describe()} cannot be resampled"
    low, high = map(format_percent, interval)
    line = f"95% interval of top-1: {low} to {high} (bootstrap over {numbered.describe()})"
    return "\n".join(filter(None, (line, numbered.warning)))
