"""Jobs in processes of their own, one at a time on each of several devices."""

from __future__ import annotations

import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

from p3d.errors import UserError
from p3d.system.distributed import launch_alone
from p3d.system.signals import StopRequest, end_with_parent

_CHECK_SECONDS = 0.2
"""Time between two looks at whether a stop was requested."""


@dataclass(frozen=True)
class Job:
    """Work for a process of its own.

    Attributes:
        name: Its name in messages.
        function: The work, which can be pickled; it returns an exit code.
        log: File that its output is appended to.
    """

    name: str
    function: Callable[[], int]
    log: Path


@dataclass(frozen=True)
class _Child:
    job: Job
    device_index: int
    process: SpawnProcess
    errors: Connection

    def check(self) -> None:
        """Raise an error if the process did not end well."""
        self.process.join()
        code = self.process.exitcode or 0
        message: str | None = None
        with suppress(EOFError):  # it ended without one
            message = self.errors.recv() if self.errors.poll() else None
        if message is not None:
            raise UserError(f"{self.job.name}: {message} (its output is in {self.job.log})")
        if code:
            cause = f"exit code {code}" if code > 0 else signal.Signals(-code).name
            raise UserError(
                f"{self.job.name}: its process ended with {cause}, see the end of {self.job.log}; "
                "the same command goes on with it"
            )


def run_on_devices(
    jobs: Sequence[Job],
    device_indices: Sequence[int],
    stop: StopRequest,
    started: Callable[[Job], None],
) -> Iterator[Job]:
    """Run jobs in processes, one on each device at a time, and yield each that ended well.

    If a stop is requested, a job fails, or the iterator is closed, no other job is started, and
    those that run get SIGTERM and are waited for. They also end with this process, however it ends.

    Args:
        jobs: The jobs, in the order in which they are started.
        device_indices: Index of each device; equal ones run at the same time too.
        stop: Checked from time to time.
        started: Called with each job that starts.

    Raises:
        UserError: A job failed; the message has its name.
    """
    waiting, free = deque(jobs), deque(device_indices)
    running: dict[int, _Child] = {}
    try:
        while waiting or running:
            while waiting and free:
                started(waiting[0])
                child = _start(waiting.popleft(), free.popleft())
                running[child.process.sentinel] = child
            ended = connection.wait(list(running), timeout=_CHECK_SECONDS)
            if stop.is_set:
                return
            for sentinel in ended:
                assert isinstance(sentinel, int)
                child = running.pop(sentinel)
                free.append(child.device_index)
                with closing(child.errors):
                    child.check()
                yield child.job
    finally:
        for child in running.values():
            child.process.terminate()
        for child in running.values():
            child.process.join()


def _start(job: Job, device_index: int) -> _Child:
    context = get_context("spawn")  # a forked process cannot use CUDA
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(job, device_index, sender))
    process.start()
    sender.close()
    return _Child(job, device_index, process, receiver)


def _work(job: Job, device_index: int, errors: Connection) -> None:
    """Do a job in a child process."""
    end_with_parent()
    with job.log.open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    launch_alone(device_index)
    try:
        code = job.function()
    except UserError as error:
        print(f"p3d: error: {error}", file=sys.stderr)
        errors.send(str(error))
        code = 2
    sys.exit(code)
