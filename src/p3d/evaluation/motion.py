"""Whether a network uses the order of frames: its answers when the frames are in another order.

A data set whose classes differ in scene or posture loses little; one whose classes differ in the
direction of motion loses everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from p3d.data.views import FrameOrder
from p3d.inference.scoring import VideoScores
from p3d.scores.accuracy import Accuracy, measure
from p3d.system.files import write_csv
from p3d.system.text import format_percent, format_table
from p3d.training.comparison import difference_interval

Frames = Literal["ordered", "reversed", "shuffled", "still", "all"]
_COUNTS = ("lost", "gained", "changed")


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
    """

    order: FrameOrder
    accuracy: Accuracy
    lost: int
    gained: int
    changed: int

    @property
    def difference(self) -> float:
        """Top-1 minus that of ordered frames, in [-1, 1]."""
        return (self.gained - self.lost) / self.accuracy.videos

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the difference, if videos are independent."""
        return difference_interval(self.accuracy.videos, self.gained, self.lost)


def compare_orders(scored: Mapping[FrameOrder, VideoScores]) -> list[OrderResult]:
    """Compare the scores of each order with those of the first one, "ordered"."""
    first = next(iter(scored.values()))
    return [_compare(order, first, scores) for order, scores in scored.items()]


def _compare(order: FrameOrder, base: VideoScores, other: VideoScores) -> OrderResult:
    # An order that shows fewer frames can read videos that are damaged elsewhere.
    first, second = (
        one.probabilities[torch.isin(one.indices, two.indices)]
        for one, two in ((base, other), (other, base))
    )
    labels = base.labels[torch.isin(base.indices, other.indices)]
    before, now = first.argmax(1), second.argmax(1)
    return OrderResult(
        order,
        measure(second, labels),
        lost=int(((before == labels) & (now != labels)).sum()),
        gained=int(((before != labels) & (now == labels)).sum()),
        changed=int((before != now).sum()),
    )


def motion_table(results: list[OrderResult]) -> str:
    """Return the results as a table for people."""
    header = ("frames", "top-1", "mean class", "difference", "95% interval", *_COUNTS)
    rows = [_row(result) for result in results]
    return "\n".join(
        [
            format_table(header, rows),
            "lost: right only in order; gained: wrong only in order; changed: another answer.",
            "The difference is in points of top-1; its interval takes videos as independent.",
        ]
    )


def _row(result: OrderResult) -> tuple[object, ...]:
    figures = format_percent(result.accuracy.top1), format_percent(result.accuracy.mean_class)
    if result.order == "ordered":
        return (result.order, *figures, "", "", "", "", "")
    low, high = result.interval
    difference = f"{100 * result.difference:+.1f}", f"{100 * low:+.0f} to {100 * high:+.0f}"
    return (result.order, *figures, *difference, result.lost, result.gained, result.changed)


def write_motion(path: Path, results: list[OrderResult]) -> None:
    """Write the results to a CSV file, with a line for each order.

    Raises:
        UserError: The file cannot be written.
    """
    write_csv(
        path,
        ("frames", "videos", "top1", "mean_class", "difference", "low", "high", *_COUNTS),
        [
            (
                result.order,
                result.accuracy.videos,
                round(result.accuracy.top1, 4),
                round(result.accuracy.mean_class, 4),
                round(result.difference, 4),
                *(round(limit, 4) for limit in result.interval),
                result.lost,
                result.gained,
                result.changed,
            )
            for result in results
        ],
    )
