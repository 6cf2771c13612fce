"""What TensorBoard shows: its event files, written without a thread and without failing the run.

`torch.utils.tensorboard` writes in a thread, and an error there (a full disk) comes up in a later
call and leaves a file that nothing can be added to. Here each step is one record, written at once.
"""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from p3d.appending import BestEffortFile
from p3d.errors import UserError
from p3d.pictures import encode_gif


class EventFile:
    """A new event file in a folder that TensorBoard is pointed at.

    Args:
        folder: The folder; made where it is not there.
        step: What other files in the folder say of later steps is void: they come again.

    Raises:
        UserError: The tensorboard package is not installed, or the folder cannot be made.
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
            raise UserError(f"{folder}: the folder cannot be made ({error.strerror})") from error
        self._event, self._summary, self._records = event_pb2, summary_pb2, RecordWriter
        # TensorBoard reads a folder's files in the order of their names.
        name = f"{time.time_ns() / 1e9:017.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = BestEffortFile(folder / f"events.out.tfevents.{name}")
        self._begun = False
        self._first_step = step + 1

    def write_scalars(self, scalars: Mapping[str, float], step: int) -> None:
        """Record numbers by tag."""
        values = [
            self._summary.Summary.Value(tag=tag, simple_value=value)
            for tag, value in scalars.items()
        ]
        self._write_values(values, step)

    def write_clips(self, tag: str, clips: Tensor, captions: Sequence[str], step: int) -> None:
        """Record clips as animated images `tag/0`, `tag/1` and so on."""
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
            head = [] if self._begun else self._head()
            self._begun |= self._file.append(self._encode(*head, event))

    def _head(self) -> list[Any]:
        """What every file begins with; a resumed run's tells how far the earlier files count."""
        head = [self._event.Event(file_version="brain.Event:2")]
        if self._first_step > 1:
            start = self._event.SessionLog(status=self._event.SessionLog.START)
            head.append(self._event.Event(step=self._first_step, session_log=start))
        return head

    def _encode(self, *events: Any) -> bytes:
        records = io.BytesIO()
        writer = self._records(records)
        for event in events:
            event.wall_time = time.time()
            writer.write(event.SerializeToString())
        return records.getvalue()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
