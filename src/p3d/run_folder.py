"""Names of the files in a run's folder, and how to read its log."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from p3d.errors import UserError

BEST_FILE = "best.safetensors"
"""Weights of the best epoch on the validation list, or of the last epoch without such a list."""
LAST_FILE = "last.safetensors"
"""Weights of the last epoch."""
LOG_FILE = "log.jsonl"
CONFIG_FILE = "config.json"
ENVIRONMENT_FILE = "environment.json"
VALIDATION_FILE = "validation.csv"
"""Scores of the best weights on the validation list."""
REPORT_FILE = "report.html"
METRICS_FILE = "metrics.json"
"""Metrics of an evaluation, in a folder of its own."""
SCORES_FILE = "scores.csv"
"""Probabilities of an evaluation's videos, for people and spreadsheets."""
LOGITS_FILE = "scores.npz"
"""Logits of an evaluation's clips, to compute metrics from."""
FOLDS_FILE = "folds.json"
"""What `p3d folds` was started with, and which folds are finished."""
AUDIT_FILE = "audit.json"
"""What looks wrong with the data of an evaluation."""
AUDIT_VERSION = 1
"""Version of `AUDIT_FILE`; it grows when older readers would misread a file."""
FUSION_FILE = "fusion.json"
"""How two networks are fused, for predictions."""
MOTION_FILE = "motion.csv"
"""Accuracy of an evaluation with the frames in each order."""

_CHECKPOINT = re.compile(r"checkpoint-(\d{7,})\.pt")


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the path of the checkpoint written after a step."""
    return folder / f"checkpoint-{step:07d}.pt"


def find_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a run's folder, newest first.

    Raises:
        UserError: The folder cannot be read.
    """
    try:
        paths = [p for p in folder.iterdir() if _CHECKPOINT.fullmatch(p.name) and p.is_file()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be read ({error.strerror})") from error
    return sorted(paths, key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """Return the step in a checkpoint's name."""
    match = _CHECKPOINT.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def read_config(path: Path, source: str) -> dict[str, Any]:
    """Read the `config.json` of a run.

    Args:
        path: The file.
        source: What names the file, for error messages.

    Raises:
        UserError: The file cannot be read or is not the configuration of a run.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{source}: cannot be read ({error.strerror}); give the config.json of a run"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{source}: cannot be read as JSON ({error}); give the config.json of a run"
        ) from error
    if not isinstance(config, dict) or not isinstance(config.get("recipe"), dict):
        raise UserError(f"{source}: is not the config.json of a training run")
    return config


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the entries of a run's log, each with its "event" and "step".

    Lines that are incomplete or damaged are skipped.
    """
    path = folder / LOG_FILE
    if not path.exists():
        return []
    # Not splitlines(), which also splits at characters that may occur inside a damaged line.
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return [entry for entry in map(_parse, lines) if entry is not None]


def starting_folder(folder: Path) -> Path:
    """Return the folder where a run was started; the current one if it is not known."""
    try:
        environment = json.loads((folder / ENVIRONMENT_FILE).read_text(encoding="utf-8"))
        return Path(environment["folder"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return Path()


def best_epoch(epochs: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the log line of the epoch whose network is in `BEST_FILE`.

    Args:
        epochs: The lines of a run's epochs. Each names the best epoch so far that could be written
            ("best_epoch"); in older logs, which do not, it is the first of the highest accuracy.

    Returns:
        None if there is no such epoch.
    """
    if epochs and "best_epoch" in epochs[-1]:
        number = epochs[-1]["best_epoch"]
        return next((line for line in reversed(epochs) if line.get("epoch") == number), None)
    scores = [(line, line.get("validation_top1")) for line in epochs]
    scored = [(line, value) for line, value in scores if isinstance(value, int | float)]
    finite = [(line, value) for line, value in scored if math.isfinite(value)]
    return max(finite, key=lambda pair: pair[1], default=(None, 0))[0]


def _parse(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or not isinstance(entry.get("event"), str):
        return None
    return entry if type(entry.get("step")) is int else None
