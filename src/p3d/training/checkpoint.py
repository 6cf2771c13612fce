"""Training checkpoints: files that each hold all a run needs to go on, written safely.

A checkpoint is a dictionary of tensors and plain values, written by `torch.save` and read back with
`weights_only=True`. It goes to a temporary file first, is flushed to disk and then renamed, so that
what stands under a final name was whole once. The newest ones are kept: should the disk damage one,
the run goes on from the one before it.
"""

from __future__ import annotations

import pickle
import shutil
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from p3d.errors import UserError
from p3d.run_folder import checkpoint_path, find_checkpoints, step_of
from p3d.system.files import replacing
from p3d.training.log import RunLog
from p3d.weights.reading import CHECKPOINT_FORMAT


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


class Saver:
    """Writes a run's files; a full disk costs a message, neither the run nor what was saved before.

    Args:
        folder: The run's folder.
        log: Where failures are recorded.
        minutes: Save when so many have passed since the last time.
        steps: Save after every so many steps as well; None for time alone.
        keep: How many checkpoints to keep.

    Attributes:
        failed: Whether the last attempt to save failed.
    """

    def __init__(
        self, folder: Path, log: RunLog, *, minutes: float, steps: int | None, keep: int
    ) -> None:
        self._folder = folder
        self._log = log
        self._minutes = minutes
        self._steps = steps
        self._keep = keep
        self._last = time.monotonic()
        self.failed = False

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint should be written after this step."""
        if self._steps is not None and step % self._steps == 0:
            return True
        return time.monotonic() - self._last >= 60 * self._minutes

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write the checkpoint of a step and delete those that are no longer kept."""
        path = checkpoint_path(self._folder, step)
        began = time.monotonic()
        done = self.attempt(step, lambda: write_checkpoint(path, state))
        self._last = time.monotonic()
        if done:
            size, seconds = path.stat().st_size, round(self._last - began, 3)
            self._log.write("checkpoint", step, bytes=size, seconds=seconds)
            prune_checkpoints(self._folder, step, self._keep)
        self.failed = not done

    def attempt(self, step: int, write: Callable[[], None]) -> bool:
        """Write something; say so where that fails, and go on."""
        try:
            write()
        except UserError as error:
            tqdm.write(f"NOT SAVED: {error}; training goes on", file=sys.stderr)
            self._log.write("save-failed", step, reason=str(error))
            return False
        return True


def check_room(folder: Path, best_bytes: int, checkpoint_bytes: int, keep: int) -> str:
    """What a run will need on the disk, in words.

    Args:
        folder: The run's folder; it exists.
        best_bytes: Size of the best network's file.
        checkpoint_bytes: Size of a checkpoint.
        keep: Checkpoints to keep; there is one more while it is written.

    Raises:
        UserError: There is not even room for one checkpoint and the best network.
    """
    free = shutil.disk_usage(folder).free
    needed = (keep + 1) * checkpoint_bytes + 2 * best_bytes
    held = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    words = (
        f"a checkpoint takes {checkpoint_bytes / 1e6:,.0f} MB, {keep} are kept; with the best "
        f"network the run needs up to {needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free"
    )
    if free + held < checkpoint_bytes + best_bytes:
        raise UserError(f"{folder}: {words}; free space or choose another --out")
    return words + (": TOO LITTLE, some will not be saved" if free + held < needed else "")
