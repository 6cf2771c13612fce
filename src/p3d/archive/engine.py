"""Many items, a pool of workers, and a folder of results: every item exactly once.

An item whose worker dies is tried again later, alone in its worker, so that those beside it are not
blamed for its death.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Container, Mapping
from typing import Any, NamedTuple, Protocol

from p3d.archive.attempts import Attempts
from p3d.archive.work import Died, Event, Lost, Pool, Unreadable
from p3d.system.progress import ProgressBar
from p3d.system.signals import StopRequest
from p3d.system.text import counted, format_duration

_WAIT_SECONDS = 0.5


class Ledger(Protocol):
    """What is known about the items; the results themselves are kept in it or elsewhere.

    Attributes:
        done: Names of the items that have a result.
        bad: Why items have none, by name.
        attempts: The log of attempts.
    """

    attempts: Attempts

    @property
    def done(self) -> Container[str]: ...  # noqa: D102

    @property
    def bad(self) -> Mapping[str, str]: ...  # noqa: D102

    def add(self, video: str, result: Any, /) -> None:
        """Add the result of an item."""

    def add_bad(self, video: str, reason: str) -> None:
        """Add an item that has no result."""

    def flush(self) -> None:
        """Write what is not on the disk yet."""


class Summary(NamedTuple):
    """What a run did.

    Attributes:
        done: Videos that got a result.
        bad: Videos that were found to be bad.
        seconds: Its time, from the first video that started.
    """

    done: int
    bad: int
    seconds: float


def run_items(
    items: Mapping[str, Any],
    pool: Pool,
    results: Ledger,
    stop: StopRequest,
    title: str,
    *,
    shown: bool = True,
) -> Summary:
    """Work on the items that have no result yet, and write the results.

    Args:
        items: What a worker gets of each item, such as its path, by its name.
        pool: The workers.
        results: Where the results go.
        stop: Checked all the time; what is finished then is kept.
        title: What is being done, for the progress.
        shown: Whether to show the progress.

    Raises:
        UserError: The run cannot go on, for instance since the disk is full. What is in the parts
            remains.
    """
    todo = [name for name in items if name not in results.done and name not in results.bad]
    run = _Run(items, todo, pool, results)
    try:
        done = len(items) - len(todo)
        with ProgressBar(len(items), title, done=done, has_text=True, shown=shown) as bar:
            while run.is_unfinished and not stop.is_set:
                run.send_all()
                for event in pool.wait(_WAIT_SECONDS):
                    if finished := run.take(event):
                        bar.advance(finished, run.describe())
    finally:
        run.release()
        results.flush()
        results.attempts.close()
    return run.summary


class _Run:
    """Items on their way: waiting, at a worker, or finished."""

    def __init__(
        self, items: Mapping[str, Any], todo: list[str], pool: Pool, results: Ledger
    ) -> None:
        self._items, self._pool, self._results = items, pool, results
        suspects = [name for name in todo if results.attempts.is_suspect(name)]
        self._suspects = deque(suspects)
        known = set(suspects)
        self._fresh = deque(name for name in todo if name not in known)
        self._at: defaultdict[int, set[str]] = defaultdict(set)
        self._alone: set[int] = set()
        self._total, self._done, self._bad = len(todo), 0, 0
        self._started_at: float | None = None

    @property
    def is_unfinished(self) -> bool:
        return bool(self._fresh or self._suspects or any(self._at.values()))

    @property
    def summary(self) -> Summary:
        since = time.monotonic() if self._started_at is None else self._started_at
        return Summary(self._done, self._bad, time.monotonic() - since)

    def describe(self) -> str:
        """Return rate, remaining time and bad videos, in words."""
        done, bad, seconds = self.summary
        left = (self._total - done - bad) * seconds / (done + bad)
        text = f"{(done + bad) / max(seconds, 1e-9):.3g}/s, {format_duration(left)} left"
        return f"{text}, {bad:,} bad" if bad else text

    def send_all(self) -> None:
        """Give the workers as many items as they are to have."""
        for worker in range(self._pool.size):
            if not self._pool.is_ready(worker):
                continue
            while self._fresh and worker not in self._alone and self._has_room(worker):
                self._send(worker, self._fresh.popleft())
            while self._suspects and not self._fresh and not self._at[worker]:
                self._send_alone(worker, self._suspects.popleft())

    def _has_room(self, worker: int) -> bool:
        return len(self._at[worker]) < self._pool.depth

    def _send_alone(self, worker: int, name: str) -> None:
        if reason := self._results.attempts.describe_last(name):
            self._bad += 1
            self._results.add_bad(name, reason)
            return
        self._alone.add(worker)
        self._send(worker, name)

    def _send(self, worker: int, name: str) -> None:
        self._started_at = self._started_at or time.monotonic()
        self._results.attempts.start(name)
        self._at[worker].add(name)
        self._pool.send(worker, name, self._items[name])

    def take(self, event: Event) -> int:
        """Keep the news of a worker; return how many items are finished by it."""
        at = self._at[event.worker]
        names = at & ({event.video} if event.video is not None else set(at))
        finished = 0
        for name in sorted(names):
            at.discard(name)
            finished += self._finish(name, event)
        if not at:
            self._alone.discard(event.worker)
        return finished

    def _finish(self, name: str, event: Event) -> bool:
        outcome = event.outcome
        if isinstance(outcome, Lost):
            self._take_back(name, event.worker in self._alone)
            return False
        if isinstance(outcome, Died):
            return self._blame(name, outcome)
        if isinstance(outcome, Unreadable):
            self._bad += 1
            self._results.add_bad(name, outcome.reason)
        else:
            self._done += 1
            self._results.add(name, outcome)
        return True

    def _take_back(self, name: str, is_suspect: bool) -> None:
        self._results.attempts.release(name)
        (self._suspects if is_suspect else self._fresh).append(name)

    def _blame(self, name: str, died: Died) -> bool:
        """Count a death for an item; return whether it was the last one."""
        self._results.attempts.died(name)
        reason = self._results.attempts.describe_last(name)
        if reason is None:
            self._suspects.append(name)
            return False
        self._bad += 1
        self._results.add_bad(name, f"{reason} ({died.reason})")
        return True

    def release(self) -> None:
        """Give up the items that are at workers, without blaming them."""
        for names in self._at.values():
            for name in sorted(names):
                self._results.attempts.release(name)
            names.clear()


def describe(summary: Summary, earlier: int) -> str:
    """Return what a run did, in words.

    Args:
        summary: What it did.
        earlier: Items that had a result, or were known to be bad, before.
    """
    text = f"{counted(summary.done, 'video')} done"
    if summary.done:
        text += f" in {format_duration(summary.seconds)}"
        text += f" ({summary.done / max(summary.seconds, 1e-9):.3g} a second)"
    return f"{text}, {earlier:,} earlier" if earlier else text
