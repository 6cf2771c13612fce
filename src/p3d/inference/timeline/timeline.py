"""When a network sees its classes in a video: the scores of windows, and segments."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from p3d.errors import printable
from p3d.inference.timeline.cut_options import CutOptions
from p3d.inference.timeline.scan import WindowScores, to_probabilities
from p3d.inference.timeline.segments import Segment, cut
from p3d.system.csv_file import csv_line
from p3d.system.text import counted, format_percent, format_table

COLUMNS = ("path", "start", "end", "class", "score")
"""Columns of a CSV file of segments; `p3d detection` reads it."""

_SHOWN = 12
"""Segments in a `repr`."""


@dataclass(frozen=True, repr=False)
class Timeline:
    """When a network sees its classes in a video.

    Attributes:
        path: The video; None for frames in memory; the address of a live stream as text.
        times: float64 `(n,)`, the middle of each window in seconds from the first frame.
        scores: float64 `(n, num_classes)`, probabilities.
        class_names: Name of each class; its number if no names are known.
        duration: Length of the video in seconds.
        segments: The segments, sorted by their starts.
    """

    path: Path | str | None
    times: NDArray[np.float64]
    scores: NDArray[np.float64]
    class_names: tuple[str, ...]
    duration: float
    segments: tuple[Segment, ...] = ()

    def cut(self, options: CutOptions) -> Timeline:
        """Return a copy whose segments are cut from the scores in another way.

        Raises:
            UserError: An option is out of range.
        """
        found = cut(self.times, self.scores, self.class_names, self.duration, options)
        return replace(self, segments=found)

    @property
    def name(self) -> str:
        """The path as text; "frames in memory" without one."""
        return "frames in memory" if self.path is None else str(self.path)

    def to_csv(self) -> str:
        """Return the segments as CSV: path, start, end (in seconds), class and score."""
        return csv_line(COLUMNS) + self.csv_rows()

    def csv_rows(self) -> str:
        """Return the lines of `to_csv` without the header."""
        return "".join(
            csv_line((self.name, f"{s.start:.3f}", f"{s.end:.3f}", s.label, f"{s.score:.4f}"))
            for s in self.segments
        )

    def describe(self) -> str:
        """Return the number of segments and the length of the video in words."""
        return (
            f"{counted(len(self.segments), 'segment')} in {format_time(self.duration)}, "
            f"{counted(len(self.times), 'window')}"
        )

    def table(self, most: int | None = None) -> str:
        """Return the segments as a table; at most so many of them."""
        rows = [
            (s.label, format_time(s.start), format_time(s.end), format_percent(s.score))
            for s in self.segments[:most]
        ]
        hidden = len(self.segments) - len(rows)
        more = [f"(and {counted(hidden, 'segment')} more)"] * (hidden > 0)
        return "\n".join([format_table(("class", "start", "end", "score"), rows), *more])

    def __repr__(self) -> str:
        head = f"<Timeline of {printable(self.name)}: {self.describe()}>"
        return f"{head}\n{self.table(_SHOWN)}" if self.segments else head

    def _repr_html_(self) -> str:
        """Return a table, which notebooks show."""
        rows = "".join(
            f"<tr><td>{format_time(s.start)}</td><td>{format_time(s.end)}</td>"
            f"<td>{html.escape(printable(s.label))}</td><td>{format_percent(s.score)}</td></tr>"
            for s in self.segments
        )
        caption = html.escape(f"{printable(self.name)}: {self.describe()}")
        head = "<tr><th>start</th><th>end</th><th>class</th><th>score</th></tr>"
        return f"<table><caption>{caption}</caption>{head}{rows}</table>"


def make_timeline(
    path: Path | None,
    windows: Sequence[WindowScores],
    duration: float,
    class_names: tuple[str, ...],
    temperature: float,
) -> Timeline:
    """Return the timeline of a video's windows, without segments.

    Args:
        path: The video.
        windows: Its windows, at least one.
        duration: Its length in seconds.
        class_names: Name of each class.
        temperature: What logits are divided by.
    """
    logits = np.array([window.logits for window in windows])
    times = np.array([window.time for window in windows])
    return Timeline(path, times, to_probabilities(logits, temperature), class_names, duration)


def format_time(seconds: float, point: str = ".") -> str:
    """Return a time as hours, minutes, seconds and milliseconds: `0:01:02.500`."""
    total = round(1000 * seconds)
    minutes, rest = divmod(total, 60_000)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"
