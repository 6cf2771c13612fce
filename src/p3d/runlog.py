"""The record of a training run: JSON lines always, TensorBoard where asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from p3d.appending import BestEffortFile
from p3d.event_file import EventFile
from p3d.report import write_text

FILE = "log.jsonl"


class RunLog:
    """Appends one JSON object a line to `log.jsonl`, each with the optimiser step it belongs to.

    A resumed run first drops the lines after the step it goes on from: they are about to be
    written again. A line that cannot be written later (a full disk) is lost and costs a warning on
    stderr, never the run; lines after it are whole.

    Args:
        folder: The run's folder; it exists.
        step: The step the run goes on from; 0 starts a new log.
        tensorboard: Write scalars and clips for TensorBoard to `folder/tensorboard` as well.

    Raises:
        UserError: The log cannot be begun, or TensorBoard was asked for and is not installed.
    """

    def __init__(self, folder: Path, step: int, *, tensorboard: bool = False) -> None:
        kept = [line for line in read_log(folder) if line["step"] <= step] if step else []
        write_text(folder / FILE, "".join(json.dumps(line) + "\n" for line in kept))
        self._lines = BestEffortFile(folder / FILE, separator=b"\n")
        self._board = EventFile(folder / "tensorboard", step) if tensorboard else None

    def write(self, event: str, step: int, **values: Any) -> None:
        """Record what happened at a step; numbers go to TensorBoard as `event/name`."""
        line = json.dumps({"event": event, "step": step, **values}) + "\n"
        self._lines.append(line.encode())
        if self._board is not None:
            scalars = {
                f"{event}/{name}": value
                for name, value in values.items()
                if isinstance(value, int | float)
            }
            self._board.write_scalars(scalars, step)

    def write_clips(self, tag: str, clips: Tensor, step: int, captions: Sequence[str]) -> None:
        """Show clips in TensorBoard, as animated images; nothing without TensorBoard.

        Args:
            tag: What they are called there.
            clips: uint8 `(N, T, H, W, C)`, RGB or optical flow.
            step: The optimiser step.
            captions: A line under each of the N clips.
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
        if self._board is not None:
            self._board.close()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log, each with its "event" and "step".

    What is no such line is left out: one that was cut off in the writing, or damaged on the disk.
    """
    path = folder / FILE
    if not path.exists():
        return []
    # Not splitlines: it takes characters that a damaged text may hold for ends of lines.
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return [line for line in map(_parse, lines) if line is not None]


def _parse(text: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or not isinstance(line.get("event"), str):
        return None
    return line if type(line.get("step")) is int else None
