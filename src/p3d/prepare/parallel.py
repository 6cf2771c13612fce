"""Work in threads, with a progress bar on a terminal and lines in a log."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from threading import Event
from typing import TypeVar

from tqdm import tqdm

from p3d.errors import printable
from p3d.system.machine import num_cores

Item = TypeVar("Item")
Result = TypeVar("Result")

LOG_LINE_SECONDS = 10.0
"""Shortest time between two lines in a log; the last line is always printed."""


class Progress:
    """Progress of some work: a bar on a terminal, else a line from time to time.

    Args:
        total: Amount of work in `unit`, None if unknown.
        title: What is being done.
        unit: What is counted; `"B"` is shown with binary prefixes.
    """

    def __init__(self, total: int | None, title: str, unit: str = "video") -> None:
        terminal, title = sys.stderr.isatty(), printable(title)
        is_bytes = unit == "B"
        self._bar = tqdm(
            total=total,
            desc=title,
            unit=unit,
            unit_scale=is_bytes,
            unit_divisor=1024,
            disable=not terminal,
        )
        self._log = not terminal
        self._scale = 2**20 if is_bytes else 1
        self._unit = "MiB" if is_bytes else f"{unit}s"
        self._total, self._title, self._done = total, title, 0
        self._next_line = time.monotonic() + LOG_LINE_SECONDS

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()
        if self._log and self._done:
            self._print_line()

    def advance(self, amount: int = 1) -> None:
        """Count `amount` more as done."""
        self._done += amount
        self._bar.update(amount)
        if self._log and time.monotonic() >= self._next_line:
            self._print_line()
            self._next_line = time.monotonic() + LOG_LINE_SECONDS

    def _print_line(self) -> None:
        total = "" if self._total is None else f" of {self._total // self._scale:,}"
        done = f"{self._done // self._scale:,}{total} {self._unit}"
        print(f"{self._title}: {done}", file=sys.stderr, flush=True)


def parallel_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    total: int,
    title: str,
    workers: int,
    stopping: Event | None = None,
) -> Iterator[Result]:
    """Map a function over items in threads, with progress.

    Threads suffice, since linking, hashing, decoding and JPEG compression release the GIL. Only a
    few items per thread are taken in advance.

    Args:
        function: The work. An exception cancels all items that have not started.
        items: Its arguments.
        total: Number of items.
        title: What is being done.
        workers: Number of threads; 0: one per core, at most 16.
        stopping: Set when no more results are needed, so that long work can stop early.

    Yields:
        The results in the order of the items.
    """
    workers = workers or min(16, num_cores())
    source = iter(items)
    pending: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="p3d-prepare")
    try:
        with Progress(total, title) as progress:
            pending.extend(pool.submit(function, item) for item in islice(source, 4 * workers))
            while pending:
                result = pending.popleft().result()
                pending.extend(pool.submit(function, item) for item in islice(source, 1))
                progress.advance()
                yield result
    finally:
        if stopping is not None:
            stopping.set()
        pool.shutdown(wait=True, cancel_futures=True)
