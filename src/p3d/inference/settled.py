"""Whether more clips of a video could still change the answer.

Clips are scored in an order that halves the gaps between them. After each, the class with the
highest mean probability is compared with every other class: the mean of their margin over the clips
so far, and its standard error, give the probability that the class is still the best one after all
clips. A video is settled once this probability reaches a threshold.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from p3d.errors import UserError

AUTO_CLIPS = 20
"""Uniformly spaced clips from which automatic numbers of clips are taken: the paper's protocol."""

DEFAULT_SETTLED = 0.99
"""Threshold for weights without a calibrated one: conservative."""

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975, 0.99, 0.995, 0.999, 0.9999, 1.0)
"""Thresholds to choose from; 1 takes all clips."""

MAX_LOSS = 0.005
"""Part of the videos whose answers may become wrong by a chosen threshold: half a point."""

_FEWEST = 2
_PRIOR_DEVIATION = 0.25
"""Standard deviation of a margin that is assumed as if one more clip had shown it."""
_ALMOST_SURE = 1 - 1e-9
_VIDEOS_AT_ONCE = 256
_PRIOR_VIDEOS = 200
"""A threshold is chosen as if this many more videos changed as often as the confidences say."""


def halving_order(count: int) -> tuple[int, ...]:
    """Return 0 to count - 1 in an order that halves the gaps: the middle, the quarters, and so on.

    7 clips: `(3, 1, 5, 0, 2, 4, 6)`.
    """
    order: list[int] = []
    gaps = [(0, count)]
    for start, end in gaps:
        if start < end:
            middle = (start + end) // 2
            order.append(middle)
            gaps += [(start, middle), (middle + 1, end)]
    return tuple(order)


def confidences(logits: Tensor, num_clips: int) -> Tensor:
    """Return, after each clip, the probability that the best class so far is the final answer.

    Args:
        logits: float `(..., n, num_classes)`, the first clips in the order of scoring.
        num_clips: Clips of each video in all, at least n.

    Returns:
        float64 `(..., n)`: 0 after a single clip of several, 1 after the last one, else between.
        Not a number where a logit is not.
    """
    probabilities = logits.double().softmax(-1)
    parts = (probabilities[..., : n + 1, :] for n in range(logits.shape[-2]))
    return torch.stack([_confidence(part, num_clips) for part in parts], -1)


def _confidence(probabilities: Tensor, num_clips: int) -> Tensor:
    """Return the confidence after the last one of the given clips."""
    n = probabilities.shape[-2]
    if n == num_clips or n < _FEWEST:
        return torch.full(probabilities.shape[:-2], float(n == num_clips), dtype=torch.float64)
    best = probabilities.mean(-2).argmax(-1)[..., None]
    indices = best[..., None, :].expand(*probabilities.shape[:-1], 1)
    margins = probabilities.gather(-1, indices) - probabilities
    mean = margins.mean(-2)
    spread = (margins - mean[..., None, :]).square().sum(-2) + _PRIOR_DEVIATION**2
    # The final margin is the mean over clips seen and unseen; only the unseen ones are uncertain.
    unseen = num_clips - n
    error = (spread / n * (1 / n + 1 / unseen)).sqrt()
    scores = (num_clips * mean / (unseen * error)).scatter(-1, best, math.inf)
    lowest: Tensor = torch.special.ndtr(scores.amin(-1))
    return lowest.clamp_max(_ALMOST_SURE)


def clips_used(logits: Tensor, settled: float, num_clips: int | None = None) -> int | None:
    """Return after how many clips a video is settled.

    Args:
        logits: float `(n, num_classes)`, the first clips in the order of scoring.
        settled: Probability that counts as settled; 1 takes all clips.
        num_clips: Clips of the video in all; n by default.

    Returns:
        A number from 1 (2 if there are more) to n; None if more clips are needed.
    """
    reached = confidences(logits, num_clips or len(logits)) >= settled
    return int(reached.int().argmax()) + 1 if reached.any() else None


def answers_after_each(logits: Tensor) -> Tensor:
    """Return the best class after each clip.

    Args:
        logits: float `(V, num_clips, num_classes)`, in the order of scoring.

    Returns:
        int64 `(V, num_clips)`.
    """
    return logits.double().softmax(-1).cumsum(1).argmax(-1)


def choose_settled(logits: Tensor, labels: Tensor) -> float:
    """Return the smallest of `THRESHOLDS` that costs at most half a point of top-1 accuracy.

    It costs no more on these videos, nor on new ones as far as can be told: the fraction lost here
    is averaged with the fraction of answers that are expected to change by their confidences, which
    counts as 200 videos. A few videos show no loss by chance; many outweigh the confidences. All
    larger thresholds cost no more than that either.

    Args:
        logits: float `(V, num_clips, num_classes)`, uniformly spaced clips in the order of time, as
            `p3d eval --clips 20 --out` keeps them.
        labels: int64 `(V,)`; videos with a negative label are left out.

    Raises:
        UserError: There are no labeled videos, or only one clip of each.
    """
    logits, labels = logits[labels >= 0], labels[labels >= 0]
    if not len(labels) or logits.shape[1] < _FEWEST:
        raise UserError(
            f"{len(labels)} labeled videos with {logits.shape[1]} clips each cannot show how many "
            f"clips are needed; score videos with labels by p3d eval --clips {AUTO_CLIPS}"
        )
    ordered = logits[:, halving_order(logits.shape[1])]
    right = answers_after_each(ordered) == labels[:, None]
    parts = ordered.split(_VIDEOS_AT_ONCE)
    sure = torch.cat([confidences(part, logits.shape[1]) for part in parts])
    chosen = math.inf
    for threshold in reversed(THRESHOLDS):
        used = (sure >= threshold).int().argmax(1, keepdim=True)
        lost = int(right[:, -1].sum() - right.gather(1, used).sum())
        changed = float(1 - sure.gather(1, used).mean())
        if not _costs_little(lost, changed, len(labels)):
            break
        chosen = threshold
    return chosen


def _costs_little(lost: int, changed: float, num_videos: int) -> bool:
    """Return whether a threshold costs at most half a point, here and as far as is expected.

    Args:
        lost: Videos whose answers become wrong, less those that become right.
        changed: Fraction of the videos whose answers are expected to change.
        num_videos: Videos in all.
    """
    expected = (lost + changed * _PRIOR_VIDEOS) / (num_videos + _PRIOR_VIDEOS)
    return max(lost / num_videos, expected) <= MAX_LOSS
