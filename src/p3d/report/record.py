"""Read what the folder of a training run holds, with missing and damaged files allowed."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from p3d.errors import UserError
from p3d.inference.scoring import VERDICT_COLUMNS
from p3d.report.evaluations import Evaluation, read_evaluations
from p3d.report.lines import Line, as_dict, number, read_object
from p3d.run_folder import (
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    LOG_FILE,
    SCORES_FILE,
    VALIDATION_FILE,
    best_epoch,
    read_log,
    starting_folder,
)
from p3d.scores.accuracy import TOP5_CLASSES, Accuracy, measure, shows_top5
from p3d.system.csv_file import plain_cell


@dataclass(frozen=True)
class Predictions:
    """The predictions of a network for a list of videos.

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
        predictions: Predictions of the best epoch for the validation list; None if there are none.
        evaluations: What `p3d eval` left in the folder.
    """

    folder: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    log: list[dict[str, Any]]
    predictions: Predictions | None
    evaluations: tuple[Evaluation, ...] = ()

    @property
    def test(self) -> Evaluation | None:
        """The evaluation of the run's best weights on the test list; None if there is none."""
        tests = [e for e in self.evaluations if e.split == "test" and e.is_current]
        return tests[-1] if tests else None

    @cached_property
    def shown(self) -> tuple[str, Predictions] | None:
        """Name of a list and the predictions for it: the test list, or else the validation list."""
        if self.test is not None:
            tested = read_predictions(self.test.folder / SCORES_FILE)
            if tested is not None:
                return "test", tested
        return None if self.predictions is None else ("validation", self.predictions)

    @property
    def start(self) -> Line:
        """Log line of the last start; empty if there is none."""
        return next((line for line in reversed(self.log) if line["event"] == "start"), {})

    @property
    def commands(self) -> list[str]:
        """The command that started the run, and the last one that resumed it if it differs."""
        starts = [line["command"] for line in self.log if line.get("command")]
        found = starts or [self.environment.get("command", "")]
        return list(dict.fromkeys(str(command) for command in (found[0], found[-1]) if command))

    @property
    def shows_top5(self) -> bool:
        """Whether top-5 accuracy is shown: there are enough classes, or it is not known."""
        if self.shown is not None:
            return shows_top5(len(self.shown[1].class_names))
        return not number(self.start, "classes") < TOP5_CLASSES

    @property
    def starting_folder(self) -> Path:
        """The folder that relative paths start from."""
        return starting_folder(self.folder)

    @property
    def steps(self) -> list[dict[str, Any]]:
        """Log lines of steps."""
        return [line for line in self.log if line["event"] == "step"]

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """Log lines of epochs."""
        return [line for line in self.log if line["event"] == "epoch"]

    @property
    def recipe(self) -> dict[str, Any]:
        """Options of the recipe."""
        return as_dict(self.config.get("recipe"))

    @property
    def data(self) -> dict[str, Any]:
        """Options of the data set."""
        return as_dict(self.config.get("data"))

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
    def _improved_epoch(self) -> float:
        """Number of the epoch that last raised the best accuracy; NaN if there is none.

        Patience counts from it, and not from `best`, which a later epoch of the same accuracy is if
        its loss is lower.
        """
        if self.best is None:
            return math.nan
        top1 = number(self.best, "validation_top1")
        equals = (line for line in self.epochs if number(line, "validation_top1") == top1)
        return number(next(equals), "epoch")

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
        if done - self._improved_epoch >= patience:
            return f"finished early: no better epoch in {patience:.0f}"
        return f"stopped at step {self.last_step:,}" if self.last_step else "no step yet"


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
            config=read_object(folder / CONFIG_FILE),
            environment=read_object(folder / ENVIRONMENT_FILE),
            log=read_log(folder),
            predictions=read_predictions(folder / VALIDATION_FILE),
            evaluations=read_evaluations(folder),
        )
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error


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
