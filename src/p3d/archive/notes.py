"""Results that workers write themselves, such as a file for each item, and notes of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from p3d.archive.attempts import ATTEMPTS_FILE, Attempts
from p3d.archive.results import BAD_COLUMNS, BAD_FILE
from p3d.errors import printable
from p3d.system.csv_file import write_csv
from p3d.system.messages import print_note
from p3d.system.text import counted, first_lines


class Notes:
    """Notes of the results of one run, in memory; only attempts survive it.

    A worker writes a result whole or not at all. In a later run it looks at what is there, and
    returns at once. An item that cannot be read is tried again then, and one that killed its
    workers is not.

    Args:
        folder: Folder of the log of attempts; None for work that is repeated completely after an
            interruption.

    Attributes:
        done: What the workers returned, by name.
        bad: Why items have no result, by name.
        attempts: The log of attempts.

    Raises:
        UserError: The log cannot be read.
    """

    def __init__(self, folder: Path | None) -> None:
        self.done: dict[str, Any] = {}
        self.bad: dict[str, str] = {}
        self.attempts = Attempts(None if folder is None else folder / ATTEMPTS_FILE)

    def add(self, video: str, note: Any) -> None:
        """Add what a worker returned for an item."""
        self.done[video] = note
        self.attempts.end(video)

    def add_earlier(self, videos: Iterable[str]) -> None:
        """Add items whose results are there from earlier runs."""
        for video in videos:
            self.done[video] = None
            if self.attempts.is_suspect(video):  # a kill came between its result and the note
                self.attempts.end(video)

    def add_bad(self, video: str, reason: str) -> None:
        """Add an item that has no result."""
        self.bad[video] = reason
        if self.attempts.describe_last(video) is None:
            self.attempts.end(video)

    def flush(self) -> None:
        """Shorten the log of attempts."""
        self.attempts.compact()


def describe_bad(folder: Path, bad: Sequence[tuple[object, str]], remedy: str = "") -> str:
    """Return how many videos have no result, and why the first of them have none, in lines.

    Args:
        folder: The folder with the list of them.
        bad: They, and why.
        remedy: What to do about them.
    """
    head = f"{counted(len(bad), 'video')} could not be read: {folder / BAD_FILE}{remedy}"
    return "\n".join([printable(head), *first_lines([f"{video}: {why}" for video, why in bad])])


def write_bad(folder: Path, bad: Sequence[tuple[object, str]]) -> None:
    """Write the list of the videos that have no result, and why; without any, there is none.

    Raises:
        UserError: It cannot be written.
    """
    file, log = folder / BAD_FILE, folder / ATTEMPTS_FILE
    if bad:
        write_csv(file, BAD_COLUMNS, bad)
    else:
        file.unlink(missing_ok=True)
    if log.exists():
        print_note(f"videos whose workers died are not tried again; delete {log}, then they are")
