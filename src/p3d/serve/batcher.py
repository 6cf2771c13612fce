"""Clips of several requests, scored together."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import torch
from torch import Tensor

from p3d.inference.pipe import ClipScorer

_Item = tuple[Tensor, "Future[Tensor]"]


class Batcher:
    """A thread that scores the clips of requests which arrive within a window as one batch.

    While a batch is scored, requests collect for the next one, so a window matters only to a
    service with little to do.

    Args:
        scorer: The network. Only the thread calls it.
        window: Seconds to wait for more clips while a batch is not full.
        turn: Held while the scorer computes, so that networks on one device do not share its time.
        each: Called with the number of clips of each batch.
    """

    def __init__(
        self,
        scorer: ClipScorer,
        window: float,
        turn: threading.Lock | None = None,
        each: Callable[[int], object] = int,
    ) -> None:
        self._scorer, self._window, self._each = scorer, window, each
        self._turn = turn or threading.Lock()
        self._items: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._lock, self._closed = threading.Lock(), False
        self._thread = threading.Thread(target=self._run, name="p3d-batch", daemon=True)
        self._thread.start()

    @property
    def batch_size(self) -> int:
        """Clips of a full batch."""
        return self._scorer.batch_size

    def submit(self, clips: Tensor) -> Future[Tensor]:
        """Queue clips uint8 `(n, T, H, W, C)` and return their future outputs `(n, ...)`.

        A future that is canceled before its batch is full is not computed.

        Raises:
            RuntimeError: The batcher is closed.
        """
        future: Future[Tensor] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            self._items.put((clips, future))
        return future

    def close(self) -> None:
        """Refuse further clips, and return when all that were accepted have been scored."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._items.put(None)
        self._thread.join()

    def is_alive(self) -> bool:
        """Return whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        last = False
        while not last:
            batch, last = self._collect()
            batch = [item for item in batch if item[1].set_running_or_notify_cancel()]
            if batch:
                self._score(batch)

    def _collect(self) -> tuple[list[_Item], bool]:
        """Return the requests of the next batch, and whether it is the last."""
        batch: list[_Item] = []
        count = 0
        item = self._items.get()
        end = time.monotonic() + self._window
        while item is not None:
            batch.append(item)
            count += len(item[0])
            if count >= self._scorer.batch_size:
                return batch, False
            try:
                item = self._items.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                return batch, False
        return batch, True

    def _score(self, batch: list[_Item]) -> None:
        clips = torch.cat([clips for clips, _ in batch])
        self._each(len(clips))
        try:
            with self._turn:
                outputs = self._scorer(clips)
        except Exception as error:
            if len(batch) == 1:
                batch[0][1].set_exception(error)
                return
            for item in batch:  # one request's error is not to fail the others
                self._score([item])
            return
        parts = outputs.split([len(clips) for clips, _ in batch])
        for (_, future), part in zip(batch, parts, strict=True):
            future.set_result(part)
