"""Worker processes that take videos one after another, and are replaced if they die.

A worker asks for the next video when it has room for one, so that it can read several while it
computes. If it dies, the videos that it had are tried again, each alone in a fresh worker, so that
only the one that kills its worker is given up.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from p3d.archive.parts import Record
from p3d.errors import UserError

Work = Callable[[Iterator[str]], Iterable[Record]]
"""Yields a record for each video that it is given, in order. It may take some in advance."""

Open = Callable[[], Work]
"""Makes a `Work` in a worker process; importable by name, as spawned processes need it."""

Surroundings = Callable[[], AbstractContextManager[Any]]
"""A context in which a worker process is started."""

MAX_TRIES = 2
"""Times that a video is tried alone after a worker died, until it is given up."""

_SPAWN = multiprocessing.get_context("spawn")
_PATIENCE = 0.5
"""Seconds between two checks for a stop."""
_KILLED = "the process that read it died ({}); it was tried alone {} times"


@dataclass
class _Worker:
    process: SpawnProcess
    connection: Connection
    taken: list[str] = field(default_factory=list)
    """Videos without a record, in the order in which they were given."""
    alone: str | None = None
    wants: bool = False
    """Whether it waits for a video."""


class Pool:
    """Work through videos with several worker processes.

    Args:
        open_work: Makes the work of a worker.
        places: A context for each worker to start in, such as one that shows it one device only.
    """

    def __init__(self, open_work: Open, places: Sequence[Surroundings] = (nullcontext,)) -> None:
        self._open, self._places = open_work, places
        self._workers: list[_Worker | None] = [None] * len(places)
        self._suspects: deque[str] = deque()
        self._tries: dict[str, int] = {}

    def results(
        self, paths: Iterable[str], should_stop: Callable[[], bool] = lambda: False
    ) -> Generator[Record]:
        """Yield a record for each video, in the order in which they are finished.

        Args:
            paths: The videos.
            should_stop: Asked from time to time; if true, the rest is left.

        Raises:
            UserError: A worker could not start its work.
        """
        source = iter(paths)
        waiting: deque[str] = deque()  # at most one, to know whether there is another

        def is_left() -> bool:
            if not waiting and (path := next(source, None)) is not None:
                waiting.append(path)
            return bool(waiting or self._suspects)

        try:
            while (is_left() or any(w is not None and w.taken for w in self._workers)) and (
                not should_stop()
            ):
                for place, worker in enumerate(self._workers):
                    if worker is None and is_left():
                        self._workers[place] = self._start(place)
                    elif worker is not None and worker.wants:
                        self._give(worker, waiting, is_left)
                yield from self._receive()
        finally:
            self._close()

    def _give(self, worker: _Worker, waiting: deque[str], is_left: Callable[[], bool]) -> None:
        """Answer a worker that wants a video; None ends what it has begun."""
        path: str | None = None
        if worker.taken and (self._suspects or worker.alone is not None):
            pass  # it finishes what it has first
        elif self._suspects:
            worker.alone = path = self._suspects.popleft()
            self._tries[path] = self._tries.get(path, 0) + 1
        elif is_left():
            path = waiting.popleft()
        elif not worker.taken:
            return  # nothing to do yet; another worker may die
        worker.wants = False
        if path is not None:
            worker.taken.append(path)
        with suppress(OSError):  # it has died, which is noticed below
            worker.connection.send(path)

    def _receive(self) -> Iterator[Record]:
        """Wait for messages, and yield the records among them."""
        workers = {w.connection: w for w in self._workers if w is not None}
        for connection in wait([*workers], _PATIENCE):
            assert isinstance(connection, Connection)
            worker = workers[connection]
            try:
                kind, value = connection.recv()
            except (EOFError, OSError):
                yield from self._bury(worker)
                continue
            if kind == "want":
                worker.wants = True
            elif kind == "record":
                worker.taken.remove(value["path"])
                if worker.alone == value["path"]:
                    worker.alone = None
                yield value
            else:
                raise UserError(value)

    def _bury(self, worker: _Worker) -> Iterator[Record]:
        """Take the videos of a worker that died; yield records of those that are given up."""
        worker.process.join()
        worker.connection.close()
        self._workers[self._workers.index(worker)] = None
        reason = _describe_exit(worker.process.exitcode)
        if not worker.taken:
            raise UserError(
                f"a worker process died before it took a video ({reason}); if it says why above, "
                "mend that; if memory ran out, use a smaller --batch-size"
            )
        for path in worker.taken:
            if self._tries.get(path, 0) >= MAX_TRIES:
                yield {"path": path, "error": _KILLED.format(reason, MAX_TRIES)}
            else:
                self._suspects.append(path)

    def _start(self, place: int) -> _Worker:
        ours, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(target=_run, args=(self._open, theirs), daemon=True)
        with self._places[place]():
            process.start()
        theirs.close()
        return _Worker(process, ours)

    def _close(self) -> None:
        for worker in self._workers:
            if worker is not None:
                worker.connection.close()
                worker.process.kill()
                worker.process.join()


def _describe_exit(code: int | None) -> str:
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"


def _run(open_work: Open, connection: Connection) -> None:
    """Work in a worker process until the parent process closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    try:
        work = open_work()
        while True:
            with closing(_Given(connection)) as given:
                for record in work(given):
                    connection.send(("record", record))
    except UserError as error:
        with suppress(OSError):
            connection.send(("error", str(error)))
    except (EOFError, ConnectionError):  # the parent has gone
        return


class _Given(Iterator[str]):
    """The videos that the parent process gives, until it ends a round."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._ended = connection, False

    def __next__(self) -> str:
        if self._ended:
            raise StopIteration
        self._connection.send(("want", None))
        path: str | None = self._connection.recv()
        if path is None:
            self._ended = True
            raise StopIteration
        return path

    def close(self) -> None:
        """End the round."""
        self._ended = True
