"""Calibration: whether probabilities are as large as the fraction of right answers.

The reliability table and the expected calibration error follow Guo et al., "On Calibration of
Modern Neural Networks" (2017), as does temperature scaling.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from p3d.errors import UserError
from p3d.scores.arrays import Booleans, Floats
from p3d.scores.resampling import Bootstrap, Groups, Interval
from p3d.scores.score_file import PART, ScoreFile
from p3d.system.text import counted

BINS = 15
"""Bins of the reliability table."""
LOWEST, HIGHEST = 0.05, 20.0
"""Range of temperatures that are tried."""


@dataclass(frozen=True)
class Bin:
    """Videos whose answers have probabilities in `(low, high]`.

    Attributes:
        low: Lower limit, excluded.
        high: Upper limit, included.
        videos: Number of videos, at least 1.
        confidence: Mean probability of their answers.
        accuracy: Fraction of right answers.
    """

    low: float
    high: float
    videos: int
    confidence: float
    accuracy: float


def reliability(confidence: Floats, is_right: Booleans, bins: int = BINS) -> list[Bin]:
    """Return the reliability table: bins of equal width in [0, 1], without the empty ones.

    Args:
        confidence: `(V,)`, the probability of each video's answer.
        is_right: `(V,)`, whether the answer is right.
        bins: Number of bins.
    """
    edges = np.linspace(0, 1, bins + 1)
    numbers = np.searchsorted(edges[1:-1], confidence, side="left")
    return [
        Bin(
            float(edges[number]),
            float(edges[number + 1]),
            int(inside.sum()),
            float(confidence[inside].mean()),
            float(is_right[inside].mean()),
        )
        for number in np.unique(numbers)
        for inside in [numbers == number]
    ]


def calibration_error(table: list[Bin]) -> float:
    """Return the expected calibration error: the mean of |accuracy - confidence| over videos."""
    videos = sum(each.videos for each in table)
    return sum(abs(each.accuracy - each.confidence) * each.videos for each in table) / videos


def log_losses(scores: ScoreFile, temperature: float = 1.0) -> Floats:
    """Return -log of the probability of each video's class, float64 `(V,)`.

    Args:
        scores: Videos with labels.
        temperature: Divides every clip's logits.
    """
    parts = zip(
        torch.from_numpy(scores.logits).split(PART),
        torch.from_numpy(scores.labels).split(PART),
        strict=True,
    )
    losses = [_log_losses(logits.double() / temperature, labels) for logits, labels in parts]
    return torch.cat(losses).numpy()


def _log_losses(logits: Tensor, labels: Tensor) -> Tensor:
    indices = labels[:, None, None].expand(-1, logits.shape[1], 1)
    clips = logits.log_softmax(-1).gather(-1, indices)[..., 0]
    # The logarithm of the clips' mean probability, without underflow.
    return math.log(clips.shape[1]) - clips.logsumexp(1)


@dataclass(frozen=True)
class TemperatureFit:
    """The temperature at which the scores are most likely.

    Attributes:
        temperature: It divides every clip's logits.
        interval: 95% interval by bootstrap over groups; None if there are fewer than two.
        loss_before: Mean of -log(probability of the right class) at temperature 1.
        loss_after: The same at the temperature found.
    """

    temperature: float
    interval: Interval | None
    loss_before: float
    loss_after: float


def fit_temperature(scores: ScoreFile, groups: Groups, bootstrap: Bootstrap) -> TemperatureFit:
    """Find the temperature with the lowest mean log loss, to a relative precision of 1e-6.

    A grid of 121 temperatures finds the lowest valley, golden section its bottom. The interval has
    the resolution of the grid, 5%.

    Args:
        scores: Videos with labels, which the network was not trained on.
        groups: Their groups.
        bootstrap: How the interval is computed.

    Raises:
        UserError: The loss falls up to an end of the range of temperatures, 0.05 to 20.
    """
    grid = np.geomspace(LOWEST, HIGHEST, 121)
    losses = np.stack([log_losses(scores, temperature) for temperature in grid.tolist()], 1)
    best = int(losses.mean(0).argmin())
    if best in (0, len(grid) - 1):
        raise UserError(
            f"no temperature from {LOWEST} to {HIGHEST:.0f} fits the scores of "
            f"{counted(len(scores.paths), 'video')}: {_reason(best)}; calibrate on more "
            "videos"
        )
    temperature = _golden_section(scores, float(grid[best - 1]), float(grid[best + 1]))
    [interval] = bootstrap.intervals(groups, losses, lambda sums: grid[sums.argmin(-1)][..., None])
    return TemperatureFit(
        temperature,
        interval,
        float(log_losses(scores).mean()),
        float(log_losses(scores, temperature).mean()),
    )


def _reason(best: int) -> str:
    if best == 0:
        return "its answers are all right, or nearly so, and each could be more certain"
    return "its answers are no better than chance, or nearly so"


def _golden_section(scores: ScoreFile, low: float, high: float) -> float:
    """Return the minimum of the mean log loss between two temperatures."""
    ratio = (math.sqrt(5) - 1) / 2
    left, right = math.log(low), math.log(high)

    def loss(logarithm: float) -> float:
        return float(log_losses(scores, math.exp(logarithm)).mean())

    inner = [right - ratio * (right - left), left + ratio * (right - left)]
    values = [loss(each) for each in inner]
    while right - left > 1e-6:
        if values[0] < values[1]:
            right = inner[1]
            inner = [right - ratio * (right - left), inner[0]]
            values = [loss(inner[0]), values[0]]
        else:
            left = inner[0]
            inner = [inner[1], left + ratio * (right - left)]
            values = [values[1], loss(inner[1])]
    return math.exp((left + right) / 2)
