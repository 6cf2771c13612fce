"""Programs whose output is read through a pipe."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO

from p3d.errors import printable

_EXIT_SECONDS = 10.0


class Program:
    """A running program.

    Attributes:
        output: Its standard output.
    """

    def __init__(self, process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        assert process.stdout is not None
        self.output = process.stdout
        self._process, self._errors = process, errors

    def finish(self) -> tuple[int | None, str]:
        """Close the output and wait for the program to end.

        Returns:
            The exit code, None if the program does not end, and the first line of its stderr.
        """
        self.output.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_SECONDS)
        self._errors.seek(0)
        lines = self._errors.read(2000).decode("utf-8", "replace").split("\n")
        first = next((line.strip() for line in lines if line.strip()), "")
        return self._process.poll(), printable(first)


@contextmanager
def running(command: Sequence[str]) -> Iterator[Program]:
    """Run a program for the length of a `with` block, and kill it if it is still running then.

    If this process is killed, the program ends at its next write, since nobody reads the pipe.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        )
        program = Program(process, errors)
        try:
            yield program
        finally:
            program.output.close()
            process.kill()
            process.wait()
