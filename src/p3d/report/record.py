"""Read what the folder of a training run holds, with missing and damaged files allowed."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from p3d.errors import UserError
from p3d.evaluation.metrics import Accuracy, measure
from p3d.inference.scoring import VERDICT_COLUMNS
from p3d.run_folder import (
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    LOG_FILE,
    VALIDATION_FILE,
    best_epoch,
    read_log,
)
from p3d.system.files import plain_cell

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Predictions:
    """The predictions of a network for the validation list.

    Attributes:
        class_names: Class names by index.
        paths: Paths of the V videos, as given to the run.
        labels: int64 `(V,)`.
        scores: Probabilities, float32 `(V, num_classes)`.
        accuracy: Metrics over the videos.
        num_damaged: Number of rows skipped because they cannot be parsed.
    """

    class_names: tuple[str, ...]
    paths: tuple[str, ...]
    labels: Tensor
    scores: Tensor
    accuracy: Accuracy
    num_damaged: int

    @property
    def most_confident(self) -> tuple[list[int], list[int]]:
        """Indices of the correct and of the wrong predictions, each by descending score."""
        best, predicted = self.scores.nan_to_num(0.0).max(1)
        order = best.argsort(descending=True, stable=True).tolist()
        correct = (predicted == self.labels).tolist()
        return [i for i in order if correct[i]], [i for i in order if not correct[i]]

    def mistakes(self, limit: int) -> list[tuple[str, str, int, int]]:
        """Return the most frequent confusions.

        Returns:
            Rows of class name, predicted class name, count, and number of videos of the class.
        """
        counts = self.accuracy.confusion.clone()
        totals = counts.sum(1).tolist()
        counts.fill_diagonal_(0)
        order = counts.flatten().argsort(descending=True, stable=True)[:limit].tolist()
        names = self.class_names
        return [
            (names[label], names[predicted], int(counts[label, predicted]), totals[label])
            for label, predicted in (divmod(cell, len(names)) for cell in order)
            if counts[label, predicted]
        ]


@dataclass(frozen=True)
class RunRecord:
    """The contents of the folder of a training run.

    Attributes:
        folder: The run folder.
        config: Options; empty if config.json is missing or damaged.
        environment: Versions and devices; empty if environment.json is missing or damaged.
        log: All lines of the log.
        predictions: Predictions of the best epoch; None if there are none.
    """

    folder: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    log: list[dict[str, Any]]
    predictions: Predictions | None

    @property
    def steps(self) -> list[dict[str, Any]]:
        """Log lines of steps."""
        return [line for line in self.log if line["event"] == "step"]

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """Log lines of epochs."""
        return [line for line in self.log if line["event"] == "epoch"]

    @property
    def events(self) -> list[dict[str, Any]]:
        """All other log lines."""
        return [line for line in self.log if line["event"] not in ("step", "epoch")]

    @property
    def recipe(self) -> dict[str, Any]:
        """Options of the recipe."""
        return _as_dict(self.config.get("recipe"))

    @property
    def data(self) -> dict[str, Any]:
        """Options of the data set."""
        return _as_dict(self.config.get("data"))

    @property
    def last_step(self) -> int:
        """Highest step in the log."""
        return max((line["step"] for line in self.log), default=0)

    @property
    def best(self) -> Line | None:
        """Line of the epoch with the best validation accuracy, whose network was kept."""
        line = best_epoch(self.epochs)
        if line is None or not math.isfinite(number(line, "validation_top1")):
            return None
        return line

    @property
    def outcome(self) -> str:
        """Whether and why the run ended, in a few words."""
        done = number(self.epochs[-1], "epoch") if self.epochs else 0.0
        # A missing option is NaN, and any comparison with NaN is false.
        if done >= number(self.recipe, "epochs"):
            return "finished"
        if self.last_step >= number(self.recipe, "max_steps"):
            return "finished"
        patience = number(self.config, "patience")
        if self.best is not None and done - number(self.best, "epoch") >= patience:
            return f"finished early: no better epoch in {patience:.0f}"
        return f"stopped at step {self.last_step:,}" if self.last_step else "no step yet"


def number(line: Line, name: str, default: float = math.nan) -> float:
    """Return a number from a log line or from options, or the default if it is not a number."""
    value = line.get(name)
    return float(value) if isinstance(value, int | float) else default


def column(
    lines: Sequence[Line], name: str, x: str = "step"
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return x and the named value of the lines that have it; either may be NaN or infinite."""
    pairs = [(number(line, x), number(line, name)) for line in lines if name in line]
    table = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def read_run(folder: Path) -> RunRecord:
    """Read the folder of a training run.

    Raises:
        UserError: The folder has no log, or a file in it cannot be read.
    """
    if not (folder / LOG_FILE).is_file():
        raise UserError(
            f"{folder} has no {LOG_FILE}, so it is not a training run; give the --out of p3d train"
        )
    try:
        return RunRecord(
            folder,
            config=_read_json(folder / CONFIG_FILE),
            environment=_read_json(folder / ENVIRONMENT_FILE),
            log=read_log(folder),
            predictions=read_predictions(folder / VALIDATION_FILE),
        )
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty if the file is missing or damaged."""
    try:
        return _as_dict(json.loads(path.read_text(encoding="utf-8", errors="replace")))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}


def _as_dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def read_predictions(path: Path) -> Predictions | None:
    """Read a file of `write_scores`; older ones end with the scores.

    Returns:
        None if the file is missing or has no valid row.
    """
    if not path.exists():
        return None
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        header, *rows = [*_read_rows(csv.reader(file))] or [[]]
    names, rows = _without_verdicts(header, rows)
    parsed = [_parse_row(row, names) for row in rows]
    valid = [row for row in parsed if row is not None]
    if not valid:
        return None
    paths, labels, scores = zip(*valid, strict=True)
    table, truth = torch.tensor(scores), torch.tensor(labels)
    accuracy = measure(table.nan_to_num(0.0), truth)
    return Predictions(names, paths, truth, table, accuracy, len(parsed) - len(valid))


def _read_rows(reader: Iterator[list[str]]) -> Iterator[list[str]]:
    """Yield rows up to the first that is not CSV."""
    try:
        for row in reader:
            yield [plain_cell(cell) for cell in row]
    except csv.Error:
        return


def _without_verdicts(
    header: list[str], rows: list[list[str]]
) -> tuple[tuple[str, ...], list[list[str]]]:
    """Return the class names, and the rows without the columns after the scores."""
    count = len(VERDICT_COLUMNS)
    verdicts = {row[-1] for row in rows if len(row) == len(header)}
    # In an older file, the last two classes may have the names of these columns.
    if tuple(header[-count:]) != VERDICT_COLUMNS or not verdicts <= {"right", "wrong", ""}:
        return tuple(header[2:]), rows
    return tuple(header[2:-count]), [row[:-count] for row in rows]


def _parse_row(row: list[str], names: tuple[str, ...]) -> tuple[str, int, list[float]] | None:
    """Return path, label and scores, or None if the row is damaged."""
    try:
        path, name, *values = row
        label, scores = names.index(name), [float(value) for value in values]
    except ValueError:
        return None
    return (path, label, scores) if len(scores) == len(names) else None
