"""Stopping long work without losing any: Ctrl-C and SIGTERM ask, the work answers."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType


class Stopped(Exception):
    """Work that can be done again later was left because a stop was asked for."""


class StopRequest:
    """While entered, turns the first SIGINT or SIGTERM into a flag; a second one acts as usual.

    Args:
        launched: Whether a launcher runs this process: it passes signals on that the process gets
            from the terminal too, and kills by itself whoever takes too long. So a second signal
            does nothing then.

    Attributes:
        signal: The signal that came, or None.
    """

    def __init__(self, *, launched: bool = False) -> None:
        self._launcher = os.getppid() if launched else None
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    @property
    def is_set(self) -> bool:
        """Whether to stop: a signal came, or the launcher is gone and with it the run's owner."""
        return self.signal is not None or self._launcher not in (None, os.getppid())

    @property
    def exit_code(self) -> int:
        """What a shell expects of a program that was stopped: 128 and the signal's number.

        1 where the signal reached another process only: a launcher that saw 0 would take this one
        for done.
        """
        return 1 if self.signal is None else 128 + self.signal.value

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.signal = self.signal or signal.Signals(number)
        if self._launcher is None:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before.clear()
