"""Dropout that is a pure function of the seed, the step and the video.

PyTorch's own draws from the device's generator: another device, another number of processes or of
batches a step drops other units, and so is another run. These masks are drawn on the host, a clip
at a time, which for a row of 2,048 features is quick.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


def dropout_masks(
    seed: int, step: int, videos: Iterable[int], features: int, probability: float
) -> Tensor:
    """Factors for the features of a batch's clips: 0 with the given probability, or else 1/(1-p).

    Args:
        seed: The run's seed, >= 0.
        step: The optimiser step, >= 0.
        videos: The clips' videos, by their places in the training list.
        features: Features of a clip.
        probability: Of dropping a feature, in [0, 1).

    Returns:
        float32 `(number of videos, features)`. Two clips of a video in one step share their mask.
    """
    keep = 1.0 - probability
    rows = [
        np.random.Generator(
            np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(step, video, 0)))
        ).random(features, dtype=np.float32)
        < keep
        for video in videos
    ]
    kept = torch.from_numpy(np.array(rows, dtype=np.float32).reshape(-1, features))
    return kept / keep
