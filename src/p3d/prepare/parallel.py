"""Work spread over threads, with a bar on a terminal and plain lines in a log."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from threading import Event
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")

LOG_LINE_SECONDS = 10.0
"""A log gets a line at most this often, and one at the end."""


class Progress:
    """Counts finished work: a bar on a terminal, a line now and then in a log.

    Args:
        total: How much work there is, in `unit`.
        title: What is being done.
        unit: What is counted; `"B"` is shown with binary prefixes.
    """

    def __init__(self, total: int | None, title: str, unit: str = "video") -> None:
        terminal = sys.stderr.isatty()
        bytes_counted = unit == "B"
        self._bar = tqdm(
            total=total,
            desc=title,
            unit=unit,
            unit_scale=bytes_counted,
            unit_divisor=1024,
            disable=not terminal,
        )
        self._log = not terminal
        self._scale = 2**20 if bytes_counted else 1
        self._unit = "MiB" if bytes_counted else f"{unit}s"
        self._total, self._title, self._done = total, title, 0
        self._next_line = time.monotonic() + LOG_LINE_SECONDS

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()
        if self._log and self._done:
            self._print_line()

    def advance(self, amount: int = 1) -> None:
        """Counts `amount` more as done."""
        self._done += amount
        self._bar.update(amount)
        if self._log and time.monotonic() >= self._next_line:
            self._print_line()
            self._next_line = time.monotonic() + LOG_LINE_SECONDS

    def _print_line(self) -> None:
        total = "" if self._total is None else f" of {self._total // self._scale:,}"
        done = f"{self._done // self._scale:,}{total} {self._unit}"
        print(f"{self._title}: {done}", file=sys.stderr, flush=True)


def default_workers() -> int:
    """As many threads as this process may use processors, at most 16."""
    if hasattr(os, "sched_getaffinity"):
        return min(16, len(os.sched_getaffinity(0)))
    return min(16, os.cpu_count() or 1)


def parallel_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    total: int,
    title: str,
    workers: int,
    stopping: Event | None = None,
) -> Iterator[Result]:
    """Maps over threads, in order, with progress; few items wait at a time.

    Threads suffice: linking, hashing, decoding and JPEG compression all leave the interpreter.

    Args:
        function: The work; an exception it raises stops everything not yet begun.
        items: What to work on.
        total: How many items there are.
        title: What is being done, for the progress.
        workers: Number of threads; 0 takes one a processor.
        stopping: Set when no more results are wanted, for long work to be given up.

    Yields:
        The results, in the order of the items.
    """
    workers = workers or default_workers()
    source = iter(items)
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="p3d-prepare")
    try:
        with Progress(total, title) as progress:
            waiting.extend(pool.submit(function, item) for item in islice(source, 4 * workers))
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in islice(source, 1))
                progress.advance()
                yield result
    finally:
        if stopping is not None:
            stopping.set()
        pool.shutdown(wait=True, cancel_futures=True)
