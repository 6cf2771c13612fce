"""Graceful stopping: SIGTERM cleans up as Ctrl-C does, or both set a flag that long work checks."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from types import FrameType, TracebackType


class Stopped(Exception):
    """Unfinished work was abandoned because a stop was requested; it can be repeated later."""


class Terminated(KeyboardInterrupt):
    """SIGTERM ended the command, which cleans up as after Ctrl-C."""


@contextmanager
def cleaning_up_on_sigterm() -> Iterator[None]:
    """Let SIGTERM raise `Terminated` inside the block, so that no unfinished files stay behind.

    A second one ends the process at once. Nothing changes in a process of torchrun, whose peers may
    wait for it inside PyTorch, nor where SIGTERM has a handler, nor outside the main thread.
    """
    usual = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        and "RANK" not in os.environ
    )
    if not usual:
        yield
        return
    owner = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() != owner:  # a forked child
            os.kill(os.getpid(), number)
        raise Terminated

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class StopRequest:
    """A context in which the first SIGINT or SIGTERM sets a flag; the second acts as usual.

    Args:
        launched: Whether a launcher such as torchrun started this process. A launcher forwards
            signals that the terminal sends to this process too, and kills processes that take too
            long, so further signals are ignored.

    Attributes:
        signal: The first signal received, or None.
    """

    def __init__(self, *, launched: bool = False) -> None:
        self._launcher = os.getppid() if launched else None
        self.signal: signal.Signals | None = None
        self._handlers: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._handle)
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
        """Whether to stop: a signal was received, or the launcher exited."""
        return self.signal is not None or self._launcher not in (None, os.getppid())

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells expect of a stopped program.

        1 if only another process received the signal: to the launcher, 0 would mean success.
        """
        return 1 if self.signal is None else 128 + self.signal.value

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.signal = self.signal or signal.Signals(number)
        if self._launcher is None:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._handlers.clear()


@contextmanager
def postponed_child_signal() -> Iterator[None]:
    """Postpone the handler of SIGCHLD to the end of the block.

    PyTorch's handler raises an error when a worker process of a loader has died.
    """
    number = getattr(signal, "SIGCHLD", None)
    if number is None:  # Windows
        yield
        return
    handler = signal.getsignal(number)
    received: list[int] = []
    if callable(handler):
        signal.signal(number, lambda number, _: received.append(number))
    try:
        yield
    finally:
        signal.signal(number, handler)
    if received and callable(handler):
        handler(number, None)


def follow_parent() -> None:
    """Let this worker process ignore Ctrl-C, which the parent handles, and end with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def end_with_parent() -> None:
    """Let this process end at once when the process that started it ends."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
