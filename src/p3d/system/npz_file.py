"""`.npz` files of arrays with a versioned header in JSON, written whole and read without pickle."""

from __future__ import annotations

import json
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p3d.errors import UserError
from p3d.system.files import replacing, writing
from p3d.system.spelling import ask_meant

NOT_AN_NPZ = (
    OSError, ValueError, TypeError, KeyError, AttributeError, EOFError, RuntimeError, MemoryError,
    SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What NumPy raises for files that are damaged or of another kind."""


@dataclass(frozen=True)
class NpzFormat:
    """A kind of file.

    Attributes:
        name: Its name, which the header states, such as "p3d features".
        version: Version that is written and read.
        remedy: What to do about a file that is damaged or of another kind.
    """

    name: str
    version: int
    remedy: str

    def write(
        self, path: Path, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> None:
        """Write a file completely or not at all; arrays may be memory maps.

        Raises:
            UserError: It cannot be written.
        """
        whole = {"format": self.name, "version": self.version, **header}
        # JSON escapes bytes of file names that are not UTF-8.
        text = np.frombuffer(json.dumps(whole, default=str).encode("ascii"), np.uint8)
        with writing(path), replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, header=text, **arrays)

    def read(self, path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return the header and the arrays of a file.

        Raises:
            UserError: The file cannot be read, is of another kind, or is of a newer version.
        """
        with self._opened(path) as (header, arrays):
            return header, {name: arrays[name] for name in arrays.files if name != "header"}

    def read_header(self, path: Path) -> dict[str, Any]:
        """Return the header of a file; raise as `read`."""
        with self._opened(path) as (header, _):
            return header

    @contextmanager
    def _opened(self, path: Path) -> Iterator[tuple[dict[str, Any], Any]]:
        try:
            file = path.open("rb")
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such file; {ask_meant(path, self.remedy)}") from error
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
        try:
            with file, np.load(file, allow_pickle=False) as arrays:
                header: dict[str, Any] = json.loads(arrays["header"].tobytes())
                self.check(path, header)
                yield header, arrays
        except NOT_AN_NPZ as error:
            raise self.damaged(path) from error

    def check(self, path: Path, header: Mapping[str, Any]) -> None:
        """Check the format and the version that a header states.

        Raises:
            UserError: The version is another one.
            ValueError: The format is another one.
        """
        if header["format"] != self.name:
            raise ValueError(f"format {header['format']!r}")
        if header["version"] != self.version:
            raise UserError(
                f"{path}: has version {header['version']} of the format, this p3d reads "
                f"{self.version}; install a newer p3d"
            )

    def damaged(self, path: Path) -> UserError:
        """Return the error about a file that cannot be read."""
        return UserError(f"{path}: is not a file of {self.name}, or is damaged; {self.remedy}")
