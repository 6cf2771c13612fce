"""Work in threads, with progress."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from p3d.system.machine import num_cores
from p3d.system.progress import ProgressBar

Item = TypeVar("Item")
Result = TypeVar("Result")


def parallel_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    total: int,
    title: str,
    workers: int,
) -> Iterator[Result]:
    """Map a function over items in threads, with progress.

    Threads suffice, since linking and hashing release the GIL. Only a
    few items per thread are taken in advance.

    Args:
        function: The work. An exception cancels all items that have not started.
        items: Its arguments.
        total: Number of items.
        title: What is being done.
        workers: Number of threads; 0: one per core, at most 16.

    Yields:
        The results in the order of the items.
    """
    workers = workers or min(16, num_cores())
    source = iter(items)
    pending: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="p3d-prepare")
    try:
        with ProgressBar(total, title) as progress:
            pending.extend(pool.submit(function, item) for item in islice(source, 4 * workers))
            while pending:
                result = pending.popleft().result()
                pending.extend(pool.submit(function, item) for item in islice(source, 1))
                progress.advance()
                yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
