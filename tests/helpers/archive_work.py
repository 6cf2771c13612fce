"""Work for the workers of an archive, which computes nothing and may kill its process."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from p3d.archive.parts import Row
from p3d.errors import BadVideoError, UserError


@dataclass(frozen=True)
class Doubling:
    """Returns twice the number that an item is; some items kill the worker or cannot be read."""

    threads: int = 2
    seconds: float = 0.0

    def start(self, number: int) -> Doubling:  # noqa: ARG002
        return self

    def read(self, source: str) -> int:
        if source == "poison":
            os.kill(os.getpid(), signal.SIGKILL)
        if source == "bad":
            raise BadVideoError(source, "is no number")
        time.sleep(self.seconds)
        return int(source)

    def compute(self, source: str, content: int) -> Row:  # noqa: ARG002
        return {"double": np.array([2 * content], np.float32)}


@dataclass(frozen=True)
class Refusing:
    """Cannot start; `crash` ends the process instead."""

    crash: bool = False

    def start(self, number: int) -> Doubling:  # noqa: ARG002
        if self.crash:
            os._exit(3)
        raise UserError("no such weights")


@dataclass(frozen=True)
class Opening:
    """Opens files."""

    threads: int = 0

    def start(self, number: int) -> Opening:  # noqa: ARG002
        return self

    def read(self, source: str) -> int:
        try:
            return len(Path(source).read_bytes())
        except OSError as error:
            raise BadVideoError(source, "no such file") from error

    def compute(self, source: str, content: int) -> Row:  # noqa: ARG002
        return {"bytes": content}
