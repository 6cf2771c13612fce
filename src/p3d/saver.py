"""When a run is saved, and what happens when it cannot be."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from p3d.checkpoint import checkpoint_path, prune_checkpoints, write_checkpoint
from p3d.errors import UserError
from p3d.runlog import RunLog


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
