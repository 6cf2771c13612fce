"""Checkpoints of a training run: their schema, and writing and reading them safely.

A checkpoint is a dictionary of tensors and plain values, written by `torch.save` and read with
`weights_only=True`. It is enough to resume a run by itself: the network is rebuilt from its
metadata. It is written to a temporary file, flushed to disk and renamed, so a file under its final
name was complete once. The newest checkpoints are kept: if the disk damages one, the run resumes
from the previous one.
"""

from __future__ import annotations

import pickle
import shutil
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from tqdm import tqdm

from p3d.errors import UserError
from p3d.run_folder import checkpoint_path, find_checkpoints, step_of
from p3d.system.files import replacing
from p3d.training.log import RunLog
from p3d.training.progress import Progress
from p3d.weights.reading import CHECKPOINT_FORMAT

VERSION = 2
"""Schema version. Version 1 has no such entry, and another key in the optimizer's groups."""

_TYPES: dict[str, type] = {
    "model": dict,
    "metadata": dict,
    "optimizer": dict,
    "schedule": dict,
    "scaler": dict,
    "clips_per_step": int,
    "progress": dict,
    "fingerprint": dict,
}


@dataclass(frozen=True)
class CheckpointState:
    """Everything that a run needs to resume.

    Attributes:
        model: State dict of the network.
        metadata: Description of the network, see `p3d.weights.metadata.metadata_of`.
        optimizer: State dict of the optimizer.
        schedule: State dict of the learning-rate schedule.
        scaler: State dict of the loss scaler.
        clips_per_step: Clips of an optimizer step over all ranks.
        progress: Position of the run.
        fingerprint: The options that the weights depend on, by name.
    """

    model: dict[str, Tensor]
    metadata: dict[str, str]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    scaler: dict[str, Any]
    clips_per_step: int
    progress: Progress
    fingerprint: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the contents of a checkpoint file."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            "format": CHECKPOINT_FORMAT,
            "version": VERSION,
            **values,
            "progress": asdict(self.progress),
        }

    @classmethod
    def from_dict(cls, contents: dict[str, Any]) -> CheckpointState:
        """Check the contents of a checkpoint file of any version and return them.

        Raises:
            ValueError: A value is missing or of the wrong type, or the version is newer.
        """
        version = contents.get("version", 1)
        if version not in (1, VERSION):
            raise ValueError(f"its version {version} is newer than {VERSION}; upgrade p3d")
        for name, expected in _TYPES.items():
            if not isinstance(contents.get(name), expected):
                raise ValueError(f"its entry {name!r} is missing or damaged")
        values = {name: contents[name] for name in _TYPES}
        if values["progress"].keys() != {item.name for item in fields(Progress)}:
            raise ValueError("its entry 'progress' is damaged")
        values["progress"] = Progress(**values["progress"])
        if version == 1:
            values["optimizer"] = _upgrade_optimizer(values["optimizer"])
        return cls(**values)


def _upgrade_optimizer(optimizer: dict[str, Any]) -> dict[str, Any]:
    """Rename the multiplier of the learning rate, which version 1 calls "rate"."""
    groups = [
        {"lr_mult" if key == "rate" else key: value for key, value in group.items()}
        for group in optimizer["param_groups"]
    ]
    return optimizer | {"param_groups": groups}


def write_checkpoint(path: Path, state: CheckpointState) -> None:
    """Write a checkpoint, complete or not at all.

    Raises:
        UserError: The disk is full or the folder cannot be written; other files are unchanged.
    """
    try:
        with replacing(path) as temporary:
            torch.save(state.to_dict(), temporary)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: the checkpoint could not be written ({reason})") from error


