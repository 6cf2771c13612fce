"""The figures of an evaluation as text of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from p3d.errors import printable
from p3d.scores.accuracy import shows_top5
from p3d.scores.figures import Figures
from p3d.scores.resampling import Bootstrap, Groups, Interval
from p3d.scores.score_file import ScoreFile
from p3d.system.text import counted, format_percent, format_table, shorten


def describe_clips(scores: ScoreFile) -> str:
    """Return what the scores of a video are of: `5 clips a video`, or what is known instead."""
    if "fused" in scores.protocol:
        return "fused scores"
    if scores.holds_means:
        return "means over clips" if "pooled" in scores.protocol else "clips until settled"
    return f"{counted(scores.logits.shape[1], 'clip')} a video"


def format_interval(interval: Interval | None, *, is_percent: bool = True) -> str:
    """Return an interval as text, such as `12.9% to 26.2%`; "" for None."""
    if interval is None:
        return ""
    low, high = (format_percent(end) if is_percent else f"{end:.4f}" for end in interval)
    return f"{low} to {high}"


def describe_intervals(groups: Groups, bootstrap: Bootstrap) -> str:
    """Return how the intervals of a table were computed, and what limits them."""
    if groups.count < 2:
        return "no intervals: all videos are in one group, and groups are what is resampled"
    text = (
        f"intervals: bootstrap over {groups.describe()}, {bootstrap.resamples:,} draws, seed "
        f"{bootstrap.seed}"
    )
    return "\n".join(filter(None, (text, groups.warning)))


def headline_table(figures: Figures, bootstrap: Bootstrap) -> str:
    """Return the figures of all videos with their intervals."""
    accuracy, intervals = figures.accuracy, figures.intervals
    rows = [
        ("top-1", format_percent(accuracy.top1), format_interval(intervals["top1"])),
        ("top-5", format_percent(accuracy.top5), format_interval(intervals["top5"])),
        (
            "mean class",
            format_percent(accuracy.mean_class),
            format_interval(intervals["mean_class"]),
        ),
        ("mean average precision", format_percent(figures.mean_average_precision), ""),
        (
            "log loss",
            f"{figures.loss:.4f}",
            format_interval(intervals["loss"], is_percent=False),
        ),
        (
            f"calibration error ({figures.bins} bins)",
            format_percent(figures.calibration_error),
            "",
        ),
        ("area of errors by coverage", format_percent(figures.error_area), ""),
    ]
    if not shows_top5(len(accuracy.per_class)):
        del rows[1]
    lines = [format_table(("figure", "value", "95% interval"), rows)]
    if figures.unlabeled:
        lines.append(f"LEFT OUT: {counted(figures.unlabeled, 'video')} without a class")
    if figures.temperature != 1:
        lines.append(f"every clip's logits were divided by {figures.temperature:g}")
    return "\n".join([*lines, describe_intervals(figures.groups, bootstrap)])


def class_table(figures: Figures, class_names: Sequence[str], shown: int) -> str:
    """Return the metrics of the classes with the lowest F1; those without videos come last."""
    rows = [
        (
            shorten(printable(name), 30),
            metrics.videos,
            *map(format_percent, (metrics.precision, metrics.top1, metrics.f1, precision)),
        )
        for name, metrics, precision in sorted(
            zip(class_names, figures.accuracy.per_class, figures.average_precision, strict=True),
            key=lambda row: (not row[1].videos, row[1].f1 or 0),
        )
    ]
    header = ("class", "videos", "precision", "recall", "F1", "AP")
    return format_table(header, rows[:shown]) + _more(len(rows) - shown, "class")


def pair_table(figures: Figures, class_names: Sequence[str], shown: int) -> str:
    """Return the pairs of classes that are confused most often."""
    pairs = figures.accuracy.confused_pairs
    if not pairs:
        return "no class is taken for another"
    rows = [
        (
            shorten(printable(class_names[pair.truth]), 28),
            shorten(printable(class_names[pair.answer]), 28),
            pair.videos,
            format_percent(pair.fraction),
        )
        for pair in pairs[:shown]
    ]
    header = ("class", "taken for", "videos", "of the class")
    return format_table(header, rows) + _more(len(pairs) - shown, "pair")


def _more(count: int, noun: str) -> str:
    return f"\n({counted(count, f'more {noun}')}: --top, or --out)" if count > 0 else ""


def reliability_table(figures: Figures) -> str:
    """Return the reliability table."""
    rows = [
        (
            f"{format_percent(each.low)} to {format_percent(each.high)}",
            each.videos,
            format_percent(each.confidence),
            format_percent(each.accuracy),
        )
        for each in figures.reliability
    ]
    return format_table(("probability of the answer", "videos", "mean", "right"), rows)


def coverage_table(figures: Figures) -> str:
    """Return what thresholds for "unknown" do."""
    rows = [
        (
            f"{each.threshold:.3f}",
            each.answered,
            format_percent(each.coverage),
            format_percent(each.accuracy),
        )
        for each in figures.coverage
    ]
    return format_table(('threshold for "unknown"', "answered", "coverage", "right"), rows)
