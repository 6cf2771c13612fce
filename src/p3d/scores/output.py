"""Files of an evaluation: CSV tables and the confusion matrix."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from p3d.errors import printable
from p3d.scores.accuracy import Accuracy
from p3d.scores.calibration import Bin
from p3d.scores.coverage import Coverage
from p3d.scores.figures import Figures
from p3d.system.csv_file import write_csv
from p3d.system.files import replacing, writing
from p3d.system.fonts import plot_fonts
from p3d.system.text import format_percent, shorten

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from torch import Tensor


def write_accuracy(
    folder: Path,
    accuracy: Accuracy,
    class_names: Sequence[str],
    average_precision: Sequence[float | None] | None = None,
) -> None:
    """Write `per_class.csv`, `confusion.csv` and, if matplotlib is installed, `confusion.png`.

    In `per_class.csv`, a ratio whose denominator is 0 is empty.

    Args:
        folder: Existing folder.
        accuracy: Metrics of the evaluation.
        class_names: Class names by index.
        average_precision: One more column of `per_class.csv`.
    """
    columns = ["class", "videos", "top1", "predicted", "precision", "f1"]
    extra: list[list[str]] = [[] for _ in class_names]
    if average_precision is not None:
        columns.append("average_precision")
        extra = [[_fraction(value)] for value in average_precision]
    write_csv(
        folder / "per_class.csv",
        columns,
        [
            (
                name,
                metrics.videos,
                _fraction(metrics.top1),
                metrics.predicted,
                _fraction(metrics.precision),
                _fraction(metrics.f1),
                *more,
            )
            for name, metrics, more in zip(class_names, accuracy.per_class, extra, strict=True)
        ],
    )
    write_csv(
        folder / "confusion.csv",
        ("truth \\ answer", *class_names),
        [(name, *row) for name, row in zip(class_names, accuracy.confusion.tolist(), strict=True)],
    )
    if importlib.util.find_spec("matplotlib") is not None:
        _write_confusion_png(folder / "confusion.png", accuracy, class_names)


def write_figures(folder: Path, figures: Figures, class_names: Sequence[str]) -> None:
    """Write the tables of all figures as CSV files, besides those of `write_accuracy`.

    They are `confused_pairs.csv`, `reliability.csv` and `coverage.csv`; the last has a line for
    every probability that an answer has.
    """
    write_accuracy(folder, figures.accuracy, class_names, figures.average_precision)
    write_csv(
        folder / "confused_pairs.csv",
        ("class", "answer", "videos", "fraction"),
        [
            (class_names[pair.truth], class_names[pair.answer], pair.videos, f"{pair.fraction:.4f}")
            for pair in figures.accuracy.confused_pairs
        ],
    )
    _write_rows(folder / "reliability.csv", figures.reliability)
    _write_rows(folder / "coverage.csv", figures.coverage_curve)


def _write_rows(path: Path, rows: Sequence[Bin] | Sequence[Coverage]) -> None:
    """Write dataclasses as the lines of a CSV file."""
    plain = [asdict(row) for row in rows]
    write_csv(path, list(plain[0]), [list(row.values()) for row in plain])


def _fraction(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _write_confusion_png(path: Path, accuracy: Accuracy, class_names: Sequence[str]) -> None:
    side = min(24.0, 3.0 + 0.38 * len(class_names))
    with plot_fonts("".join(map(printable, class_names))):
        figure = draw_confusion(accuracy, class_names, side)
        [axes] = figure.axes
        axes.set_title(f"top-1 {format_percent(accuracy.top1)} of {accuracy.videos} videos")
        figure.set_size_inches(side + 1.2, side)
        figure.colorbar(axes.images[0], ax=axes, shrink=0.8, label="fraction of the true class")
        with writing(path), replacing(path) as temporary:
            figure.savefig(temporary, dpi=150, format="png")


def draw_confusion(accuracy: Accuracy, class_names: Sequence[str], side: float) -> Figure:
    """Draw the confusion matrix, each row as fractions of its class (needs matplotlib).

    Many classes are labeled by number, from 1, instead of by name, and their cells hold no counts.

    Args:
        accuracy: Metrics of the evaluation.
        class_names: Class names by index.
        side: Width and height of the figure in inches.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    counts, classes = accuracy.confusion, len(class_names)
    fractions = (counts / counts.sum(1, keepdim=True).clamp_min(1)).numpy()
    cell = 72 * side / classes  # size in points, margins of the figure included
    named = cell >= 12.9
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(visible=False)
    axes.imshow(
        fractions,
        # In small cells, the square root keeps rare mistakes visible.
        norm=PowerNorm(1 if named else 0.5, vmin=0, vmax=1),
        cmap="Blues",
        # Cells smaller than a pixel have to be averaged: nearest-neighbor sampling drops some.
        interpolation="none" if cell >= 1 else "antialiased",
    )
    step = 1 if named else 10 * max(1, classes // 100)
    ticks = range(step - 1, classes, step)
    labels = [shorten(printable(class_names[i])) if named else f"{i + 1}" for i in ticks]
    font = min(8.0, cell / 2) if named else None
    # Without parse_math=False, a $ in a class name would start a formula.
    rotation = 90 if named else 0
    axes.set_xticks(ticks, labels, rotation=rotation, fontsize=font, parse_math=False)
    axes.set_yticks(ticks, labels, fontsize=font, parse_math=False)
    axes.set_xlabel("predicted class" if named else "predicted class (no.)")
    axes.set_ylabel("true class" if named else "true class (no.)")
    if cell >= 19:
        _write_counts(axes, counts, fractions)
    return figure


def _write_counts(axes: Axes, counts: Tensor, fractions: NDArray[np.float32]) -> None:
    for row, column in counts.nonzero().tolist():
        axes.text(
            column,
            row,
            str(int(counts[row, column])),
            ha="center",
            va="center",
            fontsize=8,
            color="white" if fractions[row, column] > 0.5 else "#1f2733",
        )
