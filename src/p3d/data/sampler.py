"""Which clips a process loads, step by step: shares of one global order.

The order of an epoch, and the clips of each optimiser step, depend on the seed, the epoch and the
number of clips a step alone. How many processes there are, and how many clips one takes at once,
only decides who computes what: so the same run goes on with other numbers of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from p3d.data.sampling import epoch_permutation


class StepSampler:
    """Yields one process's batches as lists of (epoch, clip number), `batches_per_step` a step.

    The clips of an epoch that do not fill a step are left out (others in each epoch). A process
    takes every `world_size`-th clip of a step and divides them evenly into batches; all processes
    have the same number of batches, some of which may be smaller by one clip, or empty.

    Args:
        clips: Clips of an epoch.
        clips_per_step: Clips of an optimiser step over all processes; where there are fewer in an
            epoch, those are the one step.
        batch_size: The most clips a process takes at once.
        seed: Determines the order.
        rank: This process's number among `world_size`.
        world_size: Processes that train together.

    Attributes:
        epoch: The epoch that the next iteration yields.
        start_step: The step of it to begin with.
    """

    def __init__(
        self,
        clips: int,
        *,
        clips_per_step: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.clips = clips
        self.clips_per_step = min(clips_per_step, clips)
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.start_step = 0
        largest_share = -(-self.clips_per_step // world_size)
        self.batches_per_step = -(-largest_share // batch_size)

    @property
    def steps_per_epoch(self) -> int:
        """Whole steps in an epoch; 1 or more."""
        return self.clips // self.clips_per_step

    def __len__(self) -> int:
        """Batches that the next iteration yields."""
        return (self.steps_per_epoch - self.start_step) * self.batches_per_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self._batches(self.epoch, self.start_step)

    def _batches(self, epoch: int, start_step: int) -> Iterator[list[tuple[int, int]]]:
        order = epoch_permutation(self.seed, epoch, self.clips)
        for step in range(start_step, self.steps_per_epoch):
            start = step * self.clips_per_step
            share = order[start : start + self.clips_per_step][self.rank :: self.world_size]
            for batch in np.array_split(share, self.batches_per_step):
                yield [(epoch, number) for number in batch.tolist()]
