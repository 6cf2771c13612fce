"""The names of a run's files, and its log."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

BEST = "best.safetensors"

_NAME = re.compile(r"checkpoint-(\d{7,})\.pt")


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint after a step stands."""
    return folder / f"checkpoint-{step:07d}.pt"


def find_checkpoints(folder: Path) -> list[Path]:
    """A run's checkpoints, the newest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_file()]
    return sorted(found, key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """The step after which a checkpoint was written, by its name."""
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


FILE = "log.jsonl"


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log, each with its "event" and "step".

    What is no such line is left out: one that was cut off in the writing, or damaged on the disk.
    """
    path = folder / FILE
    if not path.exists():
        return []
    # Not splitlines: it takes characters that a damaged text may hold for ends of lines.
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return [line for line in map(_parse, lines) if line is not None]


def _parse(text: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or not isinstance(line.get("event"), str):
        return None
    return line if type(line.get("step")) is int else None
