"""Timing in turns: a machine that slows down slows all candidates."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from p3d.system.device import Precision, set_precision, synchronize

Arithmetic = Precision | Literal["int8"]

_PAUSE = 0.2
"""Seconds before each turn."""


@dataclass(frozen=True)
class Candidate:
    """A network to time.

    Attributes:
        name: What it is.
        precision: Its arithmetic.
        call: Processes its clips.
        clips: How many clips a call processes.
    """

    name: str
    precision: Arithmetic
    call: Callable[[], object]
    clips: int = 1


@dataclass(frozen=True)
class Times:
    """Seconds of a candidate's timed calls: the median, and the best."""

    median: float
    best: float


def time_in_turns(
    candidates: list[Candidate], rounds: int, device: torch.device
) -> dict[tuple[str, Arithmetic], Times]:
    """Return the seconds of a call by name and precision.

    In a turn a candidate is called twice, and the second call is timed: clips and training steps
    follow each other in use too. A pause before the turn lets the threads of another runtime fall
    asleep: after their work they wait busily for a while, which doubled the time of the candidate
    that came next.
    """
    seconds: dict[tuple[str, Arithmetic], list[float]] = {}
    for _ in range(rounds):
        for candidate in candidates:
            if candidate.precision != "int8":
                set_precision(device, candidate.precision)
            time.sleep(_PAUSE)
            candidate.call()
            synchronize(device)
            started = time.perf_counter()
            candidate.call()
            synchronize(device)
            key = (candidate.name, candidate.precision)
            seconds.setdefault(key, []).append(time.perf_counter() - started)
    return {key: Times(statistics.median(each), min(each)) for key, each in seconds.items()}
