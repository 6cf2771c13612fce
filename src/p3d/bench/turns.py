"""Timing in turns: a machine that slows down slows all candidates."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from p3d.system.device import Precision, set_precision, synchronize

_PAUSE = 0.2
"""Seconds before each timed call."""


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
    precision: Precision
    call: Callable[[], object]
    clips: int = 1


def time_in_turns(
    candidates: list[Candidate], rounds: int, device: torch.device
) -> dict[tuple[str, Precision], float]:
    """Return the median seconds of a call by name and precision, after one warm-up call each.

    A pause before each call lets the threads of another runtime fall asleep: after their work they
    wait busily for a while, which doubled the time of the candidate that came next.
    """
    for candidate in candidates:
        set_precision(device, candidate.precision)
        candidate.call()
    times: dict[tuple[str, Precision], list[float]] = {}
    for _ in range(rounds):
        for candidate in candidates:
            set_precision(device, candidate.precision)
            synchronize(device)
            time.sleep(_PAUSE)
            started = time.perf_counter()
            candidate.call()
            synchronize(device)
            seconds = time.perf_counter() - started
            times.setdefault((candidate.name, candidate.precision), []).append(seconds)
    return {key: statistics.median(values) for key, values in times.items()}
