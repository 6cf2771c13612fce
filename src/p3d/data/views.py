"""What an evaluation shows of a video: where its windows are, and which views each has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Spacing = Literal["uniform", "authors"]
FrameOrder = Literal["ordered", "reversed", "shuffled", "still"]
Crops = Literal[1, 3, 10]


@dataclass(frozen=True)
class Views:
    """How the windows of a video become clips.

    The clips of a window follow each other: its crops, then their mirrored copies.

    Attributes:
        spacing: Where the windows start, see `p3d.data.sampling.spaced_windows`.
        crops: Crops of a frame, see `p3d.data.crops.eval_crop_boxes`; 10 are 5 and their mirrored
            copies.
        mirror: Whether each crop has a mirrored copy.
        order: Order of the frames in a clip, see `p3d.data.sampling.reorder`.
        seed: Seed of the order "shuffled".
    """

    spacing: Spacing = "uniform"
    crops: Crops = 1
    mirror: bool = False
    order: FrameOrder = "ordered"
    seed: int = 0

    @property
    def has_mirrored(self) -> bool:
        """Whether crops have mirrored copies."""
        return self.mirror or self.crops == 10

    @property
    def per_window(self) -> int:
        """Number of clips that a window becomes."""
        return self.crops * 2 if self.mirror else self.crops


CENTER = Views()
"""Uniformly spaced windows, their center crop, frames in order."""
