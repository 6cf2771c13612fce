"""The log of a training run: JSON lines, with TensorBoard and trackers on request."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from torch import Tensor

from p3d.run_folder import LOG_FILE, read_log
from p3d.system.best_effort_file import BestEffortFile
from p3d.system.files import write_text
from p3d.training.event_file import EventFile
from p3d.training.trackers import Tracker, TrackerName


class Sink(Protocol):
    """What gets the numbers of a run's log besides `log.jsonl`; it never raises."""

    def write_scalars(self, scalars: Mapping[str, float], step: int) -> None:
        """Write numbers by name."""

    def close(self, *, failed: bool) -> None:
        """Write the rest at the end of the run, which an error may have ended."""


class RunLog:
    """Log of a run: `log.jsonl`, one JSON object per line, each with its optimizer step.

    A resumed run first removes the lines after the step it resumes from, since it writes them
    again. A line that cannot be written (full disk) is dropped with a warning on stderr and does
    not end the run; later lines are complete.

    Args:
        folder: The run's folder; must exist.
        step: The step that the run resumes from; 0 starts a new log.
        tensorboard: Write scalars and clips to `folder/tensorboard` too.
        trackers: Trackers that get the scalars too; a resumed run continues there.
        config: The options by name, for trackers.

    Raises:
        UserError: The log cannot be created, or TensorBoard is not installed.
    """

    def __init__(
        self,
        folder: Path,
        step: int,
        *,
        tensorboard: bool = False,
        trackers: Iterable[TrackerName] = (),
        config: Mapping[str, Any] | None = None,
    ) -> None:
        kept = [line for line in read_log(folder) if line["step"] <= step] if step else []
        write_text(folder / LOG_FILE, "".join(json.dumps(line) + "\n" for line in kept))
        self._lines = BestEffortFile(folder / LOG_FILE, separator=b"\n")
        self._board = EventFile(folder / "tensorboard", step) if tensorboard else None
        self._sinks: list[Sink] = [] if self._board is None else [self._board]
        self._sinks += [Tracker(name, folder, config or {}, resumed=step > 0) for name in trackers]

    def write(self, event: str, step: int, **values: Any) -> None:
        """Write an event of a step; the sinks get its numbers as scalars `event/name`."""
        line = json.dumps({"event": event, "step": step, **values}) + "\n"
        self._lines.append(line.encode())
        scalars = {
            f"{event}/{name}": value
            for name, value in values.items()
            if isinstance(value, int | float)
        }
        for sink in self._sinks:
            sink.write_scalars(scalars, step)

    def write_clips(self, tag: str, clips: Tensor, step: int, captions: Sequence[str]) -> None:
        """Write clips for TensorBoard as animated images, if TensorBoard is on.

        Args:
            tag: Name of the images.
            clips: uint8 `(N, T, H, W, C)`, RGB or optical flow.
            step: The optimizer step.
            captions: Text below each of the N clips.
        """
        if self._board is not None:
            self._board.write_clips(tag, clips, captions, step)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lines.close()
        for sink in self._sinks:
            sink.close(failed=kind is not None)
