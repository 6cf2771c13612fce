"""Whether a network uses the order of frames: its answers when the frames are in another order.

A data set whose classes differ in scene or posture loses little; one whose classes differ in the
direction of motion loses everything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from p3d.data.views import FrameOrder
from p3d.inference.scoring import VideoScores
from p3d.scores.accuracy import Accuracy, measure
from p3d.scores.resampling import Bootstrap, Groups, Interval, number_groups
from p3d.scores.tables import describe_intervals
from p3d.system.csv_file import write_csv
from p3d.system.text import format_percent, format_table

Frames = Literal["ordered", "reversed", "shuffled", "still", "all"]
_COUNTS = ("lost", "gained", "changed")
_COLUMNS = ("frames", "videos", "top1", "mean_class", "difference", "low", "high")
_BOOTSTRAP = Bootstrap()


def orders_of(frames: Frames) -> tuple[FrameOrder, ...]:
    """Return the orders to measure; the first one gives the figures of the evaluation."""
    return get_args(FrameOrder) if frames == "all" else (frames,)


@dataclass(frozen=True)
class OrderResult:
    """The accuracy with frames in one order, compared with that of ordered frames.

    Attributes:
        order: The order.
        accuracy: Over the videos that could be read in both orders.
        lost: Videos that are right only in order.
        gained: Videos that are right only in this order.
        changed: Videos with another answer, right or wrong.
        interval: 95% interval of the difference; None if there are fewer than two groups.
        groups: The groups that were resampled for it.
    """

    order: FrameOrder
    accuracy: Accuracy
    lost: int
    gained: int
    changed: int
    interval: Interval | None
    groups: Groups

    @property
    def difference(self) -> float:
        """Top-1 minus that of ordered frames, in [-1, 1]."""
        return (self.gained - self.lost) / self.accuracy.videos


def compare_orders(
    scored: Mapping[FrameOrder, VideoScores], groups: Sequence[str]
) -> list[OrderResult]:
    """Compare the scores of each order with those of the first one, "ordered".

    Args:
        scored: The scores of the same videos by order.
        groups: Group of each video of the data set; "" if unknown.
    """
    first = next(iter(scored.values()))
    return [_compare(order, first, scores, groups) for order, scores in scored.items()]


def _compare(
    order: FrameOrder, base: VideoScores, other: VideoScores, groups: Sequence[str]
) -> OrderResult:
    # An order that shows fewer frames can read videos that are damaged elsewhere.
    first, second = (
        one.probabilities[torch.isin(one.indices, two.indices)]
        for one, two in ((base, other), (other, base))
    )
    in_both = torch.isin(base.indices, other.indices)
    labels = base.labels[in_both]
    before, now = first.argmax(1), second.argmax(1)
    numbered = number_groups([groups[index] for index in base.indices[in_both].tolist()])
    change = ((now == labels).double() - (before == labels).double()).numpy()
    return OrderResult(
        order,
        measure(second, labels),
        lost=int(((before == labels) & (now != labels)).sum()),
        gained=int(((before != labels) & (now == labels)).sum()),
        changed=int((before != now).sum()),
        interval=_BOOTSTRAP.interval_of_mean(numbered, change),
        groups=numbered,
    )


def motion_table(results: list[OrderResult]) -> str:
    """Return the results as a table for people."""
    header = ("frames", "top-1", "mean class", "difference", "95% interval", *_COUNTS)
    rows = [_row(result) for result in results]
    return "\n".join(
        [
            format_table(header, rows),
            "lost: right only in order; gained: wrong only in order; changed: another answer.",
            "The difference is in points of top-1.",
            describe_intervals(results[-1].groups, _BOOTSTRAP),
        ]
    )


def _row(result: OrderResult) -> tuple[object, ...]:
    figures = format_percent(result.accuracy.top1), format_percent(result.accuracy.mean_class)
    if result.order == "ordered":
        return (result.order, *figures, "", "", "", "", "")
    interval = ""
    if result.interval is not None:
        interval = " to ".join(f"{100 * end:+.0f}" for end in result.interval)
    difference = f"{100 * result.difference:+.1f}", interval
    return (result.order, *figures, *difference, result.lost, result.gained, result.changed)


def write_motion(path: Path, results: Sequence[OrderResult]) -> None:
    """Write the results to a CSV file, with a line for each order.

    The last column is the number of groups that were resampled; without two, the interval is NaN.

    Raises:
        UserError: The file cannot be written.
    """
    write_csv(
        path,
        (*_COLUMNS, *_COUNTS, "groups"),
        [
            (
                result.order,
                result.accuracy.videos,
                round(result.accuracy.top1, 4),
                round(result.accuracy.mean_class, 4),
                round(result.difference, 4),
                *(round(limit, 4) for limit in result.interval or (math.nan, math.nan)),
                result.lost,
                result.gained,
                result.changed,
                result.groups.count,
            )
            for result in results
        ],
    )
