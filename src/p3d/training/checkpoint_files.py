"""Write and read the checkpoints of a training run safely.

They are written by `torch.save` and read with `weights_only=True`. A checkpoint is written to a
temporary file, flushed to disk and renamed, so a file with its final name is complete. Several are
kept: if the newest is damaged, the run resumes from the previous one.
"""

from __future__ import annotations

import errno
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from p3d.errors import UserError, printable
from p3d.run_folder import find_checkpoints, step_of
from p3d.system.files import reason_of, replacing
from p3d.training.checkpoint import VERSION, CheckpointState
from p3d.weights.reading import CHECKPOINT_FORMAT


class DamagedCheckpoint(UserError):
    """A checkpoint that cannot be used, so that the run resumes from an earlier one."""


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
