"""Metrics of video scores: top-1, top-5, per class, and the confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TOP5_CLASSES = 10
"""Fewest classes for which top-5 accuracy is shown."""


def shows_top5(num_classes: int) -> bool:
    """Return whether top-5 accuracy says something about a network with this many classes."""
    return num_classes >= TOP5_CLASSES


def correct_among_best(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Count the rows whose label is among the k largest scores.

    With fewer than k classes every row counts.

    Args:
        logits: float `(N, num_classes)`, logits or probabilities.
        labels: int64 `(N,)`.
        k: Number of classes to look at.

    Returns:
        int64 `()` on the device of the scores, without synchronizing it.
    """
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (best == labels[:, None]).any(1).sum()


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of one class; a ratio whose denominator is 0 is None.

    Attributes:
        videos: Number of its videos.
        predicted: Number of videos, of any class, that are predicted as this class.
        top1: Fraction of its videos that are predicted as this class (recall), in [0, 1].
        precision: Fraction of the videos predicted as this class that belong to it.
        f1: Harmonic mean of top-1 and precision; None if there are neither videos nor predictions.
    """

    videos: int
    predicted: int
    top1: float | None
    precision: float | None
    f1: float | None


@dataclass(frozen=True)
class Accuracy:
    """Accuracy over the videos of a data set.

    Attributes:
        videos: Number of videos.
        top1: Fraction of videos whose best class is right, in [0, 1].
        top5: Fraction with the right class among the five best.
        mean_class: Mean of the top-1 accuracies of the classes that have videos.
        loss: Mean of -log(probability of the right class).
        confusion: int64 `(num_classes, num_classes)`; row = true class, column = predicted class.
    """

    videos: int
    top1: float
    top5: float
    mean_class: float
    loss: float
    confusion: Tensor

    @property
    def per_class(self) -> list[ClassMetrics]:
        """Metrics of each class."""
        right = self.confusion.diagonal().tolist()
        videos, predicted = self.confusion.sum(1).tolist(), self.confusion.sum(0).tolist()
        return [
            ClassMetrics(
                videos=total,
                predicted=answers,
                top1=_ratio(hits, total),
                precision=_ratio(hits, answers),
                f1=_ratio(2 * hits, total + answers),
            )
            for hits, total, answers in zip(right, videos, predicted, strict=True)
        ]


def _ratio(part: int, total: int) -> float | None:
    return part / total if total else None


def measure(scores: Tensor, labels: Tensor) -> Accuracy:
    """Measure the accuracy of class probabilities.

    Args:
        scores: float `(V, num_classes)`, class probabilities of each video.
        labels: int64 `(V,)`.

    Raises:
        ValueError: There are no videos, or the shapes do not match.
    """
    if scores.dim() != 2 or scores.shape[:1] != labels.shape or not len(labels):
        raise ValueError(
            f"scores {tuple(scores.shape)} and labels {tuple(labels.shape)} do not match"
        )
    videos, classes = scores.shape
    confusion = torch.bincount(labels * classes + scores.argmax(1), minlength=classes * classes)
    confusion = confusion.view(classes, classes)
    present = confusion.sum(1) > 0
    per_class = confusion.diagonal()[present].double() / confusion.sum(1)[present]
    right = scores.double().gather(1, labels[:, None]).clamp_min(1e-12)
    return Accuracy(
        videos=videos,
        top1=int(correct_among_best(scores, labels, 1)) / videos,
        top5=int(correct_among_best(scores, labels, 5)) / videos,
        mean_class=float(per_class.mean()),
        loss=float(-right.log().mean()),
        confusion=confusion,
    )
