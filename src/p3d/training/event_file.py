"""Event files for TensorBoard."""

from __future__ import annotations

import io
import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from p3d.errors import UserError
from p3d.system.best_effort_file import BestEffortFile
from p3d.video.thumbnails import encode_gif


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

    def close(self, *, failed: bool = False) -> None:  # noqa: ARG002 (a file has no status)
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
