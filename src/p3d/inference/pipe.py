"""From videos to logits: threads read clips while the network scores those of earlier videos.

FFmpeg's decoding releases Python's global lock. Unlike worker processes, threads start at once, and
nothing is copied between them and the network.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from p3d.errors import BadVideoError, UserError
from p3d.inference.clip_plan import ClipPlan
from p3d.system.device import needs_pinned_memory
from p3d.system.machine import num_cores
from p3d.system.threads import Submit, readers

V = TypeVar("V")
I = TypeVar("I")  # noqa: E741 (information about a video)

Read = Callable[[V, Sequence[int]], "tuple[Tensor, I]"]
"""Returns clips of a video, by their positions in the order of time, and what is known of it.

The clips are uint8 `(n, T, H, W, C)`. Raises BadVideoError if it cannot be read.
"""

_MAX_THREADS = 8
_CPU_THREADS = 2


class ClipScorer(Protocol):
    """What the pipe needs of a `Scorer`."""

    device: torch.device
    batch_size: int

    def __call__(self, clips: Tensor) -> Tensor:
        """Return the logits of clips."""


@dataclass(frozen=True)
class Scored(Generic[I]):
    """The scores of a video.

    Attributes:
        info: What `Read` returned about the video.
        logits: float32 `(n, num_classes)`, of the clips that the answer takes, in the order of the
            plan.
    """

    info: I
    logits: Tensor


def num_threads(workers: int | None, device: torch.device) -> int:
    """Return the number of reading threads.

    Args:
        workers: What the user asks for; None for what suits the machine. A network on the CPU
            needs few, since it takes far longer than reading and uses all cores.
        device: Where the network computes.

    Raises:
        UserError: The number is negative.
    """
    if workers is not None and workers < 0:
        raise UserError(f"--workers {workers}: must be at least 0; 0 decodes in the main thread")
    if workers is not None:
        return workers
    cores = num_cores()
    return 0 if cores == 1 else min(cores, _usual_threads(device))


def _usual_threads(device: torch.device) -> int:
    return _CPU_THREADS if device.type == "cpu" else _MAX_THREADS


def score_in_order(
    scorer: ClipScorer,
    videos: Iterable[V],
    read: Read[V, I],
    plan: ClipPlan,
    threads: int,
) -> Generator[Scored[I] | BadVideoError]:
    """Score videos and yield the results in their order.

    A batch is filled with clips of several videos. What is in it does not depend on the speed of
    reading. A few videos are open at a time, each with the clips of one group of the plan.

    Args:
        scorer: The network.
        videos: The videos. Some more than have been scored are taken from it in advance.
        read: Reads clips; called in threads.
        plan: Which clips.
        threads: Threads that read; 0 reads in this one.

    Yields:
        For each video its scores, or why it cannot be read.
    """
    with readers(threads) as submit:
        pipe = _Pipe(scorer, read, plan, submit)
        room = _room(scorer, plan, threads)
        source = iter(videos)
        while pipe.admit(source, room):
            pipe.advance()
            yield from pipe.finished()


def _room(scorer: ClipScorer, plan: ClipPlan, threads: int) -> int:
    """Return how many videos are open: those of a batch, and one for each thread.

    The default number of threads counts even if there are fewer: clips are rounded differently in
    batches of other sizes, so all batches must be the same size.
    """
    size, smallest = scorer.batch_size, min(len(group) for group in plan.groups)
    # A batch leaves at most size - 1 clips behind, and the next one is to be full again.
    in_batch = 1 if size == 1 else 2 * -(-size // smallest)
    return in_batch + max(threads, _usual_threads(scorer.device))


@dataclass
class _Video(Generic[V, I]):
    video: V
    logits: list[Tensor] = field(default_factory=list)
    num_groups: int = 0
    num_waiting: int = 0
    info: I | None = None
    result: Scored[I] | BadVideoError | None = None


class _Pipe(Generic[V, I]):
    """Videos at different stages: being read, waiting for the network, or finished."""

    def __init__(
        self, scorer: ClipScorer, read: Read[V, I], plan: ClipPlan, submit: Submit
    ) -> None:
        self._scorer, self._read, self._plan, self._submit = scorer, read, plan, submit
        self._videos: deque[_Video[V, I]] = deque()  # in the order of the results
        self._reads: deque[tuple[_Video[V, I], Callable[[], tuple[Tensor, I]]]] = deque()
        self._clips: deque[tuple[_Video[V, I], Tensor]] = deque()

    def admit(self, source: Iterator[V], room: int) -> bool:
        """Start videos while fewer than `room` are unfinished; return whether any is there."""
        unfinished = sum(video.result is None for video in self._videos)
        while unfinished < room:
            try:
                video = _Video[V, I](next(source))
            except StopIteration:
                break
            self._videos.append(video)
            self._start_reading(video)
            unfinished += 1
        return bool(self._videos)

    def advance(self) -> None:
        """Wait for clips until a batch is full, and score it."""
        size = self._scorer.batch_size
        while self._reads and sum(len(clips) for _, clips in self._clips) < size:
            self._take(*self._reads.popleft())
        if self._clips:
            self._score(size)

    def finished(self) -> Iterator[Scored[I] | BadVideoError]:
        """Yield the results of the first videos that have one."""
        while self._videos and (result := self._videos[0].result) is not None:
            self._videos.popleft()
            yield result

    def _start_reading(self, video: _Video[V, I]) -> None:
        group = self._plan.groups[video.num_groups]
        video.num_groups += 1
        self._reads.append((video, self._submit(self._read, video.video, group)))

    def _take(self, video: _Video[V, I], get: Callable[[], tuple[Tensor, I]]) -> None:
        try:
            clips, video.info = get()
        except BadVideoError as error:
            video.result = error
            return
        video.num_waiting = len(clips)
        self._clips.append((video, clips))

    def _score(self, size: int) -> None:
        batch: list[tuple[_Video[V, I], Tensor]] = []
        while self._clips and size:
            video, clips = self._clips.popleft()
            batch.append((video, clips[:size]))
            if len(clips) > size:
                self._clips.appendleft((video, clips[size:]))
            size -= len(batch[-1][1])
        parts = [clips for _, clips in batch]
        logits = self._scorer(_join(parts, pinned=needs_pinned_memory(self._scorer.device)))
        for (video, _), scores in zip(batch, logits.split([*map(len, parts)]), strict=True):
            self._add(video, scores)

    def _add(self, video: _Video[V, I], scores: Tensor) -> None:
        video.logits.append(scores)
        video.num_waiting -= len(scores)
        if video.num_waiting:
            return
        logits = torch.cat(video.logits)
        used = self._plan.used(logits, video.num_groups)
        if used is None:
            self._start_reading(video)
        else:
            assert video.info is not None, "its clips have been read"
            video.result = Scored(video.info, logits[:used])


def _join(parts: Sequence[Tensor], *, pinned: bool) -> Tensor:
    """Return clips of several videos as one batch, in pinned memory if asked for."""
    if not pinned:
        return parts[0] if len(parts) == 1 else torch.cat(list(parts))
    shape = (sum(map(len, parts)), *parts[0].shape[1:])
    return torch.cat(list(parts), out=torch.empty(shape, dtype=torch.uint8, pin_memory=True))
