"""Workers as processes of this machine: one for each device."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from p3d.archive.work import AHEAD, Died, Event, Stages, Unreadable, Work, start_worker
from p3d.errors import BadVideoError, UserError
from p3d.system.signals import follow_parent
from p3d.system.threads import readers

# Workers are forked from a process that has imported the modules and done nothing else: a fork of
# this process could use no device. Windows has no fork; fresh processes start in seconds.
_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
_CONTEXT = multiprocessing.get_context(_METHOD)
_END_SECONDS = 10.0


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    is_ready: bool = False


class _Ready:
    """A worker has started."""

    def __init__(self, depth: int) -> None:
        self.depth = depth


class _Fatal:
    """The run cannot go on."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


class ProcessPool:
    """Processes that work on items, each replaced when it dies; a context that ends them.

    Args:
        work: What they do.
        size: Number of processes.
    """

    def __init__(self, work: Work, size: int) -> None:
        self.size, self.depth = size, 1
        self._work = work
        self._workers: list[_Worker] = []

    def __enter__(self) -> ProcessPool:
        _CONTEXT.set_forkserver_preload([__name__, type(self._work).__module__])
        self._workers = [self._start(number) for number in range(self.size)]
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self._workers:
            worker.pipe.close()  # which ends it after its current video
        deadline = time.monotonic() + _END_SECONDS
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            worker.process.kill()
            worker.process.join()

    def is_ready(self, worker: int) -> bool:
        """See `Pool`."""
        return self._workers[worker].is_ready

    def send(self, worker: int, video: str, source: Any) -> None:
        """See `Pool`."""
        with suppress(OSError):  # it has died, which `wait` reports
            self._workers[worker].pipe.send((video, source))

    def wait(self, seconds: float) -> list[Event]:
        """See `Pool`."""
        ready = wait([worker.pipe for worker in self._workers], seconds)
        numbers = [n for n, worker in enumerate(self._workers) if worker.pipe in ready]
        return [event for number in numbers for event in self._receive(number)]

    def _receive(self, number: int) -> list[Event]:
        worker = self._workers[number]
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            return [Event(number, None, Died(self._replace(number)))]
        if isinstance(message, _Fatal):
            raise UserError(message.reason)
        if isinstance(message, _Ready):
            worker.is_ready, self.depth = True, message.depth
            return []
        video, outcome = message
        return [Event(number, video, outcome)]

    def _replace(self, number: int) -> str:
        """Start a process in the place of one that died, and return how it died."""
        worker = self._workers[number]
        worker.pipe.close()
        worker.process.join(_END_SECONDS)
        reason = _describe_end(worker.process.exitcode)
        if not worker.is_ready:
            raise UserError(f"a worker process died at its start ({reason}); see the lines above")
        self._workers[number] = self._start(number)
        return reason

    def _start(self, number: int) -> _Worker:
        ours, theirs = _CONTEXT.Pipe()
        process: BaseProcess = _CONTEXT.Process(  # type: ignore[attr-defined]
            target=_serve, args=(theirs, self._work, number), daemon=True
        )
        try:
            process.start()
        except EOFError as error:  # something, such as a launcher's SIGTERM, ended the fork server
            raise UserError(
                "no worker process can be started; give the same command again"
            ) from error
        theirs.close()
        return _Worker(process, ours)


def _describe_end(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    hint = "; was memory short?" if name == "SIGKILL" else ""
    return f"killed by {name}{hint}"


def _serve(pipe: Connection, work: Work, number: int) -> None:
    """Work on the items that come through a pipe, until the other side closes it."""
    follow_parent()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # some launchers send it to all processes
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            stages = start_worker(work, number)
            pipe.send(_Ready(stages.threads + AHEAD))
            _work_on(pipe, stages)
        except UserError as error:
            pipe.send(_Fatal(str(error)))


def _work_on(pipe: Connection, stages: Stages) -> None:
    started: deque[tuple[str, Any, Callable[[], Any]]] = deque()
    with readers(stages.threads) as submit:
        while True:
            while not started or pipe.poll():
                video, source = pipe.recv()
                started.append((video, source, submit(stages.read, source)))
            video, source, get = started.popleft()
            pipe.send((video, _outcome(stages, source, get)))


def _outcome(stages: Stages, source: Any, get: Callable[[], Any]) -> Any:
    try:
        return stages.compute(source, get())
    except BadVideoError as error:
        return Unreadable(error.reason)
