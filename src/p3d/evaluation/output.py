"""What an evaluation leaves: CSV files and the picture of a confusion matrix."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from p3d.evaluation.metrics import Accuracy
from p3d.system.files import replacing, write_csv
from p3d.system.text import format_share


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
