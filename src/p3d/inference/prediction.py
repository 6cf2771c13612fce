"""The classes that a network predicts for a video, as text and as HTML."""

from __future__ import annotations

import html
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

from torch import Tensor

from p3d.errors import UserError, printable
from p3d.system.text import format_percent

UNKNOWN = "unknown"
"""The answer where no class is likely enough."""

_SHOWN = 5
"""Classes in a `repr`."""


@dataclass(frozen=True, repr=False)
class Prediction:
    """The classes that a network predicts for a video.

    Attributes:
        path: The video; None for frames in memory.
        scores: float32 `(num_classes,)`, mean probabilities over the clips.
        class_names: Name of each class; its number if no names are known.
        num_frames: Frames of the video; 0 if unknown.
        seen: The part of the video that the clips span, in (0, 1].
        num_clips: Number of clips that the answer takes; 0 if unknown.
        whole_clips: Number of clips that would span the whole video; 0 if unknown.
        fps: Frame rate of the video in frames per second; 0 if unknown.
    """

    path: Path | None
    scores: Tensor
    class_names: tuple[str, ...]
    num_frames: int = 0
    seen: float = 1.0
    num_clips: int = 0
    whole_clips: int = 0
    fps: float = 0.0

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """Return the k most likely classes with their probabilities, best first.

        Raises:
            UserError: k is not a number of classes.
        """
        if not isinstance(k, Integral) or k < 0:
            raise UserError(f"k is {k!r}; give a number of classes, 0 or more")
        best = self.scores.topk(min(k, len(self.class_names)))
        return [
            (self.class_names[index], score)
            for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    def answer(self, threshold: float = 0.0) -> str:
        """Return the most likely class, or "unknown" if its probability is below the threshold."""
        ((name, probability),) = self.top(1)
        return name if probability >= threshold else UNKNOWN

    def describe_seen(self) -> str:
        """Return how much of the video the clips span: `saw 8% of 12,000 frames`."""
        if not self.num_frames:
            return ""
        # Rounded down, so that only a video that was seen to the end says 100%.
        percent = int(100 * self.seen) or "less than 1"
        return f"saw {percent}% of {self.num_frames:,} frames"

    def __repr__(self) -> str:
        name = "frames in memory" if self.path is None else printable(self.path)
        classes = ", ".join(
            f"{printable(name)} {format_percent(score)}" for name, score in self.top(_SHOWN)
        )
        more = ", ..." if len(self.class_names) > _SHOWN else ""
        return f"<Prediction of {name}: {classes}{more}; {self.describe_seen()}>"

    def _repr_html_(self) -> str:
        """Return a table of bars, which notebooks show."""
        rows = "".join(_row(name, score) for name, score in self.top(_SHOWN))
        name = "frames in memory" if self.path is None else printable(self.path)
        caption = html.escape(f"{name}: {self.describe_seen()}")
        style = "caption-side:top;text-align:left;white-space:nowrap;font-weight:bold"
        return (
            '<table style="border-collapse:collapse;color:inherit">'
            f'<caption style="{style}">{caption}</caption>{rows}</table>'
        )


def _row(name: str, score: float) -> str:
    bar = f'<div style="background:#4c78a8;height:0.8em;width:{max(100 * score, 0.5):.1f}%"></div>'
    return (
        '<tr style="background:none">'
        f'<td style="text-align:left;padding:2px 8px 2px 0">{html.escape(printable(name))}</td>'
        f'<td style="width:12em;padding:2px 0">{bar}</td>'
        f'<td style="text-align:right;padding:2px 0 2px 8px">{format_percent(score)}</td></tr>'
    )
