"""Which videos were started and not finished, so that none is tried for ever.

A line is appended before a video starts and when it ends. A process that is killed leaves the lines
of the videos that it worked on.
"""

from __future__ import annotations

import json
from collections import Counter
from io import FileIO
from pathlib import Path

from p3d.errors import UserError
from p3d.system.files import GOES_ON, reason_of, write_text, writing

ATTEMPTS_FILE = "attempts.jsonl"
"""Name of the log in a folder of results."""

MAX_DEATHS = 3
"""A video whose workers died this often is listed as bad."""

MAX_STARTS = 10
"""So is one that was started this often without an end, since all processes were killed."""

_LINES = 10_000
"""Lines after which those of videos that have ended are dropped."""


class Attempts:
    """The log of attempts in a file; see the module.

    Args:
        path: The file; it need not exist, and does not while there is nothing to note. None for
            work that is repeated completely after an interruption.

    Raises:
        UserError: The file cannot be read.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lines = 0
        self._file: FileIO | None = None
        self._starts: Counter[str] = Counter()
        self._deaths: Counter[str] = Counter()
        for mark, video in [] if path is None else _read(path):
            self._count(mark, video)

    def is_suspect(self, video: str) -> bool:
        """Return whether a video was started without an end: it is to be tried again, alone."""
        return self._starts[video] > 0

    def describe_last(self, video: str) -> str | None:
        """Return why a video is not tried again; None if it may be."""
        if self._deaths[video] >= MAX_DEATHS:
            return f"its worker died {MAX_DEATHS} times"
        if self._starts[video] >= MAX_STARTS:
            return f"was started {MAX_STARTS} times, and everything was killed each time"
        return None

    def start(self, video: str) -> None:
        """Record that a video starts."""
        self._append("start", video)

    def end(self, video: str) -> None:
        """Record that a video has a result."""
        self._append("end", video)

    def release(self, video: str) -> None:
        """Record that an attempt was given up for a reason that is not the video's."""
        self._append("release", video)

    def died(self, video: str) -> None:
        """Record that a video's worker died."""
        self._append("died", video)

    def compact(self) -> None:
        """Drop the lines of videos that have ended.

        Raises:
            UserError: The file cannot be written.
        """
        if self._path is None:
            return
        self.close()
        self._lines = 0
        lines = [["start", video] for video in self._starts.elements()]
        lines += [["died", video] for video in self._deaths.elements()]
        if lines:
            write_text(self._path, "".join(f"{json.dumps(line)}\n" for line in lines))
        else:
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; the next line reopens it."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, mark: str, video: str) -> None:
        if self._path is not None:
            self._write(self._path, mark, video)
        self._count(mark, video)
        self._lines += 1
        if self._lines > _LINES:
            self.compact()

    def _write(self, path: Path, mark: str, video: str) -> None:
        with writing(path, GOES_ON):
            if self._file is None:
                self._file = path.open("ab", buffering=0)
            line = f"{json.dumps([mark, video])}\n".encode()
            if self._file.write(line) < len(line):
                raise OSError(28, "No space left on device")

    def _count(self, mark: str, video: str) -> None:
        if mark == "start":
            self._starts[video] += 1
        elif mark == "died":
            self._deaths[video] += 1
        elif mark == "release":
            self._starts[video] -= 1
        if mark == "end":
            self._deaths.pop(video, None)
        if mark == "end" or self._starts[video] <= 0:
            self._starts.pop(video, None)


def _read(path: Path) -> list[tuple[str, str]]:
    """Return the marks in a file, without a last line that was not written completely."""
    if not path.exists():
        return []
    try:
        *lines, _ = path.read_text(encoding="utf-8").split("\n")
        return [(str(mark), str(video)) for mark, video in map(json.loads, lines) if mark]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path}: is no log of attempts ({reason_of(error)}); delete it, then videos that "
            "killed their workers are tried again"
        ) from error
