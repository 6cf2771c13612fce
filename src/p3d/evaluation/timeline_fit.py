"""The options that cut timelines best: every combination of a grid is tried on kept scores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import groupby, product
from statistics import median
from typing import Literal

import numpy as np

from p3d.inference.timeline.cut_options import CutOptions
from p3d.inference.timeline.segments import Cell, Cells, Stretch, Stretches
from p3d.inference.timeline.timeline import Timeline
from p3d.scores.detection import F1_THRESHOLDS, Found, precision_by_class, segmental_f1
from p3d.scores.segment_file import video_key

Goal = Literal["map", "f1"]

_HIGHS = (0.05, *(number / 10 for number in range(1, 10)), 0.95)
_LOWS = (0.25, 0.5, 0.75, 1.0)
"""Parts of the high threshold."""
_SMOOTHS = (0.0, 0.125, 0.25, 0.5, 1.0)
_GAPS = (0.0, 0.125, 0.25, 0.5)
"""Shortest segment and longest gap. These and the smoothing are parts of the median length of true
segments."""


@dataclass(frozen=True)
class CutFit:
    """The best options of those that were tried.

    Attributes:
        cut: The options.
        value: Their value of the goal, 0 to 1.
        tried: Number of combinations.
    """

    cut: CutOptions
    value: float
    tried: int


def goal_value(goal: Goal, found: Sequence[Found], truth: Sequence[Found]) -> float:
    """Return what is maximized: average mAP, or the mean of segmental F1@10, 25 and 50."""
    if goal == "map":
        return float(np.mean(list(precision_by_class(found, truth).values())))
    return float(np.mean([segmental_f1(found, truth, each) for each in F1_THRESHOLDS]))


def candidates(truth: Sequence[Found]) -> list[CutOptions]:
    """Return the options to try: the defaults, and a grid that fits the length of segments."""
    length = median(each.end - each.start for each in truth)
    smooths, gaps = ([round(length * part, 3) for part in parts] for parts in (_SMOOTHS, _GAPS))
    grid = product(smooths, _HIGHS, _LOWS, gaps, gaps)
    return [CutOptions()] + [
        CutOptions(smooth, high, round(high * part, 4), shortest, merge)
        for smooth, high, part, shortest, merge in grid
    ]


def fit_cut(
    timelines: Sequence[Timeline],
    truth: Sequence[Found],
    goal: Goal,
    advance: Callable[[int], object] = lambda _: None,
) -> CutFit:
    """Try all of `candidates`, and return the best. Of equals, the nearest to the defaults.

    Args:
        timelines: Videos with their scores.
        truth: Their true segments, at least one.
        goal: What is maximized.
        advance: Called with a number of candidates that were tried.
    """
    options = sorted(candidates(truth), key=lambda cut: (cut.smooth, cut.low))
    tried = list[tuple[float, float, CutOptions]]()
    for smooth, same_smooth in groupby(options, key=lambda cut: cut.smooth):
        cells = [_cells(timeline, smooth) for timeline in timelines]
        for low, group in groupby(same_smooth, key=lambda cut: cut.low):
            found = [
                of_class
                for timeline, each in zip(timelines, cells, strict=True)
                for of_class in _stretches(timeline, each, low)
            ]
            for cut in group:
                segments = [segment for of_class in found for segment in of_class.cut(cut)]
                value = goal_value(goal, segments, truth)
                tried.append((round(value, 9), -_distance(cut), cut))
                advance(1)
    value, _, best = max(tried, key=lambda each: each[:2])
    return CutFit(best, value, len(tried))


@dataclass(frozen=True)
class _ClassStretches:
    """The stretches of a class in a video, in their order."""

    video: str
    label: str
    stretches: list[Stretch]

    def cut(self, cut: CutOptions) -> Iterator[Found]:
        """Yield the segments that a `Cutter` makes of them."""
        last: Stretch | None = None
        for stretch in self.stretches:
            if stretch.peak < cut.high:
                continue
            if last is not None and stretch.follows(last, cut.merge):
                last = last.joined(stretch)
                continue
            yield from self._found(last, cut.shortest)
            last = stretch
        yield from self._found(last, cut.shortest)

    def _found(self, stretch: Stretch | None, shortest: float) -> Iterator[Found]:
        if stretch is not None and stretch.lasts(shortest):
            score = stretch.total / stretch.length
            yield Found(self.video, stretch.start, stretch.end, self.label, score)


def _cells(timeline: Timeline, smooth: float) -> list[Cell]:
    cells, found = Cells(smooth), list[Cell]()
    for time, row in zip(timeline.times.tolist(), timeline.scores, strict=True):
        found += cells.push(time, row)
    return [*found, *cells.finish(timeline.duration)]


def _stretches(timeline: Timeline, cells: Iterable[Cell], low: float) -> list[_ClassStretches]:
    """Return the stretches of each class that has some."""
    names, video = timeline.class_names, video_key(timeline.name)
    stretches, of_class = Stretches(names, low), defaultdict[int, list[Stretch]](list)
    ended = [stretch for cell in cells for stretch in stretches.push(cell)]
    for stretch in (*ended, *stretches.finish()):
        of_class[stretch.label].append(stretch)
    return [_ClassStretches(video, names[label], each) for label, each in of_class.items()]


def _distance(cut: CutOptions) -> float:
    default = CutOptions()
    gaps = (getattr(cut, each.name) - getattr(default, each.name) for each in fields(cut))
    return float(sum(abs(gap) for gap in gaps))
