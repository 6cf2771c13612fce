"""`p3d detection`: how well segments of videos are found, from files of segments."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p3d.errors import UserError, printable
from p3d.scores.detection import (
    F1_THRESHOLDS,
    TIOU_THRESHOLDS,
    DetectionFigures,
    detection_figures,
)
from p3d.scores.segment_file import read_segments
from p3d.system.markers import Positional
from p3d.system.text import counted, format_percent, format_table, json_line, shorten

_SHOWN = tuple(TIOU_THRESHOLDS.index(threshold) for threshold in (0.5, 0.75, 0.95))


@dataclass(frozen=True)
class DetectionOptions:
    """Measure segments of videos against the true ones: mAP over overlaps, and segmental F1.

    Files are CSV with the columns path, start, end (seconds), class and score, or JSON of
    ActivityNet. Videos are matched by the names of their files, without folders and suffixes.
    """

    found: Positional[tuple[Path, ...]]
    """Files of segments that were found, with scores."""
    truth: Path
    """File of the true segments."""
    background: str = "background"
    """Class whose segments are left out, on both sides."""
    top: int = 10
    """Classes to show: those with the lowest average precision."""
    json: bool = False
    """Print one JSON object in place of tables."""


def run(options: DetectionOptions) -> None:
    """Run `p3d detection`.

    Raises:
        UserError: A file cannot be read, or there is no truth.
    """
    if not options.found:
        raise UserError("no segments were given; give one or more files of found segments")
    if options.top < 1:
        raise UserError(f"--top is {options.top}; give 1 or more")
    truth, found = (
        [segment for segment in read_segments(paths) if segment.label != options.background]
        for paths in ([options.truth], options.found)
    )
    if not truth:
        raise UserError(f"--truth {options.truth}: holds no segments; there is nothing to find")
    if found and not {each.video for each in found} & {each.video for each in truth}:
        raise UserError(
            f"none of the videos has a true segment: found is {found[0].video!r}, true is "
            f"{truth[0].video!r}; compare the paths"
        )
    figures = detection_figures(found, truth)
    print(json_line(_plain(figures)) if options.json else _report(figures, options.top))


def _plain(figures: DetectionFigures) -> dict[str, Any]:
    means = figures.mean_average_precision
    return {
        "true_segments": figures.true_segments,
        "found_segments": figures.found_segments,
        "tiou": TIOU_THRESHOLDS,
        "map": means.tolist(),
        "average_map": float(means.mean()),
        "f1": dict(zip(map(str, F1_THRESHOLDS), figures.f1, strict=True)),
        "per_class": {name: each.tolist() for name, each in figures.average_precision.items()},
    }


def _report(figures: DetectionFigures, top: int) -> str:
    """Return the figures as tables of at most 80 columns."""
    means = figures.mean_average_precision
    rows = [("average mAP, tIoU 0.5 to 0.95", format_percent(float(means.mean())))]
    rows += [(f"mAP, tIoU {TIOU_THRESHOLDS[i]:g}", format_percent(means[i])) for i in _SHOWN]
    rows += [
        (f"segmental F1@{100 * threshold:g}", format_percent(f1))
        for threshold, f1 in zip(F1_THRESHOLDS, figures.f1, strict=True)
    ]
    by_class = sorted(figures.average_precision.items(), key=lambda item: float(item[1].mean()))
    classes = [
        (
            shorten(printable(name), 40),
            *(format_percent(value) for value in (precision.mean(), *precision[list(_SHOWN)])),
        )
        for name, precision in by_class[:top]
    ]
    counts = (
        f"{counted(figures.found_segments, 'found segment')}, "
        f"{counted(figures.true_segments, 'true segment')}, {counted(len(by_class), 'class')}"
    )
    hidden = len(by_class) - top
    more = [f"({counted(hidden, 'more class')}: --top, or --json)"] if hidden > 0 else []
    table = format_table(("average precision", "mean", "0.5", "0.75", "0.95"), classes)
    return "\n".join([counts, "", format_table(("figure", "value"), rows), "", table, *more])
