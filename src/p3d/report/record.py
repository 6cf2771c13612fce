"""What the folder of a training run holds, read for people: as much of it as is there."""

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
from p3d.run_folder import LOG_FILE, read_log

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Answers:
    """A network's answers on the validation list.

    Attributes:
        class_names: One name a class.
        paths: The videos, as they were named in the run.
        labels: int64 `(V,)`.
        scores: float32 `(V, num_classes)`, probabilities.
        accuracy: What they amount to.
        unread: Rows of the file that are damaged.
    """

    class_names: tuple[str, ...]
    paths: tuple[str, ...]
    labels: Tensor
    scores: Tensor
    accuracy: Accuracy
    unread: int

    @property
    def surest(self) -> tuple[list[int], list[int]]:
        """The videos answered rightly and those answered wrongly, each by falling score."""
        best, answers = self.scores.nan_to_num(0.0).max(1)
        order = best.argsort(descending=True, stable=True).tolist()
        right = (answers == self.labels).tolist()
        return [i for i in order if right[i]], [i for i in order if not right[i]]

    def mistakes(self, most: int) -> list[tuple[str, str, int, int]]:
        """The most frequent mistakes: class, answer, how often, and videos of the class."""
        counts = self.accuracy.confusion.clone()
        totals = counts.sum(1).tolist()
        counts.fill_diagonal_(0)
        order = counts.flatten().argsort(descending=True, stable=True)[:most].tolist()
        pairs = [divmod(place, len(totals)) for place in order]
        names = self.class_names
        return [
            (names[truth], names[answer], int(counts[truth, answer]), totals[truth])
            for truth, answer in pairs
            if counts[truth, answer]
        ]


@dataclass(frozen=True)
class RunRecord:
    """A training run as its folder tells it.

    Attributes:
        folder: The run's folder.
        config: The options; empty where config.json is not there.
        environment: Versions and devices; empty where environment.json is not there.
        log: All lines of the log.
        answers: The best epoch's on the validation list; None where there are none.
    """

    folder: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    log: list[dict[str, Any]]
    answers: Answers | None

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The log's line of each step."""
        return [line for line in self.log if line["event"] == "step"]

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """The log's line of each epoch."""
        return [line for line in self.log if line["event"] == "epoch"]

    @property
    def others(self) -> list[dict[str, Any]]:
        """The log's other lines."""
        return [line for line in self.log if line["event"] not in ("step", "epoch")]

    @property
    def recipe(self) -> dict[str, Any]:
        """The options that make the recipe."""
        recipe = self.config.get("recipe")
        return recipe if isinstance(recipe, dict) else {}

    @property
    def last_step(self) -> int:
        """How far the run has come."""
        return max((line["step"] for line in self.log), default=0)

    @property
    def best(self) -> Line | None:
        """The epoch with the highest validation accuracy, the first of equals."""
        tried = [line for line in self.epochs if math.isfinite(number(line, "validation_top1"))]
        return max(tried, key=lambda line: number(line, "validation_top1"), default=None)

    @property
    def outcome(self) -> str:
        """Whether the run came to its end, in a few words."""
        done = number(self.epochs[-1], "epoch") if self.epochs else 0.0
        # A comparison with what is not known is false.
        if done >= number(self.recipe, "epochs"):
            return "finished"
        if self.last_step >= number(self.recipe, "max_steps"):
            return "finished"
        patience = number(self.config, "patience")
        if self.best is not None and done - number(self.best, "epoch") >= patience:
            return f"finished early: no better epoch in {patience:.0f}"
        return f"stopped at step {self.last_step:,}" if self.last_step else "no step yet"


def number(line: Line, name: str, default: float = math.nan) -> float:
    """A number in a line of the log or among options; the default where there is none."""
    value = line.get(name)
    return float(value) if isinstance(value, int | float) else default


def column(lines: Sequence[Line], name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps and values of the lines that have one of this name; it may be NaN or infinite."""
    pairs = [(line["step"], number(line, name)) for line in lines if name in line]
    table = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def read_run(folder: Path) -> RunRecord:
    """Read the folder of a training run.

    Raises:
        UserError: It holds no log, or a file in it cannot be read.
    """
    if not (folder / LOG_FILE).is_file():
        raise UserError(
            f"{folder} holds no {LOG_FILE}, so it is no training run; give the --out of a p3d train"
        )
    try:
        return RunRecord(
            folder,
            config=_read_object(folder / "config.json"),
            environment=_read_object(folder / "environment.json"),
            log=read_log(folder),
            answers=read_answers(folder / "validation.csv"),
        )
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none, or a damaged one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def read_answers(path: Path) -> Answers | None:
    """Read `validation.csv`: `path, class, <a score for each class>`, a row a video.

    None where it is not there or has no row that can be read.
    """
    if not path.exists():
        return None
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = _rows(csv.reader(file))
        names = tuple(next(rows, [])[2:])
        numbers = {name: number for number, name in enumerate(names)}
        paths, labels, scores = [], [], []
        unread = 0
        for row in rows:
            try:
                video, name, *values = row
                label, floats = numbers[name], [float(value) for value in values]
                if len(floats) != len(names):
                    raise ValueError("a score for each class is wanted")
            except (KeyError, ValueError):
                unread += 1
                continue
            paths.append(video)
            labels.append(label)
            scores.append(floats)
    if not paths:
        return None
    table, truth = torch.tensor(scores), torch.tensor(labels)
    accuracy = measure(table.nan_to_num(0.0), truth)
    return Answers(names, tuple(paths), truth, table, accuracy, unread)


def _rows(reader: Iterator[list[str]]) -> Iterator[list[str]]:
    """Rows up to the first that is no CSV."""
    try:
        yield from reader
    except csv.Error:
        return
