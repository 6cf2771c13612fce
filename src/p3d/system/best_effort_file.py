"""Files that grow by records, and survive a full disk or a lost network drive."""

from __future__ import annotations

import os
from contextlib import suppress
from io import FileIO
from pathlib import Path

from p3d.system.messages import print_warning


class BestEffortFile:
    """A file that grows by records, each written completely or not at all.

    A record that cannot be written (full disk, lost network drive) is dropped. The first of several
    dropped ones prints a warning.

    Args:
        path: The file. It is created by the first record.
        separator: Bytes written before the first record after a dropped one, in case some bytes of
            that one remain.
    """

    def __init__(self, path: Path, *, separator: bytes = b"") -> None:
        self.path = path
        self._separator = separator
        self._file: FileIO | None = None
        self._failing = False

    def append(self, record: bytes) -> bool:
        """Append a record; return whether it was written."""
        try:
            self._append(self._separator + record if self._failing else record)
        except OSError as error:
            self.close()  # the handle stays invalid when a network drive comes back
            if not self._failing:
                reason = error.strerror or error
                print_warning(f"{self.path}: cannot be written ({reason}); going on without it")
            self._failing = True
            return False
        self._failing = False
        return True

    def _append(self, record: bytes) -> None:
        if self._file is None:
            self._file = self.path.open("ab", buffering=0)
        size = self._file.seek(0, os.SEEK_END)
        rest = memoryview(record)
        try:
            while rest:  # a nearly full disk takes only a part
                rest = rest[self._file.write(rest) :]
        except OSError:
            with suppress(OSError):
                self._file.truncate(size)
            raise

    def close(self) -> None:
        """Close the file; `append` reopens it."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        self._file = None
