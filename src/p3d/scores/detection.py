"""How well segments of videos are found: average precision by overlap, and segmental F1.

The overlap of two segments is the length of their intersection divided by that of their union
("tIoU").
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TIOU_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""Thresholds of ActivityNet: 0.5, 0.55, ..., 0.95."""

F1_THRESHOLDS = (0.1, 0.25, 0.5)

_ROUNDING = 1e-9
"""An overlap that equals a threshold reaches it, however it is rounded."""


class Found(NamedTuple):
    """A segment of a video, in seconds, its end after its start; a true one's score is ignored."""

    video: str
    start: float
    end: float
    label: str
    score: float = 1.0


class DetectionFigures(NamedTuple):
    """Figures of the segments of a set of videos.

    Attributes:
        average_precision: For each class of the truth, its average precision at each threshold of
            `TIOU_THRESHOLDS`.
        f1: Segmental F1 at each threshold of `F1_THRESHOLDS`.
        true_segments: Number of true segments.
        found_segments: Number of segments that were found.
    """

    average_precision: Mapping[str, NDArray[np.float64]]
    f1: tuple[float, ...]
    true_segments: int
    found_segments: int

    @property
    def mean_average_precision(self) -> NDArray[np.float64]:
        """The mean over classes at each threshold: float64 `(10,)`."""
        mean: NDArray[np.float64] = np.mean(list(self.average_precision.values()), 0)
        return mean


def overlaps(segment: Found, others: Sequence[Found]) -> NDArray[np.float64]:
    """Return the overlap of a segment with each of some others, 0 to 1."""
    starts = np.array([other.start for other in others], np.float64)
    ends = np.array([other.end for other in others], np.float64)
    shared = np.minimum(ends, segment.end) - np.maximum(starts, segment.start)
    shared = np.maximum(shared, 0)
    union = (ends - starts) + (segment.end - segment.start) - shared
    result: NDArray[np.float64] = shared / union
    return result


def detection_figures(found: Sequence[Found], truth: Sequence[Found]) -> DetectionFigures:
    """Compare segments with the true ones.

    Args:
        found: Segments with scores; those in videos without truth count as mistakes.
        truth: True segments, at least one.
    """
    f1 = tuple(segmental_f1(found, truth, threshold) for threshold in F1_THRESHOLDS)
    return DetectionFigures(precision_by_class(found, truth), f1, len(truth), len(found))


def precision_by_class(
    found: Sequence[Found], truth: Sequence[Found]
) -> dict[str, NDArray[np.float64]]:
    """Return `average_precision` of each class of the truth."""
    found_of, true_of = _by_label(found), _by_label(truth)
    return {
        label: average_precision(found_of.get(label, []), true_of[label])
        for label in sorted(true_of)
    }


def average_precision(
    found: Sequence[Found],
    truth: Sequence[Found],
    thresholds: Sequence[float] = TIOU_THRESHOLDS,
) -> NDArray[np.float64]:
    """Return the average precision of one class, as ActivityNet defines it.

    Segments are taken in the order of their scores. Each is right if it overlaps a true segment of
    its video that no earlier one has taken; of several, it takes the one that it overlaps most.
    Precision is interpolated: at each recall, the highest precision at that recall or above.

    Args:
        found: Segments of the class.
        truth: Its true segments, at least one.
        thresholds: Overlaps that are needed.

    Returns:
        float64 `(len(thresholds),)`, 0 to 1.
    """
    by_video = _group(truth)
    ordered = sorted(found, key=lambda each: -each.score)
    needed, rows = np.array(thresholds) - _ROUNDING, np.arange(len(thresholds))
    right = np.zeros((len(thresholds), len(ordered)), bool)
    taken = {key: np.zeros((len(thresholds), len(each)), bool) for key, each in by_video.items()}
    for position, segment in enumerate(ordered):
        key = (segment.video, segment.label)
        if key not in by_video:
            continue
        free = np.where(taken[key], -1.0, overlaps(segment, by_video[key]))
        best = free.argmax(1)
        reached = free[rows, best] >= needed
        taken[key][rows[reached], best[reached]] = right[reached, position] = True
    return np.array([_interpolated(row, len(truth)) for row in right])


def _interpolated(right: NDArray[np.bool_], positives: int) -> float:
    """Return the area under the interpolated precision, of results in order."""
    precision = right.cumsum() / np.arange(1, len(right) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    return float(highest[right].sum()) / positives


def segmental_f1(found: Sequence[Found], truth: Sequence[Found], threshold: float) -> float:
    """Return the segmental F1 of Lea et al. (2017), over all videos together.

    In the order of time, each found segment is compared with the true one of its class that it
    overlaps most. It is right if the overlap is large enough and no earlier one was right there.

    Args:
        found: Found segments; scores are ignored.
        truth: True segments.
        threshold: Overlap that is needed.
    """
    by_class = _group(truth)
    hit = {key: set[int]() for key in by_class}
    for segment in sorted(found):
        key = (segment.video, segment.label)
        if key in by_class:
            overlap = overlaps(segment, by_class[key])
            best = int(overlap.argmax())
            if overlap[best] >= threshold - _ROUNDING:
                hit[key].add(best)
    right = sum(map(len, hit.values()))
    total = len(found) + len(truth)
    return 2 * right / total if total else 0.0


def _by_label(segments: Iterable[Found]) -> dict[str, list[Found]]:
    groups: dict[str, list[Found]] = defaultdict(list)
    for each in segments:
        groups[each.label].append(each)
    return dict(groups)


def _group(segments: Iterable[Found]) -> dict[tuple[str, str], list[Found]]:
    """Return segments by video and class."""
    groups: dict[tuple[str, str], list[Found]] = defaultdict(list)
    for each in segments:
        groups[each.video, each.label].append(each)
    return dict(groups)
