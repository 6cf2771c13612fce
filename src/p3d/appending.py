"""A file that grows beside a long computation and may never end it."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from io import FileIO
from pathlib import Path

from p3d.errors import printable


class BestEffortFile:
    """Appends pieces to a file, each whole or not at all.

    A piece that cannot be written (a full disk, a network drive that is gone) is lost and costs one
    line on stderr; the next such line comes after a piece that could be written.

    Args:
        path: The file; made with the first piece.
        separator: What the first piece after a lost one begins with, should the lost one have left
            some of its bytes.
    """

    def __init__(self, path: Path, *, separator: bytes = b"") -> None:
        self.path = path
        self._separator = separator
        self._file: FileIO | None = None
        self._failing = False

    def append(self, piece: bytes) -> bool:
        """Add a piece at the end of the file; False where it is lost."""
        try:
            self._append(self._separator + piece if self._failing else piece)
        except OSError as error:
            # A handle of a network drive that came back never works again; a new one does.
            self.close()
            if not self._failing:
                self._warn(error)
            self._failing = True
            return False
        self._failing = False
        return True

    def _append(self, piece: bytes) -> None:
        if self._file is None:
            self._file = self.path.open("ab", buffering=0)
        size = self._file.seek(0, os.SEEK_END)
        rest = memoryview(piece)
        try:
            while rest:  # a disk that is about to be full takes a part
                rest = rest[self._file.write(rest) :]
        except OSError:
            with suppress(OSError):
                self._file.truncate(size)
            raise

    def _warn(self, error: OSError) -> None:
        with suppress(OSError):  # stderr may lie on the same disk
            print(
                f"p3d: warning: {printable(self.path)}: cannot be written "
                f"({error.strerror or error}); going on without",
                file=sys.stderr,
                flush=True,
            )

    def close(self) -> None:
        """Close the file; the next piece opens it again."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        self._file = None
