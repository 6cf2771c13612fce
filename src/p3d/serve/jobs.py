"""Long work that a client asks for once, and then asks about: timelines."""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from p3d.inference.timeline.cut_options import CutOptions
from p3d.inference.timeline.scan import WindowScores
from p3d.inference.timeline.timeline import Timeline, make_timeline
from p3d.serve.batcher import Batcher
from p3d.serve.decoding import DecoderPool, DecoderStream
from p3d.serve.options import Limits
from p3d.serve.problems import Problem

State = Literal["waiting", "running", "done", "failed", "canceled"]

_KEPT_SECONDS, _MOST_KEPT = 600.0, 64
_BATCHES_AHEAD = 2


@dataclass(frozen=True)
class TimelineRequest:
    """What a timeline is made of.

    Attributes:
        path: The video.
        name: What the client calls it.
        window: Seconds of a window; None for a clip of the weights.
        stride: Seconds from one window to the next; None for half a window.
        cut: How scores become segments.
    """

    path: Path
    name: str
    window: float | None
    stride: float | None
    cut: CutOptions


class Job:
    """A timeline that is made.

    Attributes:
        id: What the client asks for; it cannot be guessed.
        state: How far it is.
        progress: The part of the video that is done, from 0 to 1.
        timeline: The result, once it is done.
        problem: Why it failed.
        was_fetched: Whether the client has seen its end.
    """

    def __init__(self, request: TimelineRequest, release: Callable[[], object]) -> None:
        self.request, self._release = request, release
        self.id = secrets.token_urlsafe(16)
        self.state: State = "waiting"
        self.progress = 0.0
        self.timeline: Timeline | None = None
        self.problem: Problem | None = None
        self.was_fetched = False
        self.ended: float | None = None
        self._stream: DecoderStream | None = None
        self._lock = threading.Lock()

    @property
    def has_ended(self) -> bool:
        """Whether it is done, failed or canceled."""
        return self.ended is not None

    def attach(self, stream: DecoderStream) -> bool:
        """Note the process that works for this job; return False if it is canceled."""
        with self._lock:
            if self.has_ended:
                return False
            self._stream, self.state = stream, "running"
            return True

    def end(self, state: State, *, problem: Problem | None = None) -> None:
        """Give the job its last state, unless it has one, and delete its upload."""
        with self._lock:
            if self.has_ended:
                return
            self.state, self.problem, self.ended = state, problem, time.monotonic()
        if self._stream is not None:
            self._stream.interrupt()
        self._release()


class Jobs:
    """The jobs of a service, which are done one after another.

    Args:
        decoders: Where the processes that decode come from.
        batcher: What scores windows, between those of other requests.
        limits: Number of jobs, and their time.
        class_names: Names of the classes.
        temperature: What logits are divided by.
    """

    def __init__(
        self,
        decoders: DecoderPool,
        batcher: Batcher,
        limits: Limits,
        class_names: tuple[str, ...],
        temperature: float,
    ) -> None:
        self._decoders, self._batcher, self._limits = decoders, batcher, limits
        self._class_names, self._temperature = class_names, temperature
        self._jobs: dict[str, Job] = {}
        self._thread = ThreadPoolExecutor(1, "p3d-job")

    @property
    def unfinished(self) -> int:
        """Number of jobs that wait or run."""
        return sum(not job.has_ended for job in self._jobs.values())

    @property
    def unseen(self) -> int:
        """Number of jobs whose end no client has seen."""
        return sum(not job.was_fetched for job in self._jobs.values())

    def check_room(self) -> None:
        """Check that one more job may wait.

        Raises:
            Problem: There are too many (503).
        """
        if self.unfinished >= self._limits.max_jobs:
            raise Problem(503, f"{self.unfinished} jobs wait, the limit; try again later", retry=10)

    def add(self, request: TimelineRequest, release: Callable[[], object]) -> Job:
        """Start a job.

        Args:
            request: What to do.
            release: Called when the video is no longer needed.
        """
        self._forget()
        job = Job(request, release)
        self._jobs[job.id] = job
        self._thread.submit(self._run, job)
        return job

    def find(self, number: str) -> Job:
        """Return a job.

        Raises:
            Problem: There is none (404).
        """
        self._forget()
        job = self._jobs.get(number)
        if job is None:
            raise Problem(404, f"there is no job {number}; results are kept for 10 minutes")
        return job

    def cancel(self, number: str) -> Job:
        """End a job and forget it.

        Raises:
            Problem: There is none (404).
        """
        job = self.find(number)
        job.end("canceled")
        del self._jobs[number]
        return job

    def _forget(self) -> None:
        """Drop results that are old, or too many."""
        ended = [job for job in self._jobs.values() if job.ended is not None]
        for place, job in enumerate(reversed(ended)):
            assert job.ended is not None
            if place >= _MOST_KEPT or time.monotonic() - job.ended > _KEPT_SECONDS:
                del self._jobs[job.id]

    def _run(self, job: Job) -> None:
        try:
            if not job.has_ended:
                job.timeline = self._make(job)
                job.end("done")
        except Problem as problem:
            job.end("failed", problem=problem)
        except Exception as error:
            job.end("failed", problem=Problem(500, f"{job.request.name}: {error}"))

    def _make(self, job: Job) -> Timeline:
        request = job.request
        deadline = time.monotonic() + self._limits.job_seconds
        wanted = {"window": request.window, "stride": request.stride}
        wanted["batch"] = self._batcher.batch_size
        windows: list[WindowScores] = []
        waiting: deque[tuple[list[float], Future[Tensor]]] = deque()
        total, end = 0.0, 0.0

        def take() -> None:
            times, future = waiting.popleft()
            windows.extend(map(WindowScores, times, future.result().numpy()))
            job.progress = min(1.0, times[-1] / max(total, 1e-9))

        with self._decoders.windows(wanted, request.path, request.name, deadline) as stream:
            if not job.attach(stream):
                raise Problem(409, "canceled")
            for reply, clips in stream:
                if clips is not None:
                    waiting.append((reply["times"], self._batcher.submit(clips)))
                    if len(waiting) > _BATCHES_AHEAD:
                        take()
                total, end = reply.get("seconds", total), reply.get("end", end)
            while waiting:
                take()
        job.progress = 1.0
        timeline = make_timeline(
            Path(request.name), windows, end, self._class_names, self._temperature
        )
        return timeline.cut(request.cut)

    def close(self) -> None:
        """Cancel all jobs."""
        for job in list(self._jobs.values()):
            job.end("canceled")
        self._thread.shutdown()
