"""What people read at the end: tables, CSV files and the picture of a confusion matrix."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from p3d.errors import UserError
from p3d.files import replacing
from p3d.metrics import Accuracy


def format_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Lay out a table in plain text: the first column to the left, the others to the right."""
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def format_share(share: float | None) -> str:
    """A share in [0, 1] as a percentage; nothing where there is none."""
    return "" if share is None else f"{100 * share:.1f}%"


def make_folder(folder: Path) -> None:
    """Make a folder, and its parents, unless it is there.

    Raises:
        UserError: It cannot be made, or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".p3d-can-write"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"{folder}: the folder cannot be written ({error.strerror}); choose another --out"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        UserError: It cannot be written.
    """
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def write_json(path: Path, value: Any) -> None:
    """Write plain values as JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file, whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_accuracy(folder: Path, accuracy: Accuracy, class_names: Sequence[str]) -> None:
    """Write `per_class.csv`, `confusion.csv` and, where matplotlib is installed, `confusion.png`.

    Args:
        folder: Where to; it exists.
        accuracy: What was measured.
        class_names: One name a class.
    """
    totals = accuracy.confusion.sum(1).tolist()
    write_csv(
        folder / "per_class.csv",
        ("class", "videos", "top1"),
        [
            (name, total, "" if share is None else f"{share:.4f}")
            for name, total, share in zip(class_names, totals, accuracy.per_class, strict=True)
        ],
    )
    write_csv(
        folder / "confusion.csv",
        ("truth \\ answer", *class_names),
        [(name, *row) for name, row in zip(class_names, accuracy.confusion.tolist(), strict=True)],
    )
    if importlib.util.find_spec("matplotlib") is not None:
        draw_confusion(folder / "confusion.png", accuracy, class_names)


def draw_confusion(path: Path, accuracy: Accuracy, class_names: Sequence[str]) -> None:
    """Draw the confusion matrix, each row in shares of its class (needs matplotlib)."""
    from matplotlib.figure import Figure

    classes = len(class_names)
    shares = accuracy.confusion / accuracy.confusion.sum(1, keepdim=True).clamp_min(1)
    side = min(24.0, 3.0 + 0.38 * classes)
    figure = Figure(figsize=(side + 1.2, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares.numpy(), vmin=0, vmax=1, cmap="Blues")
    font = 9 if classes <= 30 else 5
    axes.set_xticks(range(classes), class_names, rotation=90, fontsize=font)
    axes.set_yticks(range(classes), class_names, fontsize=font)
    axes.set_xlabel("answer")
    axes.set_ylabel("truth")
    axes.set_title(f"top-1 {format_share(accuracy.top1)} of {accuracy.videos} videos")
    if classes <= 30:
        for row in range(classes):
            for column in range(classes):
                if count := int(accuracy.confusion[row, column]):
                    dark = float(shares[row, column]) > 0.5
                    axes.text(
                        column,
                        row,
                        str(count),
                        ha="center",
                        va="center",
                        fontsize=font,
                        color="white" if dark else "black",
                    )
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
