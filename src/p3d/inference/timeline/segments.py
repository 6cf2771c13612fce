"""From the scores of sliding windows to segments, window by window.

Scores are smoothed over time. A segment of a class is a stretch in which its smoothed score never
falls below a low threshold and at least once reaches a high one. Segments with a short gap between
them become one; short ones are dropped. All of this looks at most a bounded time back, so that a
live stream and a file give the same segments.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from p3d.inference.timeline.cut_options import CutOptions

Row = NDArray[np.float64]
"""A score of each class: float64 `(num_classes,)`."""

BACKGROUND = "background"
"""A class of this name is where nothing happens: it has no segments."""

_ROUNDING = 1e-6
"""Seconds; times are sums of rounded numbers."""


class Segment(NamedTuple):
    """A stretch of a video that shows a class.

    Attributes:
        start: Its start in seconds from the first frame.
        end: Its end in seconds.
        label: Name of the class.
        score: Mean of the class's smoothed probabilities in it, 0 to 1.
    """

    start: float
    end: float
    label: str
    score: float


class Smoother:
    """Averages the scores at each time over those at most `seconds / 2` before and after it."""

    def __init__(self, seconds: float) -> None:
        self._reach = seconds / 2 + _ROUNDING
        self._rows: deque[tuple[float, Row]] = deque()
        self._waiting = 0

    def push(self, time: float, row: Row) -> Iterator[tuple[float, Row]]:
        """Add the scores at a time after all others; yield those that are now known."""
        self._rows.append((time, row))
        self._waiting += 1
        while self._waiting and self._next() + self._reach < time:
            yield self._take()

    def finish(self) -> Iterator[tuple[float, Row]]:
        """Yield what is left at the end."""
        while self._waiting:
            yield self._take()

    def _next(self) -> float:
        return self._rows[-self._waiting][0]

    def _take(self) -> tuple[float, Row]:
        time = self._next()
        while self._rows[0][0] < time - self._reach:
            self._rows.popleft()
        near = [row for other, row in self._rows if other <= time + self._reach]
        self._waiting -= 1
        return time, np.mean(near, 0)


@dataclass(frozen=True)
class Stretch:
    """Time in which a class stays above the low threshold.

    Attributes:
        label: Index of the class.
        start: Its start in seconds.
        end: Its end in seconds.
        total: Integral of the class's smoothed score over it.
        length: Seconds that the integral is over.
        peak: Highest score in it.
    """

    label: int
    start: float
    end: float
    total: float
    length: float
    peak: float

    def joined(self, later: Stretch) -> Stretch:
        """Return both as one; what lies between them does not count for the score."""
        return replace(
            later,
            start=self.start,
            total=self.total + later.total,
            length=self.length + later.length,
            peak=max(self.peak, later.peak),
        )

    def follows(self, earlier: Stretch, merge: float) -> bool:
        """Return whether the gap to an earlier one is short enough to be one with it."""
        return self.start - earlier.end <= merge + _ROUNDING

    def lasts(self, shortest: float) -> bool:
        """Return whether it is long enough for a segment."""
        return self.end - self.start >= shortest - _ROUNDING

    def segment(self, class_names: Sequence[str]) -> Segment:
        """Return it as a segment."""
        return Segment(self.start, self.end, class_names[self.label], self.total / self.length)


class Cell(NamedTuple):
    """The time for which a window stands: halfway to its neighbors.

    Attributes:
        start: Its start in seconds; 0 for the first one.
        end: Its end; for the last one, the end of the video.
        row: Smoothed scores.
    """

    start: float
    end: float
    row: Row


class Cells:
    """The smoothed scores of windows as cells without gaps.

    Args:
        smooth: Seconds over which scores are averaged.
    """

    def __init__(self, smooth: float) -> None:
        self._smoother = Smoother(smooth)
        self._last: tuple[float, Row] | None = None
        self._edge = 0.0

    def push(self, center: float, row: Row) -> Iterator[Cell]:
        """Add a window after all others; yield the cells that are now known."""
        return self._add(self._smoother.push(center, row))

    def finish(self, duration: float) -> Iterator[Cell]:
        """Yield what is left, at the end of a video of this many seconds."""
        yield from self._add(self._smoother.finish())
        if self._last is not None:
            yield from self._until(max(duration, self._edge), self._last[1])

    def _add(self, smoothed: Iterable[tuple[float, Row]]) -> Iterator[Cell]:
        for time, row in smoothed:
            if self._last is not None:
                yield from self._until((self._last[0] + time) / 2, self._last[1])
            self._last = time, row

    def _until(self, end: float, row: Row) -> Iterator[Cell]:
        if end > self._edge:
            start, self._edge = self._edge, end
            yield Cell(start, end, row)


class Stretches:
    """The stretches of all classes but the background, cell by cell.

    Args:
        class_names: Names of the classes.
        low: The low threshold.

    Attributes:
        running: By class, the stretch that the last cell belongs to.
    """

    def __init__(self, class_names: Sequence[str], low: float) -> None:
        self._low = low
        self._counts = np.array([name != BACKGROUND for name in class_names])
        self.running: dict[int, Stretch] = {}

    def push(self, cell: Cell) -> list[Stretch]:
        """Add a cell after all others; return the stretches that end before it."""
        above = np.flatnonzero((cell.row >= self._low) & self._counts).tolist()
        ended = [self.running.pop(label) for label in [*self.running] if label not in above]
        for label in above:
            score, length = float(cell.row[label]), cell.end - cell.start
            new = Stretch(label, cell.start, cell.end, score * length, length, score)
            earlier = self.running.get(label)
            self.running[label] = new if earlier is None else earlier.joined(new)
        return ended

    def finish(self) -> list[Stretch]:
        """Return the stretches that are left at the end."""
        left, self.running = [*self.running.values()], {}
        return left


class Cutter:
    """Cuts the scores of windows into segments.

    Args:
        class_names: Names of the classes.
        options: How to cut.
    """

    def __init__(self, class_names: Sequence[str], options: CutOptions) -> None:
        options.check()
        self._names, self._options = class_names, options
        self._cells = Cells(options.smooth)
        self._stretches = Stretches(class_names, options.low)
        self._closed: dict[int, Stretch] = {}  # may still be merged with a later one

    def push(self, center: float, scores: Row) -> Iterator[Segment]:
        """Add a window after all others; yield the segments that are now final.

        Args:
            center: Its middle in seconds from the first frame.
            scores: Probability of each class.
        """
        return self._add(self._cells.push(center, scores))

    def finish(self, duration: float) -> Iterator[Segment]:
        """Yield the segments that are left, at the end of a video of this many seconds."""
        yield from self._add(self._cells.finish(duration))
        self._close(self._stretches.finish())
        yield from self._settle(float("inf"))

    def _add(self, cells: Iterable[Cell]) -> Iterator[Segment]:
        for cell in cells:
            self._close(self._stretches.push(cell))
            yield from self._settle(cell.start)

    def _close(self, ended: Iterable[Stretch]) -> None:
        for stretch in ended:
            if stretch.peak >= self._options.high:
                earlier = self._closed.get(stretch.label)
                self._closed[stretch.label] = earlier.joined(stretch) if earlier else stretch

    def _settle(self, now: float) -> Iterator[Segment]:
        """Yield the stretches that nothing from `now` on can be merged with."""
        for label, stretch in list(self._closed.items()):
            running = self._stretches.running.get(label)
            latest = now if running is None else running.start
            if latest - stretch.end <= self._options.merge + _ROUNDING:
                continue
            del self._closed[label]
            if stretch.lasts(self._options.shortest):
                yield stretch.segment(self._names)


def cut(
    times: NDArray[np.float64],
    scores: NDArray[np.floating],
    class_names: Sequence[str],
    duration: float,
    options: CutOptions,
) -> tuple[Segment, ...]:
    """Cut the scores of all windows of a video into segments, sorted by their starts.

    Args:
        times: `(n,)`, centers of the windows in seconds, increasing.
        scores: `(n, num_classes)`, probabilities.
        class_names: Names of the classes.
        duration: Length of the video in seconds.
        options: How to cut.
    """
    cutter = Cutter(class_names, options)
    found: list[Segment] = []
    for time, row in zip(times.tolist(), scores.astype(np.float64), strict=True):
        found += cutter.push(time, row)
    return tuple(sorted([*found, *cutter.finish(duration)]))
