"""Two networks as one, such as the streams for pictures and for optical flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from p3d.inference.fusion import Fusion, Mean
from p3d.scores.arrays import Floats
from p3d.scores.score_file import PART, ScoreFile

WEIGHTS = tuple(step / 20 for step in range(21))
"""Weights of the second network that are tried."""


@dataclass(frozen=True)
class Choice:
    """A weight, and how well it does on validation videos.

    Attributes:
        weight: Weight of the second network, in [0, 1].
        top1: Top-1 accuracy.
        loss: Mean of -log(probability of the right class).
    """

    weight: float
    top1: float
    loss: float


def fused_log_probabilities(first: ScoreFile, second: ScoreFile, weight: float, of: Mean) -> Floats:
    """Return the logarithms of the fused class probabilities, see `Fusion`.

    Args:
        first: Scores.
        second: Scores of the same videos in the same order.
        weight: Weight of the second network, in [0, 1].
        of: What is averaged.

    Returns:
        float64 `(V, num_classes)`, finite.
    """
    fuse_logits = Fusion(weight, of).log_probabilities
    parts = (torch.from_numpy(scores.logits).split(PART) for scores in (first, second))
    return torch.cat([fuse_logits(*pair) for pair in zip(*parts, strict=True)]).numpy()


def weigh(first: ScoreFile, second: ScoreFile, of: Mean) -> list[Choice]:
    """Measure all weights on validation videos, which must have labels."""
    return [_measure(first, second, weight, of) for weight in WEIGHTS]


def _measure(first: ScoreFile, second: ScoreFile, weight: float, of: Mean) -> Choice:
    fused = fused_log_probabilities(first, second, weight, of)
    right = np.take_along_axis(fused, first.labels[:, None], 1)
    return Choice(weight, float((fused.argmax(1) == first.labels).mean()), float(-right.mean()))


def best_choice(choices: Sequence[Choice]) -> Choice:
    """Return the best weight: highest top-1; of these, lowest loss; of these, closest to 0.5."""
    return min(choices, key=lambda each: (-each.top1, each.loss, abs(each.weight - 0.5)))


def fuse(
    first: ScoreFile, second: ScoreFile, weight: float, of: Mean, notes: Mapping[str, Any]
) -> ScoreFile:
    """Return the fused scores as a score file of one clip a video.

    Its logits are the logarithms of the fused probabilities, whose softmax are these again. It has
    neither starts of clips nor a hash of weights.

    Args:
        first: Scores.
        second: Scores of the same videos in the same order.
        weight: Weight of the second network, in [0, 1].
        of: What is averaged.
        notes: What the protocol says besides.
    """
    streams = [
        {"weights_sha256": scores.weights_sha256, "protocol": dict(scores.protocol)}
        for scores in (first, second)
    ]
    return ScoreFile(
        fused_log_probabilities(first, second, weight, of).astype(np.float32)[:, None],
        first.labels,
        first.class_names,
        first.paths,
        first.groups,
        {"split": first.split, "fused": of, "weight": weight, **notes, "streams": streams},
        weights_sha256="",
    )
