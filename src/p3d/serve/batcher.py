"""Clips of several requests, scored together."""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future

import torch
from torch import Tensor

from p3d.errors import UserError
from p3d.inference.pipe import ClipScorer

_Item = tuple[Tensor, "Future[Tensor]"]


class Batcher:
    """A thread that scores the clips of requests which arrive within a window as one batch.

    Args:
        scorer: The network. Only the thread calls it.
        window: Seconds to wait for more clips while a batch is not full.
        most_waiting: Requests that may wait; more are refused.
    """

    def __init__(self, scorer: ClipScorer, window: float, most_waiting: int) -> None:
        self._scorer, self._window = scorer, window
        self._items: queue.Queue[_Item | None] = queue.Queue()
        self._most, self._lock, self._closed = most_waiting, threading.Lock(), False
        self._thread = threading.Thread(target=self._run, name="p3d-batch", daemon=True)
        self._thread.start()

    def submit(self, clips: Tensor) -> Future[Tensor]:
        """Queue clips uint8 `(n, T, H, W, C)` and return their future logits `(n, num_classes)`.

        Raises:
            UserError: The queue is full, or the batcher is closed.
        """
        future: Future[Tensor] = Future()
        with self._lock:
            if self._closed:
                raise UserError("the service is stopping; send the request to another one")
            if self._items.qsize() >= self._most:
                raise UserError(f"{self._most} requests wait already, the most; try again later")
            self._items.put((clips, future))
        return future

    def close(self) -> None:
        """Refuse further clips, and return when all that were accepted have been scored."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._items.put(None)
        self._thread.join()

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
        item = self._items.get()
        end = time.monotonic() + self._window
        while item is not None:
            batch.append(item)
            if sum(len(clips) for clips, _ in batch) >= self._scorer.batch_size:
                return batch, False
            try:
                item = self._items.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                return batch, False
        return batch, True

    def _score(self, batch: list[_Item]) -> None:
        try:
            logits = self._scorer(torch.cat([clips for clips, _ in batch]))
        except Exception as error:
            if len(batch) == 1:
                batch[0][1].set_exception(error)
                return
            for item in batch:  # one request's error is not to fail the others
                self._score([item])
            return
        parts = logits.split([len(clips) for clips, _ in batch])
        for (_, future), part in zip(batch, parts, strict=True):
            future.set_result(part)
