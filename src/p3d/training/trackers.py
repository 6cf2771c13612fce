"""Experiment trackers: Weights & Biases, MLflow and trackio, imported when they are used.

A tracker gets the numbers of the run's log, and the options once. It can fail at any time (network,
login, quota) without ending the run: a warning is printed, and `log.jsonl` has all numbers anyway.
"""

from __future__ import annotations

import importlib.util
import json
import math
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from p3d.errors import UserError, printable
from p3d.system.files import write_json
from p3d.system.machine import environment
from p3d.system.messages import print_warning

TrackerName = Literal["wandb", "mlflow", "trackio"]

IDS_FILE = "trackers.json"
"""File in the run's folder with the identity of its run on each tracker."""
PROJECT = "p3d"
PAUSE_SECONDS, PAUSE_FACTOR = 600.0, 20
"""A tracker that failed is tried again after this time, and after this multiple of the time that it
needed to fail: MLflow tries for minutes, in which the training waits."""
BATCH_SECONDS, BATCH_SIZE = 10.0, 900
"""MLflow gets the numbers of several steps at once: this often, and at most this many."""


@dataclass(frozen=True)
class Settings:
    """What a run on a tracker is opened with.

    Attributes:
        folder: The run's folder.
        config: Its options by name.
        run_id: The tracker's run to continue; None starts a new one.
    """

    folder: Path
    config: Mapping[str, Any]
    run_id: str | None

    @property
    def name(self) -> str:
        """Name to show for the run: that of its folder."""
        return printable(self.folder.resolve().name)


class TrackedRun(Protocol):
    """An open run on a tracker; its methods raise whatever the tracker's package raises."""

    run_id: str

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Send numbers by name."""

    def close(self, *, failed: bool) -> None:
        """Send what is left and end the run."""


class WandbRun:
    """A run on Weights & Biases, in the project of the variable WANDB_PROJECT or "p3d"."""

    def __init__(self, settings: Settings) -> None:
        import wandb

        self.run_id = settings.run_id or uuid.uuid4().hex[:12]
        self._run = wandb.init(
            project=environment("WANDB_PROJECT", PROJECT),
            id=self.run_id,
            name=settings.name,
            dir=str(settings.folder),
            config=None if settings.run_id else dict(settings.config),
            resume="allow",
        )

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Queue numbers; a thread of the package sends them."""
        self._run.log(dict(scalars), step=step)

    def close(self, *, failed: bool) -> None:
        """Wait until everything is sent, and mark the run as finished or failed."""
        self._run.finish(exit_code=int(failed))


class MlflowRun:
    """A run of the MLflow experiment of the variable MLFLOW_EXPERIMENT_NAME or "p3d"."""

    def __init__(self, settings: Settings) -> None:
        import mlflow

        self._entities = mlflow.entities
        self._client = mlflow.MlflowClient()
        if settings.run_id is not None:
            self.run_id = settings.run_id
            self._client.update_run(self.run_id, status="RUNNING")
        else:
            name = environment("MLFLOW_EXPERIMENT_NAME", PROJECT)
            experiment = mlflow.set_experiment(name).experiment_id
            run = self._client.create_run(experiment, run_name=settings.name)
            self.run_id = str(run.info.run_id)
            params = [
                self._entities.Param(name, str(value)[:500])
                for name, value in settings.config.items()
            ]
            self._client.log_batch(self.run_id, params=params)
        self._metrics: list[Any] = []
        self._sent = time.monotonic()

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Collect numbers and send them from time to time, since each request is waited for."""
        now = round(time.time() * 1000)
        self._metrics += [
            self._entities.Metric(name, float(value), now, step) for name, value in scalars.items()
        ]
        if len(self._metrics) >= BATCH_SIZE or time.monotonic() - self._sent > BATCH_SECONDS:
            self._send()

    def _send(self) -> None:
        metrics, self._metrics = self._metrics, []
        self._sent = time.monotonic()
        self._client.log_batch(self.run_id, metrics=metrics)

    def close(self, *, failed: bool) -> None:
        """Send the rest, and mark the run as finished or failed."""
        self._send()
        self._client.set_terminated(self.run_id, "FAILED" if failed else "FINISHED")


class TrackioRun:
    """A run of the trackio project "p3d"; there, a run is known by its name."""

    def __init__(self, settings: Settings) -> None:
        import trackio

        self.run_id = settings.run_id or f"{settings.name}-{uuid.uuid4().hex[:8]}"
        self._finish = trackio.finish  # that of the run would be called again at exit
        self._run = trackio.init(
            PROJECT,
            name=self.run_id,
            config=None if settings.run_id else dict(settings.config),
            resume="allow",
        )

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Queue numbers; a thread of the package stores them."""
        self._run.log(dict(scalars), step=step)

    def close(self, *, failed: bool) -> None:  # noqa: ARG002 (trackio has no such status)
        """Wait until everything is stored."""
        self._finish()


