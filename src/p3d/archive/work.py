"""What workers do: read items in threads, and compute the results one after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from p3d.video.index_cache import INDICES

AHEAD = 2
"""Items that a worker holds besides those in its threads."""

_INDEX_BYTES = 4 * 2**20


class Stages(Protocol):
    """The two stages of a worker's work on an item.

    Attributes:
        threads: Threads that read; 0 reads between the computations.
    """

    threads: int

    def read(self, source: Any) -> Any:
        """Read an item; called in threads. Raises BadVideoError if it cannot be read."""

    def compute(self, source: Any, content: Any) -> Any:
        """Return the result of an item, such as a row; called by one thread at a time.

        Raises BadVideoError if it has none, or another UserError that ends the whole run.
        """


class OneStage:
    """Stages of work that is not divided: an item is done by one thread from beginning to end.

    Args:
        make: Returns the result of an item; raises as the methods of `Stages`.
        threads: Threads that call it; 0 does one item after another.
    """

    def __init__(self, make: Callable[[Any], Any], threads: int = 0) -> None:
        self.threads = threads
        self._make = make

    def read(self, source: Any) -> Any:
        """Do all of the work."""
        return self._make(source)

    def compute(self, source: Any, content: Any) -> Any:  # noqa: ARG002
        """Return the result of `read`."""
        return content


class Work(Protocol):
    """What a worker is started with. It is pickled and sent to the worker's process."""

    def start(self, number: int) -> Stages:
        """Prepare a worker.

        Args:
            number: Number of its device; beyond the devices of the machine, it counts on from 0.

        Raises UserError if the run cannot go on, such as for weights that were replaced.
        """


def start_worker(work: Work, number: int) -> Stages:
    """Start work in a process of its own; see `Work.start`.

    The indices of the last few videos are kept, not of all: each is opened once or twice.
    """
    INDICES.limit(_INDEX_BYTES)
    return work.start(number)


class Died(NamedTuple):
    """A worker died while it had an item."""

    reason: str


class Lost(NamedTuple):
    """A worker's machine went away while it had an item, which is not to blame."""


class Unreadable(NamedTuple):
    """An item has no result."""

    reason: str


class Event(NamedTuple):
    """News of a worker.

    Attributes:
        worker: Its number.
        video: Name of the item; None for all that the worker has.
        outcome: The result of the item; `Unreadable`, `Died` or `Lost` if there is none.
    """

    worker: int
    video: str | None
    outcome: Any


class Pool(Protocol):
    """Workers, wherever they are.

    Attributes:
        depth: Items that a worker is to have, so that it never waits.
    """

    depth: int

    @property
    def size(self) -> int:
        """Number of workers so far; it may grow."""

    def is_ready(self, worker: int) -> bool:
        """Return whether items can be sent to a worker."""

    def send(self, worker: int, video: str, source: Any) -> None:
        """Give an item to a worker."""

    def wait(self, seconds: float) -> list[Event]:
        """Wait for news, at most for this time.

        Raises UserError if the run cannot go on.
        """
