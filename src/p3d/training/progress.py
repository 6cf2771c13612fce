"""Position of a training run and the sums of its current epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

OF_BEST = ("best_top1", "best_loss", "best_epoch", "best_answers", "improved_epoch")
"""Fields about the best epoch so far."""


@dataclass
class Progress:
    """Position of a run; equal on all ranks except for the times.

    Attributes:
        epoch: The current epoch, from 0.
        step_in_epoch: Optimizer steps done in it.
        step: Optimizer steps done in all.
        best_top1: Best validation accuracy so far, in [0, 1]; -1 before the first.
        best_loss: Validation loss of the best epoch, which breaks ties; infinite if unknown.
        best_epoch: Epoch of the best network, from 1; None before the first.
        best_answers: Its answers, see `p3d.training.comparison.answers_of`; "" if unknown.
        improved_epoch: Epoch that last raised the best accuracy, from 1; None before the first.
        clips: Clips of the current epoch so far.
        loss: Sum of their losses.
        top1: Number of them that are right.
        top5: Number with the right class among the five best.
        bad: Videos skipped in the current epoch.
        overflows: Steps skipped in it (fp16 overflow).
        seconds: Time spent in its steps.
        waited: Part of that time spent waiting for clips.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    best_top1: float = -1.0
    best_loss: float = math.inf
    best_epoch: int | None = None
    best_answers: str = ""
    improved_epoch: int | None = None
    clips: int = 0
    loss: float = 0.0
    top1: int = 0
    top5: int = 0
    bad: int = 0
    overflows: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def means(self) -> dict[str, float]:
        """Return the mean loss, top-1 and top-5 of the epoch so far."""
        clips = max(1, self.clips)
        return {"loss": self.loss / clips, "top1": self.top1 / clips, "top5": self.top5 / clips}

    def next_epoch(self) -> None:
        """Start the next epoch."""
        for item in fields(self):
            if item.name not in ("epoch", "step", *OF_BEST):
                setattr(self, item.name, item.default)
        self.epoch += 1
