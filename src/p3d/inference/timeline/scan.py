"""The scores of a video's windows: a thread reads windows while the network scores earlier ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from p3d.inference.timeline.window_scorer import Clips, WindowScorer
from p3d.inference.timeline.windows import Window
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
    clips: Clips


def scan(
    scorer: WindowScorer, windows: Iterator[Window], threads: int
) -> Generator[list[WindowScores]]:
    """Score windows, a batch at a time, in their order.

    Args:
        scorer: The network or networks.
        windows: The windows; read in another thread. Optical flow is computed in this one.
        threads: 0 reads in this thread.
    """
    batches = _batches(scorer, windows)
    with readers(min(threads, 1)) as submit:
        waiting = deque(submit(next, batches, None) for _ in range(_BATCHES_AHEAD))
        while (batch := waiting.popleft()()) is not None:
            waiting.append(submit(next, batches, None))
            logits = scorer.score(batch.clips).numpy()
            yield [WindowScores(*pair) for pair in zip(batch.times, logits, strict=True)]


def _batches(scorer: WindowScorer, windows: Iterator[Window]) -> Iterator[_Batch]:
    while found := list(islice(windows, scorer.batch_size)):
        yield _Batch([window.time for window in found], scorer.stack(found))


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
