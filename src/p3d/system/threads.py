"""Threads that read while the main thread computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

Submit = Callable[..., Callable[[], Any]]
"""Starts a call, and returns a function that waits for its result."""


@contextmanager
def readers(threads: int) -> Iterator[Submit]:
    """Start threads that run calls; without any, a call runs when its result is asked for."""
    if not threads:
        yield partial
        return
    executor = ThreadPoolExecutor(threads, "p3d-read", initializer=use_one_core)
    try:
        yield lambda call, *arguments: executor.submit(call, *arguments).result
    finally:
        executor.shutdown(cancel_futures=True)
        # The threads have changed the default for threads that start later, too.
        torch.set_num_threads(torch.get_num_threads())


def use_one_core() -> None:
    """Let torch compute with one thread in this thread."""
    torch.get_num_threads()  # Sets the default of this thread, which otherwise would come later.
    torch.set_num_threads(1)
