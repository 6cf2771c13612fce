"""Accuracy of video scores: top-1, top-5, per class, and the confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def correct_among_best(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """How many rows of `(N, num_classes)` scores have their label among the k best.

    With fewer than k classes every row counts.

    Returns:
        int64 `()`, on the scores' device, which is not waited for.
    """
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (best == labels[:, None]).any(1).sum()


@dataclass(frozen=True)
class Accuracy:
    """The outcome of an evaluation, over videos.

    Attributes:
        videos: How many videos were scored.
        top1: Share of videos whose best class is right, in [0, 1].
        top5: Share with the right class among the five best.
        mean_class: Mean over the classes that have videos of their top-1 accuracy.
        loss: Mean of -log(score of the right class).
        confusion: int64 `(num_classes, num_classes)`; row = truth, column = answer.
    """

    videos: int
    top1: float
    top5: float
    mean_class: float
    loss: float
    confusion: Tensor

    @property
    def per_class(self) -> list[float | None]:
        """Top-1 accuracy a class; None where a class has no video."""
        totals = self.confusion.sum(1)
        return [
            float(self.confusion[i, i] / total) if total else None for i, total in enumerate(totals)
        ]


def measure(scores: Tensor, labels: Tensor) -> Accuracy:
    """Accuracy of class probabilities.

    Args:
        scores: float `(V, num_classes)`, one row of probabilities a video.
        labels: int64 `(V,)`.

    Raises:
        ValueError: There are no videos, or the shapes do not fit.
    """
    if scores.dim() != 2 or scores.shape[:1] != labels.shape or not len(labels):
        raise ValueError(f"cannot measure scores {tuple(scores.shape)} by {tuple(labels.shape)}")
    videos, classes = scores.shape
    answers = scores.argmax(1)
    confusion = torch.bincount(labels * classes + answers, minlength=classes * classes)
    confusion = confusion.view(classes, classes)
    present = confusion.sum(1) > 0
    of_class = confusion.diagonal()[present] / confusion.sum(1)[present]
    right = scores.double().gather(1, labels[:, None]).clamp_min(1e-12)
    return Accuracy(
        videos=videos,
        top1=int(correct_among_best(scores, labels, 1)) / videos,
        top5=int(correct_among_best(scores, labels, 5)) / videos,
        mean_class=float(of_class.double().mean()),
        loss=float(-right.log().mean()),
        confusion=confusion,
    )
