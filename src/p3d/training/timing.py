"""Time of a training run, measured on its own first steps."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from p3d.data.loader import TrainLoader
from p3d.system.text import format_duration
from p3d.training.state import TrainState
from p3d.training.step import train_step

TIMED_STEPS = 4
"""Steps after which a run's time is estimated; the first is not counted."""

TIMED_SECONDS = 20.0
"""Fewer steps are enough if they take this long."""

WINDOW = 100
"""Number of recent steps, or validations, that a mean follows."""

SCORING_SHARE = 1 / 3
"""Time to score a clip, in times to train on it: the forward pass without the backward pass."""

PREFETCHED = 2
"""Batches that each worker process of a loader prepares in advance."""


@dataclass(frozen=True)
class RunTime:
    """Time of a run, or of the rest of it.

    Attributes:
        step: Seconds of an optimizer step.
        steps: Number of steps.
        validation: Seconds of a validation.
        validations: Number of validations.
        videos: Videos of a validation.
    """

    step: float
    steps: int
    validation: float
    validations: int
    videos: int

    @property
    def seconds(self) -> float:
        """Time in seconds."""
        return self.step * self.steps + self.validation * self.validations

    def __str__(self) -> str:
        parts = [f"{self.step:.2g} s a step", f"{self.steps:,} steps"]
        if self.validations:
            count = f"{self.validations} validation{'s' if self.validations > 1 else ''}"
            parts.append(f"{count} of {self.videos:,} videos")
        return f"about {format_duration(self.seconds)}: {', '.join(parts)}"


class _Mean:
    """Mean of all values but the first, which includes starting up; follows the recent ones."""

    def __init__(self) -> None:
        self.count = 0
        self.value = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.count += 1
        if self.count <= 2:
            self.value = value
        else:
            self.value += (value - self.value) / min(self.count - 1, WINDOW)


class Stopwatch:
    """Times of a process's steps and validations, and an estimate of the rest of its run.

    Args:
        loader: This rank's training clips.
        workers: Its worker processes.
        videos: Number of validation videos, 0 without a validation.
        clips: Clips of each of them.
    """

    def __init__(self, loader: TrainLoader, workers: int, videos: int, clips: int) -> None:
        self._loader = loader
        self._workers = workers
        self._videos = videos
        self._clips = clips
        self._step, self._validation = _Mean(), _Mean()
        self._loading = self._total = 0.0

    def add_step(self, seconds: float, waited: float) -> None:
        """Count an optimizer step.

        Args:
            seconds: Its time, with the time spent waiting for clips.
            waited: Time spent waiting for clips.
        """
        if self._step.count == 0 and self._workers:
            # All workers start at once, so their first batches arrive together.
            batches = self._loader.batches_per_step
            self._loading = waited * batches / (self._workers * -(-batches // self._workers))
            seconds -= waited
        self._total += seconds
        self._step.add(seconds)

    def add_validation(self, seconds: float) -> None:
        """Count a validation."""
        self._validation.add(seconds)

    @property
    def is_settled(self) -> bool:
        """Whether enough was timed for an estimate."""
        return self._step.count >= TIMED_STEPS or self._total >= TIMED_SECONDS

    @property
    def step(self) -> float:
        """Seconds of a step: of the computation or of the loader, whichever is slower."""
        ready = PREFETCHED * self._workers / self._loader.batches_per_step
        # Until the batches that were prepared in advance are used, a slow loader does not show.
        is_ready = self._step.count <= ready + 1
        return max(self._step.value, self._loading) if is_ready else self._step.value

    def rest(self, state: TrainState) -> RunTime | None:
        """Estimate the time of the steps and validations that are left; None before a step."""
        if not self._step.count:
            return None
        scoring = self.step / state.clips_per_step * SCORING_SHARE * self._videos * self._clips
        epochs = -(-state.total_steps // self._loader.steps_per_epoch) - state.progress.epoch
        return RunTime(
            self.step,
            state.total_steps - state.progress.step,
            self._validation.value if self._validation.count else scoring,
            epochs if self._videos else 0,
            self._videos,
        )


def time_steps(state: TrainState, loader: TrainLoader, watch: Stopwatch) -> RunTime | None:
    """Estimate the rest of a run by its next few steps; the state must not be used after that.

    The steps are real ones, on the run's own clips, since made-up clips would tell nothing about
    the loader. All ranks must call it.

    Returns:
        The time from before these steps; None if no step is left.

    Raises:
        UserError: A step fails, as it would in the run.
    """
    progress = state.progress
    if state.all_steps_done:
        return None
    whole, start = replace(progress), time.perf_counter()
    for batches in loader.steps(progress.epoch, progress.step_in_epoch):
        waited = time.perf_counter() - start
        train_step(state, batches)
        end = time.perf_counter()
        watch.add_step(end - start, waited)
        start = end
        if state.group.any(state.all_steps_done or watch.is_settled):
            break
    state.progress = whole
    return watch.rest(state)
