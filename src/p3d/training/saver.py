"""Writing the files of a run while it trains, and the disk space that they need."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from p3d.errors import UserError, printable
from p3d.run_folder import checkpoint_path
from p3d.system.messages import print_warning
from p3d.training.checkpoint import CheckpointState
from p3d.training.checkpoint_files import prune_checkpoints, write_checkpoint
from p3d.training.log import RunLog


class Saver:
    """Writer of a run's files that reports a failed write instead of ending the run.

    Args:
        folder: The run's folder.
        log: The run's log, which records failures.
        minutes: Minutes between checkpoints.
        steps: Also save a checkpoint every this many steps; None to save by time only.
        keep: Number of checkpoints to keep.

    Attributes:
        failed: Whether the last checkpoint could not be written.
        saved_step: Step of the last checkpoint that was written, or that the run resumed from.
    """

    def __init__(
        self,
        folder: Path,
        log: RunLog,
        *,
        minutes: float,
        steps: int | None,
        keep: int,
        saved_step: int = 0,
    ) -> None:
        self._folder = folder
        self._log = log
        self._minutes = minutes
        self._steps = steps
        self._keep = keep
        self._last = time.monotonic()
        self._undeleted: set[Path] = set()
        self.failed = False
        self.saved_step = saved_step

    def is_due(self, step: int) -> bool:
        """Return whether a checkpoint should be written after this step."""
        if self._steps is not None and step % self._steps == 0:
            return True
        return time.monotonic() - self._last >= 60 * self._minutes

    def save(self, state: CheckpointState) -> None:
        """Write a checkpoint and delete old ones."""
        step = state.progress.step
        path = checkpoint_path(self._folder, step)
        start = time.monotonic()
        saved = self.attempt(step, lambda: write_checkpoint(path, state))
        self._last = time.monotonic()
        if saved:
            size, seconds = path.stat().st_size, round(self._last - start, 3)
            self._log.write("checkpoint", step, bytes=size, seconds=seconds)
            self._prune(step)
            self.saved_step = step
        self.failed = not saved

    def _prune(self, step: int) -> None:
        """Delete old checkpoints; warn once about each that cannot be deleted."""
        for path, error in prune_checkpoints(self._folder, step, self._keep).items():
            if path not in self._undeleted:
                print_warning(f"{path}: the old checkpoint cannot be deleted ({error.strerror})")
                self._undeleted.add(path)

    def attempt(self, step: int, write: Callable[[], None]) -> bool:
        """Call a function that writes a file; report a failure and return whether it succeeded."""
        try:
            write()
        except UserError as error:
            tqdm.write(f"NOT SAVED: {printable(error)}; training continues", file=sys.stderr)
            self._log.write("save-failed", step, reason=str(error))
            return False
        return True


def _files_in(folder: Path) -> list[os.stat_result]:
    return [path.stat() for path in folder.iterdir() if path.is_file()]


def check_room(folder: Path, network_bytes: int, checkpoint_bytes: int, keep: int) -> str:
    """Describe the disk space that a run needs.

    Args:
        folder: The run's folder; must exist.
        network_bytes: Size of a network's file: best, last, and one while it is written.
        checkpoint_bytes: Size of a checkpoint.
        keep: Checkpoints to keep; one more exists while it is written.

    Raises:
        UserError: There is no room for even one checkpoint and the best network.
    """
    free = shutil.disk_usage(folder).free
    needed = (keep + 1) * checkpoint_bytes + 3 * network_bytes
    files = {file.st_ino: file.st_size for file in _files_in(folder)}  # some have two names
    used = sum(files.values())
    message = (
        f"a checkpoint takes {checkpoint_bytes / 1e6:,.0f} MB, {keep} are kept; "
        f"the run up to {needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free"
    )
    if free + used < checkpoint_bytes + network_bytes:
        raise UserError(f"{folder}: {message}; free space or choose another --out")
    return message + (": TOO LITTLE, some will not be saved" if free + used < needed else "")
