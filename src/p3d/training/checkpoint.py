"""Checkpoints of a training run: their schema, and writing and reading them safely.

A checkpoint is a dictionary of tensors and plain values, written by `torch.save` and read with
`weights_only=True`. It is all that a run needs to resume: the network is rebuilt from its metadata.
It is written to a temporary file, flushed to disk and renamed, so a file with its final name is
complete. Several checkpoints are kept: if the newest is damaged, the run resumes from the previous
one.
"""

from __future__ import annotations

import errno
import math
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from p3d.errors import UserError, printable
from p3d.run_folder import find_checkpoints, step_of
from p3d.system.files import reason_of, replacing
from p3d.training.comparison import RIGHT, UNREAD, WRONG
from p3d.training.progress import OF_BEST, Progress
from p3d.weights.reading import CHECKPOINT_FORMAT

VERSION = 4
"""Schema version. Files of version 1 have no version, and "rate" in place of `lr_mult`. Version 3
adds `best_loss`, `best_answers` and `improved_epoch` to the progress, version 4 `average`."""

_TYPES: dict[str, type] = {
    "model": dict,
    "metadata": dict,
    "optimizer": dict,
    "schedule": dict,
    "scaler": dict,
    "clips_per_step": int,
    "progress": dict,
    "fingerprint": dict,
    "average": dict,
}


class DamagedCheckpoint(UserError):
    """A checkpoint that cannot be used, so that the run resumes from an earlier one."""


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
        average: State dict of the averaged network; empty if weights are not averaged.
    """

    model: dict[str, Tensor]
    metadata: dict[str, str]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    scaler: dict[str, Any]
    clips_per_step: int
    progress: Progress
    fingerprint: dict[str, str]
    average: dict[str, Tensor]

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
            ValueError: A value is missing or of the wrong type.
        """
        version = contents.get("version", 1)
        if version not in (1, 2, 3, VERSION):
            raise ValueError(f"its version {version} is unknown")
        if version < VERSION:
            contents = contents | {"average": {}}
        if version < 3:
            contents = contents | {"progress": _upgrade_progress(contents.get("progress"))}
        for name, expected in _TYPES.items():
            if not isinstance(contents.get(name), expected):
                raise ValueError(f"its entry {name!r} is missing or damaged")
            if not _is_valid(name, contents[name]):
                raise ValueError(f"its entry {name!r} is damaged")
        values = {name: contents[name] for name in _TYPES}
        values["progress"] = Progress(**values["progress"])
        if version == 1:
            values["optimizer"] = _upgrade_optimizer(values["optimizer"])
        return cls(**values)


def _is_valid(name: str, value: Any) -> bool:
    """Return whether the contents of an entry have the right types."""
    match name:
        case "clips_per_step":
            return type(value) is int and value > 0
        case "progress":
            return _is_valid_progress(value)
        case "model" | "average":
            return all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
        case "metadata" | "fingerprint":
            return all(isinstance(k, str) and isinstance(v, str) for k, v in value.items())
        case "optimizer":
            groups = value.get("param_groups", [])
            return isinstance(groups, list) and all(isinstance(group, dict) for group in groups)
    return True


def _is_valid_progress(values: dict[Any, Any]) -> bool:
    if values.keys() != {item.name for item in fields(Progress)}:
        return False
    for item in fields(Progress):
        value = values[item.name]
        if item.name == "best_answers":
            if not isinstance(value, str) or set(value) - {RIGHT, WRONG, UNREAD}:
                return False
        elif item.name in OF_BEST:
            if value is not None and not _is_number(value):
                return False
        elif not _is_number(value) or value < 0:
            return False
        if isinstance(item.default, int) and type(value) is not int:
            return False
    return values["best_top1"] is not None and values["best_loss"] is not None


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and not math.isnan(value)  # type: ignore[arg-type]


def _upgrade_progress(progress: Any) -> Any:
    """Add the fields of version 3 to the progress of earlier versions.

    There, an epoch was the best only if it raised the accuracy.
    """
    if not isinstance(progress, dict):
        return progress
    added = {"best_loss": math.inf, "best_answers": ""}
    return progress | added | {"improved_epoch": progress.get("best_epoch")}


def _upgrade_optimizer(optimizer: dict[str, Any]) -> dict[str, Any]:
    """Rename "rate", the learning-rate multiplier of version 1, to `lr_mult`."""
    groups = [
        {"lr_mult" if key == "rate" else key: value for key, value in group.items()}
        for group in optimizer.get("param_groups", [])
    ]
    return optimizer | {"param_groups": groups}


