"""Order of the training clips: a rank's shard of one global order, step by step.

The order of an epoch and the clips of each optimizer step depend only on the seed, the epoch and
the number of clips in a step. The number of ranks and the batch size only decide which rank
computes which clips, so a run can continue with other values of both.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from p3d.data.balance import balanced_order
from p3d.data.sampling import epoch_permutation


class StepSampler:
    """Batches of one rank as lists of (epoch, clip number), `batches_per_step` for each step.

    Clips of an epoch that do not fill a step are dropped (others in each epoch). A rank takes
    every `world_size`-th clip of a step and divides them evenly into batches. All ranks have the
    same number of batches; some batches may be smaller by one clip, or empty.

    Args:
        num_clips: Clips of an epoch.
        clips_per_step: Clips of an optimizer step over all ranks; an epoch with fewer clips is a
            single step.
        batch_size: Largest number of clips in a batch.
        seed: Seed of the order.
        rank: This rank.
        world_size: Number of ranks that train together.
        labels: Labels of the videos, to give each class the same number of clips, see
            `balanced_order`; None takes every video equally often.

    Attributes:
        epoch: Epoch of the next iteration.
        start_step: First step of the next iteration.
    """

    def __init__(
        self,
        num_clips: int,
        *,
        clips_per_step: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        labels: NDArray[np.int64] | None = None,
    ) -> None:
        self.num_clips = num_clips
        self.clips_per_step = min(clips_per_step, num_clips)
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self._labels = labels
        self.epoch = 0
        self.start_step = 0
        largest_shard = -(-self.clips_per_step // world_size)
        self.batches_per_step = -(-largest_shard // batch_size)

    @property
    def steps_per_epoch(self) -> int:
        """Whole steps in an epoch, at least 1."""
        return self.num_clips // self.clips_per_step

    @property
    def smallest_batch(self) -> int:
        """Clips of the smallest batch on any rank, besides empty ones."""
        smallest_shard = self.clips_per_step // self.world_size
        return max(1, smallest_shard // self.batches_per_step)

    def __len__(self) -> int:
        """Return the number of batches of the next iteration."""
        return (self.steps_per_epoch - self.start_step) * self.batches_per_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self._batches(self.epoch, self.start_step)

    def _batches(self, epoch: int, start_step: int) -> Iterator[list[tuple[int, int]]]:
        if self._labels is None:
            order = epoch_permutation(self.seed, epoch, self.num_clips)
        else:
            order = balanced_order(self._labels, self.num_clips, self.seed, epoch)
        for step in range(start_step, self.steps_per_epoch):
            start = step * self.clips_per_step
            shard = order[start : start + self.clips_per_step][self.rank :: self.world_size]
            for batch in np.array_split(shard, self.batches_per_step):
                yield [(epoch, number) for number in batch.tolist()]
