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


def label_ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """Return how many classes come before the label: 0 if it is the answer.

    Of classes with equal scores, the one with the lower index comes first. NaN comes before all
    numbers.

    Args:
        scores: float `(N, num_classes)`, logits or probabilities.
        labels: int64 `(N,)`.

    Returns:
        int64 `(N,)`, in [0, num_classes].
    """
    right = scores.gather(1, labels[:, None])
    is_lower = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    # Not `scores > right`, which is false for NaN.
    return (~(scores <= right) | ((scores == right) & is_lower)).sum(1)


def correct_among_best(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Count the rows whose label is among the k largest scores, see `label_ranks`.

    With fewer than k classes every row counts.

    Args:
        logits: float `(N, num_classes)`, logits or probabilities.
        labels: int64 `(N,)`.
        k: Number of classes to look at.

    Returns:
        int64 `()` on the device of the scores, without synchronizing it.
    """
    if k >= logits.shape[1]:
        return torch.ones_like(labels).sum()
    return (label_ranks(logits, labels) < k).sum()


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
class ConfusedPair:
    """Two classes of which one is taken for the other.

    Attributes:
        truth: Index of the true class.
        answer: Index of the class that is predicted for it.
        videos: Number of such videos, at least 1.
        fraction: Their fraction of the videos of the true class.
    """

    truth: int
    answer: int
    videos: int
    fraction: float


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

    @property
    def confused_pairs(self) -> list[ConfusedPair]:
        """The mistakes by pair of classes: most videos first, then the largest fraction."""
        wrong = self.confusion.clone().fill_diagonal_(0)
        totals = self.confusion.sum(1).tolist()
        pairs = [
            ConfusedPair(truth, answer, count := int(wrong[truth, answer]), count / totals[truth])
            for truth, answer in wrong.nonzero().tolist()
        ]
        return sorted(pairs, key=lambda pair: (-pair.videos, -pair.fraction))


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
