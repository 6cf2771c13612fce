"""The scores of a video's windows: a thread reads windows while the network scores earlier ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from p3d.inference.pipe import ClipScorer
from p3d.inference.timeline.windows import Window
from p3d.system.device import needs_pinned_memory
from p3d.system.threads import readers

_BATCHES_AHEAD = 2


class WindowScores(NamedTuple):
    """The scores of a window.

    Attributes:
        time: Its middle in seconds from the first frame.
        logits: float32 `(num_classes,)`.
    """

    time: float
    logits: NDArray[np.float32]


class _Batch(NamedTuple):
    times: list[float]
    clips: Tensor  # uint8 (N, T, H, W, C)


def scan(
    scorer: ClipScorer, windows: Iterator[Window], threads: int
) -> Generator[list[WindowScores]]:
    """Score windows, a batch at a time, in their order.

    Args:
        scorer: The network.
        windows: The windows; read in another thread.
        threads: 0 reads in this thread.
    """
    pinned = needs_pinned_memory(scorer.device)
    batches = _batches(windows, scorer.batch_size, pinned=pinned)
    with readers(min(threads, 1)) as submit:
        waiting = deque(submit(next, batches, None) for _ in range(_BATCHES_AHEAD))
        while (batch := waiting.popleft()()) is not None:
            waiting.append(submit(next, batches, None))
            logits = scorer(batch.clips).numpy()
            yield [WindowScores(*pair) for pair in zip(batch.times, logits, strict=True)]


def _batches(windows: Iterator[Window], size: int, *, pinned: bool) -> Iterator[_Batch]:
    found: list[Window] = []
    for window in windows:
        found.append(window)
        if len(found) == size:
            yield _stack(found, pinned=pinned)
            found = []
    if found:
        yield _stack(found, pinned=pinned)


def _stack(windows: list[Window], *, pinned: bool) -> _Batch:
    clips = torch.stack([window.clip for window in windows])
    return _Batch([window.time for window in windows], clips.pin_memory() if pinned else clips)


def to_probabilities(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    """Return the probabilities of windows, each a function of its own logits alone.

    Args:
        logits: `(..., num_classes)`.
        temperature: What logits are divided by.
    """
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(-1, keepdims=True))
    result: NDArray[np.float64] = powers / powers.sum(-1, keepdims=True)
    return result
