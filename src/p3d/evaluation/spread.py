"""Mean and spread over several networks, such as those of the official splits of a data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean, stdev

from p3d.scores.accuracy import Accuracy, shows_top5
from p3d.system.csv_file import write_csv
from p3d.system.text import format_percent, format_table

_FIGURES: dict[str, Callable[[Accuracy], float]] = {
    "top-1": lambda accuracy: accuracy.top1,
    "top-5": lambda accuracy: accuracy.top5,
    "mean class": lambda accuracy: accuracy.mean_class,
}


def _rows(
    accuracies: Mapping[str, Accuracy], figures: Mapping[str, Callable[[Accuracy], float]]
) -> dict[str, list[float]]:
    """Return the figures of each network, their mean and their standard deviation (n - 1)."""
    rows = {
        name: [figure(accuracy) for figure in figures.values()]
        for name, accuracy in accuracies.items()
    }
    columns = list(zip(*rows.values(), strict=True))
    return rows | {"mean": [*map(fmean, columns)], "std": [*map(stdev, columns)]}


def spread_table(accuracies: Mapping[str, Accuracy], num_classes: int) -> str:
    """Return the figures of two or more networks, their mean and spread, as a table for people.

    Args:
        accuracies: The accuracy of each network, by its name.
        num_classes: Number of classes; top-5 is left out if there are few.
    """
    figures = {
        name: figure
        for name, figure in _FIGURES.items()
        if name != "top-5" or shows_top5(num_classes)
    }
    videos = {name: str(accuracy.videos) for name, accuracy in accuracies.items()}
    rows = [
        (name, videos.get(name, ""), *map(format_percent, values))
        for name, values in _rows(accuracies, figures).items()
    ]
    table = format_table(("run", "videos", *figures), rows)
    return f"{table}\nstd: standard deviation over the {len(accuracies)} runs (n - 1), in points"


def write_spread(path: Path, accuracies: Mapping[str, Accuracy]) -> None:
    """Write the figures, their mean and spread to a CSV file.

    Raises:
        UserError: The file cannot be written.
    """
    videos = {name: accuracy.videos for name, accuracy in accuracies.items()}
    write_csv(
        path,
        ("run", "videos", "top1", "top5", "mean_class"),
        [
            (name, videos.get(name, ""), *(f"{value:.5f}" for value in values))
            for name, values in _rows(accuracies, _FIGURES).items()
        ],
    )