OPEN: dict[TrackerName, Callable[[Settings], TrackedRun]] = {
    "wandb": WandbRun,
    "mlflow": MlflowRun,
    "trackio": TrackioRun,
}


def check_installed(names: Iterable[TrackerName]) -> None:
    """Check that the packages of trackers can be imported, without importing them.

    Raises:
        UserError: One is missing.
    """
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # a folder of that name is not the package
            raise UserError(f"--track {name} needs the {name} package: pip install {name}")


class Tracker:
    """A sink of the run's log that keeps a tracker's failures away from the run.

    Args:
        name: The tracker.
        folder: The run's folder; it remembers the tracker's run there.
        config: The options by name.
        resumed: Continue the tracker's run that the folder remembers.
    """

    def __init__(
        self, name: TrackerName, folder: Path, config: Mapping[str, Any], *, resumed: bool
    ) -> None:
        self._name = name
        self._run: TrackedRun | None = None
        self._failing = False
        self._silent_until = 0.0
        self._attempt(lambda: self._open(folder, config, resumed))
        if self._run is None:
            self._silent_until = math.inf  # not again: it may ask for a login on the terminal

    def _open(self, folder: Path, config: Mapping[str, Any], resumed: bool) -> None:
        ids = _read_ids(folder) if resumed else {}
        self._run = OPEN[self._name](Settings(folder, config, ids.get(self._name)))
        write_json(folder / IDS_FILE, _read_ids(folder) | {self._name: self._run.run_id})

    def write_scalars(self, scalars: Mapping[str, float], step: int) -> None:
        """Write numbers by name."""
        if scalars and self._run is not None:
            run = self._run
            self._attempt(lambda: run.write(scalars, step))

    def close(self, *, failed: bool) -> None:
        """End the tracker's run."""
        if self._run is not None:
            run, self._silent_until = self._run, 0.0
            self._attempt(lambda: run.close(failed=failed))

    def _attempt(self, call: Callable[[], None]) -> None:
        """Call a function of the tracker; report the first of several failures."""
        start = time.monotonic()
        if start < self._silent_until:
            return
        try:
            call()
        except Exception as error:  # of any class: packages, their HTTP clients, their databases
            reason = (str(error).splitlines() or [""])[0] or type(error).__name__
            if not self._failing:
                print_warning(f"--track {self._name}: {reason}; training continues without it")
            end = time.monotonic()
            self._failing = True
            self._silent_until = end + max(PAUSE_SECONDS, PAUSE_FACTOR * (end - start))
        else:
            self._failing = False


def _read_ids(folder: Path) -> dict[str, str]:
    """Return the identity of the run on each tracker; none if the file is missing or damaged."""
    try:
        ids = json.loads((folder / IDS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(ids, dict):
        return {}
    return {name: run_id for name, run_id in ids.items() if isinstance(run_id, str)}
