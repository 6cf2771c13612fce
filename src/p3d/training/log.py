"""The log of a training run: JSON lines, and TensorBoard on request."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from p3d.errors import UserError
from p3d.run_folder import LOG_FILE, read_log
from p3d.system.files import BestEffortFile, write_text
from p3d.video.thumbnails import encode_gif


class RunLog:
    """Log of a run: `log.jsonl`, one JSON object per line, each with its optimizer step.

    A resumed run first removes the lines after the step it resumes from, since it writes them
    again. A line that cannot be written (full disk) is dropped with a warning on stderr and does
    not end the run; later lines are complete.

    Args:
        folder: The run's folder; must exist.
        step: The step that the run resumes from; 0 starts a new log.
        tensorboard: Write scalars and clips to `folder/tensorboard` too.

    Raises:
        UserError: The log cannot be created, or TensorBoard is not installed.
    """

    def __init__(self, folder: Path, step: int, *, tensorboard: bool = False) -> None:
        kept = [line for line in read_log(folder) if line["step"] <= step] if step else []
        write_text(folder / LOG_FILE, "".join(json.dumps(line) + "\n" for line in kept))
        self._lines = BestEffortFile(folder / LOG_FILE, separator=b"\n")
        self._board = EventFile(folder / "tensorboard", step) if tensorboard else None

    def write(self, event: str, step: int, **values: Any) -> None:
        """Write an event of a step; TensorBoard gets its numbers as scalars `event/name`."""
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
        if self._board is not None:
            self._board.close()


class EventFile:
    """A new event file for TensorBoard that writes each record immediately.

    `torch.utils.tensorboard` is not used, since it writes in a thread: an error there (full disk)
    is raised by a later call, and nothing can be appended to the file any more.

    Args:
        folder: The folder; created if needed.
        step: The step that the run resumes from; TensorBoard ignores later steps of earlier files.

    Raises:
        UserError: The tensorboard package is not installed, or the folder cannot be created.
    """

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError as error:
            raise UserError(
                "--tensorboard needs the tensorboard package: pip install 'p3d[tensorboard]'"
            ) from error
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder}: the folder cannot be created ({error.strerror})") from error
        self._event, self._summary, self._records = event_pb2, summary_pb2, RecordWriter
        # TensorBoard reads the files of a folder in the order of their names, and the name and the
        # events of a run must not be older than the earlier ones, even if the clock was set back.
        self._last_time = max(time.time(), _newest_time(folder) + 1e-6)
        name = f"{self._last_time:017.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = BestEffortFile(folder / f"events.out.tfevents.{name}")
        self._has_head = False
        self._first_step = step + 1

    def write_scalars(self, scalars: Mapping[str, float], step: int) -> None:
        """Write numbers by tag."""
        values = [
            self._summary.Summary.Value(tag=tag, simple_value=value)
            for tag, value in scalars.items()
        ]
        self._write_values(values, step)

    def write_clips(self, tag: str, clips: Tensor, captions: Sequence[str], step: int) -> None:
        """Write clips as animated images `tag/0`, `tag/1` and so on."""
        values = []
        for number, (clip, caption) in enumerate(zip(clips, captions, strict=True)):
            gif, height, width = encode_gif(clip, caption)
            image = self._summary.Summary.Image(
                height=height, width=width, colorspace=3, encoded_image_string=gif
            )
            values.append(self._summary.Summary.Value(tag=f"{tag}/{number}", image=image))
        self._write_values(values, step)

    def _write_values(self, values: list[Any], step: int) -> None:
        if values:
            event = self._event.Event(step=step, summary=self._summary.Summary(value=values))
            head = [] if self._has_head else self._head()
            self._has_head |= self._file.append(self._encode(*head, event))

    def _head(self) -> list[Any]:
        """Return the first events of a file; after a resume they cancel later steps."""
        head = [self._event.Event(file_version="brain.Event:2")]
        if self._first_step > 1:
            start = self._event.SessionLog(status=self._event.SessionLog.START)
            head.append(self._event.Event(step=self._first_step, session_log=start))
        return head

    def _encode(self, *events: Any) -> bytes:
        records = io.BytesIO()
        writer = self._records(records)
        for event in events:
            self._last_time = event.wall_time = max(time.time(), self._last_time)
            writer.write(event.SerializeToString())
        return records.getvalue()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _newest_time(folder: Path) -> float:
    """Return the highest time in the name, or of the last change, of earlier event files."""
    times = [0.0]
    for path in folder.glob("events.out.tfevents.*"):
        with suppress(OSError):
            times.append(path.stat().st_mtime)
        found = re.match(r"events\.out\.tfevents\.(\d{1,11}(?:\.\d{6}(?=\.))?)", path.name)
        times.append(float(found[1]) if found else 0.0)
    return max(times)
