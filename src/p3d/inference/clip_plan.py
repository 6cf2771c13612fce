"""Which clips of a video are scored, and when they are enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

from torch import Tensor

from p3d.errors import UserError
from p3d.inference.settled import AUTO_CLIPS, DEFAULT_SETTLED, clips_used, halving_order

NumClips: TypeAlias = int | Literal["auto"]
"""Uniformly spaced clips of each video; "auto" takes as many of 20 as its answer needs."""

_MAX_GROUP = 32
"""Clips of a video that are in memory together."""
_SMALL_BATCH = 4
_USUAL_AUTO = 4


@dataclass(frozen=True)
class ClipPlan:
    """Which of a video's uniformly spaced clips are scored, in which order and groups.

    Attributes:
        groups: Positions of the clips in the order of time, a group for each reading of the video.
        settled: Probability of the answer at which no more clips are scored; None scores all.
    """

    groups: tuple[tuple[int, ...], ...]
    settled: float | None = None

    @property
    def order(self) -> tuple[int, ...]:
        """The clips of all groups, one after the other."""
        return tuple(number for group in self.groups for number in group)

    @property
    def num_clips(self) -> int:
        """Clips of a video in all groups together."""
        return sum(map(len, self.groups))

    def used(self, logits: Tensor, num_groups: int) -> int | None:
        """Return how many clips the answer takes; None if another group is needed.

        Args:
            logits: float `(n, num_classes)`, of the clips of the first groups.
            num_groups: Number of these groups.
        """
        if self.settled is not None:
            return clips_used(logits, self.settled, self.num_clips)
        return len(logits) if num_groups == len(self.groups) else None


def plan_clips(clips: NumClips, settled: float, batch_size: int) -> ClipPlan:
    """Return the plan of a number of clips.

    Args:
        clips: Clips of each video, or "auto".
        settled: Threshold of "auto".
        batch_size: Clips on the device at once. In small batches, "auto" checks after every clip.

    Raises:
        UserError: The number is below 1.
    """
    if clips == "auto":
        order = halving_order(AUTO_CLIPS)
        ends = range(2, AUTO_CLIPS + 1) if batch_size < _SMALL_BATCH else (2, 5, 10, AUTO_CLIPS)
        return ClipPlan(tuple(order[a:b] for a, b in pairwise((0, *ends))), settled)
    if clips < 1:
        raise UserError(f"clips is {clips}; give 1 or more, or auto (the paper's protocol is 20)")
    order = tuple(range(clips))
    return ClipPlan(tuple(order[i : i + _MAX_GROUP] for i in range(0, clips, _MAX_GROUP)))


def expected_clips(clips: NumClips) -> int:
    """Return how many clips of a video are to be scored; a guess for "auto"."""
    return _USUAL_AUTO if clips == "auto" else clips


def settled_threshold(calibration: Mapping[str, float]) -> tuple[float, str]:
    """Return the threshold for "auto" and where it comes from, in words.

    Args:
        calibration: Values that were stored with the weights, see `P3D.calibration`.
    """
    if "settled" in calibration:
        return calibration["settled"], "calibrated"
    return DEFAULT_SETTLED, "default; see p3d calibrate"
