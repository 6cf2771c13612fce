"""Unequal classes: a balanced order of training clips, and weights of classes in the loss."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from p3d.data.sampling import Indices, epoch_rng


def balanced_order(labels: NDArray[np.int64], num_clips: int, seed: int, epoch: int) -> Indices:
    """Return an epoch's clips, of which each class has the same number, in random order.

    If the number of clips is no multiple of the number of classes, random classes have one more. In
    each class, all videos are drawn equally often, or random ones once more. A pure function of its
    arguments.

    Args:
        labels: Label of each video.
        num_clips: Clips of the epoch.
        seed: The run's seed, >= 0.
        epoch: The epoch, from 0.

    Returns:
        int64 `(num_clips,)`: clip n is draw `n // len(labels)` from video `n % len(labels)`. The
        draws of a video are numbered from 0 in the order of the epoch.
    """
    rng = epoch_rng(seed, epoch)
    classes = rng.permutation(np.unique(labels))
    share, more = divmod(num_clips, len(classes))
    drawn = [
        np.resize(rng.permutation(np.flatnonzero(labels == label)), share + (place < more))
        for place, label in enumerate(classes)
    ]
    videos = rng.permutation(np.concatenate(drawn))
    # In a stable sort by video, the draws of a video follow each other.
    by_video = videos.argsort(kind="stable")
    starts = np.searchsorted(videos[by_video], videos[by_video])
    draws = np.empty_like(videos)
    draws[by_video] = np.arange(num_clips) - starts
    numbers: Indices = draws * len(labels) + videos
    return numbers


def class_weights(labels: NDArray[np.int64], num_classes: int) -> NDArray[np.float64]:
    """Return weights that give each class with videos the same sum over the videos.

    The mean over the videos is 1. A class without videos has the weight 0.

    Args:
        labels: Label of each video.
        num_classes: Number of classes.

    Returns:
        float64 `(num_classes,)`.
    """
    counts = np.bincount(labels, minlength=num_classes)
    return np.where(counts, len(labels) / (np.maximum(counts, 1) * (counts > 0).sum()), 0.0)