def write_checkpoint(path: Path, state: CheckpointState) -> None:
    """Write a checkpoint completely or not at all.

    Raises:
        UserError: The disk is full or the folder cannot be written; other files are unchanged.
    """
    try:
        # Python's file says why a write fails, PyTorch's does not.
        with replacing(path) as temporary, temporary.open("wb") as file:
            torch.save(state.to_dict(), file)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{path}: the checkpoint could not be written ({reason_of(error)})"
        ) from error


def prune_checkpoints(folder: Path, step: int, keep: int) -> dict[Path, OSError]:
    """Delete all checkpoints of a run except the newest `keep` up to a step.

    Checkpoints of later steps are deleted too: they are damaged, or the run would have resumed from
    them. Unfinished files of a killed process are deleted as well.

    Returns:
        The files that could not be deleted, and why.
    """
    failed = {}
    paths = find_checkpoints(folder)
    kept = [path for path in paths if step_of(path) <= step][:keep]
    unfinished = [path for path in folder.glob(".checkpoint-*.pt.tmp") if path.is_file()]
    for path in [*(path for path in paths if path not in kept), *unfinished]:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            failed[path] = error
    return failed


def read_checkpoint(path: Path) -> CheckpointState:
    """Read a checkpoint, with its tensors on the CPU.

    Raises:
        DamagedCheckpoint: The file is damaged or not a checkpoint of p3d.
        UserError: The file is missing, cannot be read, or is of a newer version.
    """
    try:
        with path.open("rb") as file:
            contents = _load(file)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such checkpoint") from error
    except Exception as error:  # damage can raise any exception of zipfile, pickle and PyTorch
        if (cause := _outside_cause(error)) is not None:
            raise UserError(
                f"{path}: the checkpoint cannot be read ({cause}); nothing was changed: remove the "
                "cause and resume again"
            ) from error
        # PyTorch's message is a paragraph; keep its first sentence.
        reason = (str(error) or type(error).__name__).splitlines()[0].partition(". ")[0]
        raise DamagedCheckpoint(
            f"{path}: the checkpoint is damaged ({printable(reason)})"
        ) from error
    if not isinstance(contents, dict) or contents.get("format") != CHECKPOINT_FORMAT:
        raise DamagedCheckpoint(f"{path}: this is not a training checkpoint of p3d")
    version = contents.get("version")
    if type(version) is int and VERSION < version < 1000:
        raise UserError(
            f"{path}: the checkpoint cannot be used (its version {version} is newer than "
            f"{VERSION}; upgrade p3d)"
        )
    try:
        return CheckpointState.from_dict(contents)
    except ValueError as error:
        raise unusable(path, error) from error


def unusable(path: Path, error: Exception) -> DamagedCheckpoint:
    """Return the error for a checkpoint whose contents are not those of this run."""
    reason = printable(str(error) or type(error).__name__).partition("\\n")[0]
    return DamagedCheckpoint(f"{path}: the checkpoint cannot be used ({reason})")


def _load(file: BinaryIO) -> Any:
    """Return the contents of a file of `torch.save`, after checking its checksums.

    `torch.load` does not check them: it takes a lost sector for weights.
    """
    with zipfile.ZipFile(file) as archive:
        if (name := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"the checksum of its part {name} is wrong")
    file.seek(0)
    return torch.load(file, map_location="cpu", weights_only=True)


def _outside_cause(error: Exception) -> str | None:
    """Return why a file could not be read if the cause is not in the file."""
    # A damaged offset in the file is an invalid argument of seek().
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        return error.strerror
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        return "not enough memory"
    return None


def read_newest(
    folder: Path, check: Callable[[CheckpointState], object] | None = None
) -> tuple[CheckpointState | None, tuple[str, ...]]:
    """Read the newest usable checkpoint of a run.

    Args:
        folder: The run's folder; need not exist.
        check: Raises `ValueError` for a checkpoint that cannot be used.

    Returns:
        The checkpoint, or None if the folder has none; and one line for each newer checkpoint that
        cannot be read.

    Raises:
        UserError: There are checkpoints, and none can be used, or one cannot be read although it
            may be intact.
    """
    problems: list[str] = []
    for path in find_checkpoints(folder):
        try:
            checkpoint = read_checkpoint(path)
            if check is not None:
                check(checkpoint)
        except DamagedCheckpoint as error:
            problems.append(str(error))
        except ValueError as error:
            problems.append(str(unusable(path, error)))
        else:
            return checkpoint, tuple(problems)
    if problems:
        raise UserError(
            f"no checkpoint of {folder} can be read: {'; '.join(problems)}; restore one from a "
            "backup, or start again with another --out"
        )
    return None, ()
