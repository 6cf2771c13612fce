"""What is said and kept of the held-out videos of all folds together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

import torch

from p3d.errors import printable
from p3d.run_folder import LOGITS_FILE
from p3d.scores.accuracy import measure
from p3d.scores.figures import describe_top1
from p3d.scores.output import write_accuracy
from p3d.scores.score_file import ScoreFile, write_score_file
from p3d.system.csv_file import write_csv
from p3d.system.files import replacing_together
from p3d.system.text import counted, format_percent

FOLDS_TABLE = "folds.csv"
"""A line for each fold."""


def top1_of(scores: ScoreFile) -> float:
    """Return the fraction of videos whose most probable class is the right one."""
    return float((scores.probabilities().argmax(1) == scores.labels).mean())


def describe_held_out(scores: ScoreFile, folds: Sequence[float], seen: int) -> str:
    """Return lines with the figures of the held-out videos, for people.

    Args:
        scores: Of the held-out videos of all folds.
        folds: Top-1 accuracy of each fold, in [0, 1].
        seen: Number of held-out videos that the network was trained on.
    """
    probabilities = scores.probabilities()
    accuracy = measure(torch.from_numpy(probabilities), torch.from_numpy(scores.labels))
    lines = [
        f"top-1 {format_percent(accuracy.top1)} of {counted(accuracy.videos, 'held-out video')}",
        describe_top1(probabilities.argmax(1) == scores.labels, scores.groups),
        f"mean class {format_percent(accuracy.mean_class)}",
    ]
    if len(folds) > 1:
        lines.append(
            f"over {len(folds)} folds: mean {format_percent(fmean(folds))}, standard deviation "
            f"{100 * stdev(folds):.1f} points, {format_percent(min(folds))} to "
            f"{format_percent(max(folds))}"
        )
    if seen:
        lines.append(
            f"LEAK: the network was trained on {counted(seen, 'held-out video')}; the accuracy "
            "does not show how well it does on new videos"
        )
    return "\n".join(lines)


def write_held_out(
    folder: Path, scores: ScoreFile, header: Sequence[str], rows: Sequence[Sequence[object]]
) -> None:
    """Write the scores, the tables of classes, and the table of folds, and say so.

    Args:
        folder: Existing folder.
        scores: Of the held-out videos of all folds.
        header: Columns of the table of folds.
        rows: Its rows.

    Raises:
        UserError: A file cannot be written.
    """
    probabilities, labels = map(torch.from_numpy, (scores.probabilities(), scores.labels))
    with replacing_together(folder, last=LOGITS_FILE) as drafts:
        write_accuracy(drafts, measure(probabilities, labels), scores.class_names)
        write_csv(drafts / FOLDS_TABLE, header, rows)
        write_score_file(drafts / LOGITS_FILE, scores)
    print(
        f"written to {printable(folder)}: {LOGITS_FILE}, {FOLDS_TABLE}, per_class.csv, "
        "confusion.csv"
    )