def prune_checkpoints(folder: Path, step: int, keep: int) -> None:
    """Delete all checkpoints of a run except the newest `keep` up to a step.

    Checkpoints of later steps are deleted too: the run did not resume from them because they are
    damaged. Unfinished files of a killed process are deleted as well.
    """
    paths = find_checkpoints(folder)
    kept = [path for path in paths if step_of(path) <= step][:keep]
    unfinished = [path for path in folder.glob(".checkpoint-*.pt.tmp") if path.is_file()]
    for path in [*(path for path in paths if path not in kept), *unfinished]:
        path.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> CheckpointState:
    """Read a checkpoint, with its tensors on the CPU.

    Raises:
        UserError: The file is missing, damaged, of a newer version, or not a checkpoint of p3d.
    """
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such checkpoint") from error
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        # PyTorch's message is a paragraph; keep its first sentence.
        reason = (str(error) or type(error).__name__).splitlines()[0].partition(". ")[0]
        raise UserError(f"{path}: the checkpoint is damaged ({reason})") from error
    if not isinstance(contents, dict) or contents.get("format") != CHECKPOINT_FORMAT:
        raise UserError(f"{path}: this is not a training checkpoint of p3d")
    try:
        return CheckpointState.from_dict(cast("dict[str, Any]", contents))
    except ValueError as error:
        raise UserError(f"{path}: the checkpoint cannot be used ({error})") from error


def read_newest(folder: Path) -> tuple[CheckpointState | None, tuple[str, ...]]:
    """Read the newest readable checkpoint of a run.

    Returns:
        The checkpoint, or None if the folder has none; and one line for each newer checkpoint that
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
            "backup, or start again with another --out"
        )
    return None, ()


class Saver:
    """Write the files of a run; a failed write is reported and does not end the run.

    Args:
        folder: The run's folder.
        log: The run's log, which records failures.
        minutes: Save a checkpoint when this much time has passed since the last one.
        steps: Save after every so many steps as well; None for time alone.
        keep: Number of checkpoints to keep.

    Attributes:
        failed: Whether the last checkpoint could not be written.
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
        """Return whether a checkpoint should be written after this step."""
        if self._steps is not None and step % self._steps == 0:
            return True
        return time.monotonic() - self._last >= 60 * self._minutes

    def save(self, state: CheckpointState) -> None:
        """Write a checkpoint and delete those that are no longer kept."""
        step = state.progress.step
        path = checkpoint_path(self._folder, step)
        start = time.monotonic()
        saved = self.attempt(step, lambda: write_checkpoint(path, state))
        self._last = time.monotonic()
        if saved:
            size, seconds = path.stat().st_size, round(self._last - start, 3)
            self._log.write("checkpoint", step, bytes=size, seconds=seconds)
            prune_checkpoints(self._folder, step, self._keep)
        self.failed = not saved

    def attempt(self, step: int, write: Callable[[], None]) -> bool:
        """Call a function that writes a file; report a failure and return whether it succeeded."""
        try:
            write()
        except UserError as error:
            tqdm.write(f"NOT SAVED: {error}; training continues", file=sys.stderr)
            self._log.write("save-failed", step, reason=str(error))
            return False
        return True


def check_room(folder: Path, best_bytes: int, checkpoint_bytes: int, keep: int) -> str:
    """Describe the disk space that a run needs.

    Args:
        folder: The run's folder; must exist.
        best_bytes: Size of the best network's file.
        checkpoint_bytes: Size of a checkpoint.
        keep: Checkpoints to keep; one more exists while it is written.

    Raises:
        UserError: There is no room for even one checkpoint and the best network.
    """
    free = shutil.disk_usage(folder).free
    needed = (keep + 1) * checkpoint_bytes + 2 * best_bytes
    used = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    message = (
        f"a checkpoint takes {checkpoint_bytes / 1e6:,.0f} MB, {keep} are kept; with the best "
        f"network the run needs up to {needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free"
    )
    if free + used < checkpoint_bytes + best_bytes:
        raise UserError(f"{folder}: {message}; free space or choose another --out")
    return message + (": TOO LITTLE, some will not be saved" if free + used < needed else "")
