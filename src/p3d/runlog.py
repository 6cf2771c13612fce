"""The record of a training run: JSON lines always, TensorBoard where asked for."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from p3d.errors import UserError
from p3d.report import write_text

FILE = "log.jsonl"


class RunLog:
    """Appends one JSON object a line to `log.jsonl`, each with the optimiser step it belongs to.

    A resumed run first drops the lines after the step it goes on from: they are about to be
    written again.

    Args:
        folder: The run's folder; it exists.
        step: The step the run goes on from; 0 starts a new log.
        tensorboard: Write scalars for TensorBoard to `folder/tensorboard` as well.

    Raises:
        UserError: TensorBoard was asked for and is not installed.
    """

    def __init__(self, folder: Path, step: int, *, tensorboard: bool = False) -> None:
        self._path = folder / FILE
        kept = [line for line in read_log(folder) if line["step"] <= step] if step else []
        write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = self._path.open("a", encoding="utf-8")
        self._board = _summary_writer(folder / "tensorboard", step) if tensorboard else None

    def write(self, event: str, step: int, **values: Any) -> None:
        """Record what happened at a step; numbers go to TensorBoard as `event/name`."""
        self._file.write(json.dumps({"event": event, "step": step, **values}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(f"{event}/{name}", value, step)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log; a last line that was cut off in the writing is left out."""
    path = folder / FILE
    if not path.exists():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def _summary_writer(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            "--tensorboard needs the tensorboard package: pip install 'p3d[tensorboard]'"
        ) from error
    return SummaryWriter(str(folder), purge_step=step or None)
