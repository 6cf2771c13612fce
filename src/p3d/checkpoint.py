"""Training checkpoints: files that each hold all a run needs to go on, written safely.

A checkpoint is a dictionary of tensors and plain values, written by `torch.save` and read back with
`weights_only=True`. It goes to a temporary file first, is flushed to disk and then renamed, so that
what stands under a final name was whole once. The newest ones are kept: should the disk damage one,
the run goes on from the one before it.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from p3d.errors import UserError
from p3d.files import replacing
from p3d.weights import CHECKPOINT_FORMAT

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


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a run's state whole or not at all.

    Raises:
        UserError: The disk is full or the folder cannot be written; nothing else is touched.
    """
    try:
        with replacing(path) as temporary:
            torch.save({"format": CHECKPOINT_FORMAT, **state}, temporary)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: the checkpoint could not be written ({reason})") from error


def prune_checkpoints(folder: Path, step: int, keep: int) -> None:
    """Delete a run's checkpoints but the newest `keep` up to a step.

    Those beyond the step go too: a run that has come to this step did not go on from them, because
    they are damaged. So does what a process that was killed left half written.
    """
    paths = find_checkpoints(folder)
    kept = [path for path in paths if step_of(path) <= step][:keep]
    halves = [p for p in folder.glob(".checkpoint-*.pt.tmp") if p.is_file()]
    for path in [*(path for path in paths if path not in kept), *halves]:
        path.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a run's state onto the CPU.

    Raises:
        UserError: The file is missing, damaged, or no checkpoint of p3d.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such checkpoint") from error
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        # Of PyTorch's paragraph the first sentence.
        reason = (str(error) or type(error).__name__).splitlines()[0].partition(". ")[0]
        raise UserError(f"{path}: the checkpoint is damaged ({reason})") from error
    if not isinstance(state, dict) or state.get("format") != CHECKPOINT_FORMAT:
        raise UserError(f"{path}: this is no training checkpoint of p3d")
    return state


def read_newest(folder: Path) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """The newest checkpoint of a run that can be read.

    Returns:
        Its state, or None where the folder holds no checkpoint; and a line for each newer one that
        cannot be read.

    Raises:
        UserError: There are checkpoints, and none can be read.
    """
    problems: list[str] = []
    for path in find_checkpoints(folder):
        try:
            return read_checkpoint(path), tuple(problems)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError(
            f"no checkpoint of {folder} can be read: {'; '.join(problems)}; restore one from a "
            "backup, or start anew with another --out"
        )
    return None, ()
