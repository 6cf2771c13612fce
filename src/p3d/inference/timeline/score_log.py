"""The scores of windows, and a file to which they are appended, so that a command can go on.

The first line of the file is JSON: format, version and what the scores depend on. Then come rows of
one size: number of the video (little-endian int32), middle of the window in seconds (float64) and
logits (float32 each). The row after a video's last window has its length as time, and NaN as
logits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from p3d.errors import UserError
from p3d.inference.timeline.scan import WindowScores
from p3d.system.files import replacing
from p3d.system.spelling import describe_unread

_FORMAT = {"format": "p3d window scores", "version": 1}
_START = json.dumps(_FORMAT).encode()[:-1]
"""The first bytes of a file."""


def _row_dtype(num_classes: int) -> np.dtype[Any]:
    return np.dtype([("video", "<i4"), ("time", "<f8"), ("logits", "<f4", (num_classes,))])


class VideoWindows(NamedTuple):
    """The scores of a video's windows, complete.

    Attributes:
        name: Path of the video.
        windows: Its windows.
        duration: Its length in seconds.
    """

    name: str
    windows: list[WindowScores]
    duration: float


class KeptScores(NamedTuple):
    """What a file of scores holds.

    Attributes:
        weights: SHA-256 of the weights.
        class_names: Names of the classes.
        videos: Its videos.
    """

    weights: str
    class_names: tuple[str, ...]
    videos: list[VideoWindows]


def holds_window_scores(path: Path) -> bool:
    """Return whether a file is one of `p3d timeline --scores`."""
    try:
        with path.open("rb") as file:
            return file.read(len(_START)) == _START
    except OSError:
        return False


def read_kept_scores(path: Path) -> KeptScores:
    """Read a file of `p3d timeline --scores`, whose videos are all scored.

    Raises:
        UserError: It cannot be read, is damaged, or a video is not finished.
    """
    try:
        header, _, content = path.read_bytes().partition(b"\n")
        values = json.loads(header)
        names = tuple(map(str, values["classes"]))
        videos = [str(identity[0]) for identity in values["videos"]]
        weights = str(values["weights"])
    except OSError as error:
        raise UserError(f"{path}: {describe_unread(path, error)}") from error
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise UserError(
            f"{path}: is damaged ({error!r}); run p3d timeline --scores again"
        ) from error
    dtype = _row_dtype(len(names))
    rows = np.frombuffer(content[: len(content) // dtype.itemsize * dtype.itemsize], dtype)
    found = [(name, *_windows_of(rows, number)) for number, name in enumerate(videos)]
    complete = [
        VideoWindows(name, windows, duration)
        for name, windows, duration in found
        if duration is not None and windows
    ]
    if len(complete) < len(videos):
        [first, *_] = (name for name, windows, end in found if end is None or not windows)
        raise UserError(
            f"{path}: {first} is not scored to its end; run the same p3d timeline once more"
        )
    return KeptScores(weights, names, complete)


def _windows_of(rows: NDArray[np.void], video: int) -> tuple[list[WindowScores], float | None]:
    """Return the windows of a video, and its length in seconds if all are there."""
    rows = rows[rows["video"] == video]
    is_end = np.isnan(rows["logits"]).any(1)
    found = [WindowScores(float(row["time"]), row["logits"]) for row in rows[~is_end]]
    return found, float(rows["time"][-1]) if is_end.any() else None


class ScoreLog:
    """The scores of the windows of some videos, in memory and in a file that grows.

    Args:
        path: The file; None for memory only. Its rows are taken over if its first line fits.
        settings: What the scores depend on, as JSON values.
        num_classes: Logits of a window.
        batch_size: An unfinished batch is dropped, so that later ones hold the same windows.
        restart: Start again, rather than raise, if the file holds other scores.

    Raises:
        UserError: The file cannot be read or written, or holds something else.
    """

    def __init__(
        self,
        path: Path | None,
        settings: Mapping[str, Any],
        num_classes: int,
        batch_size: int,
        *,
        restart: bool,
    ) -> None:
        self._path = path
        self._dtype = _row_dtype(num_classes)
        self._rows = np.zeros(0, self._dtype)
        if path is None:
            return
        header = json.dumps({**_FORMAT, **settings}, ensure_ascii=True).encode() + b"\n"
        try:
            self._read(path, header, batch_size, restart=restart)
        except OSError as error:
            raise UserError(
                f"{path}: cannot be read or written ({error.strerror}); choose another file"
            ) from error

    def _read(self, path: Path, header: bytes, batch_size: int, *, restart: bool) -> None:
        content = path.read_bytes() if path.exists() else b""
        if content and not content.startswith(header) and not restart:
            raise UserError(
                f"{path}: holds something else than the scores of these videos, weights and "
                "options; choose another file, or delete this one"
            )
        size = self._dtype.itemsize
        rest = content[len(header) :] if content.startswith(header) else b""
        rows = np.frombuffer(rest[: len(rest) // size * size], self._dtype)
        if len(rows) and not np.isnan(rows["logits"][-1]).any():
            unfinished = int((rows["video"] == rows["video"][-1]).sum()) % batch_size
            rows = rows[: len(rows) - unfinished]
        self._rows = rows
        whole = header + rows.tobytes()
        if whole != content:
            with replacing(path) as temporary:
                temporary.write_bytes(whole)

    def of(self, video: int) -> tuple[list[WindowScores], float | None]:
        """Return the windows of a video, and its length in seconds if all are there."""
        return _windows_of(self._rows, video)

    def add(self, video: int, windows: Sequence[WindowScores]) -> None:
        """Append windows of a video to the file.

        Raises:
            UserError: The file cannot be written.
        """
        if self._path is None:
            return
        rows = np.array([(video, *window) for window in windows], self._dtype)
        try:
            with self._path.open("ab", buffering=0) as file:
                file.write(rows.tobytes())
        except OSError as error:
            raise UserError(
                f"{self._path}: cannot be written ({error.strerror}); fix that, then the same "
                "command goes on"
            ) from error

    def finish(self, video: int, duration: float) -> None:
        """Note that a video has no more windows; raise as `add`."""
        logits = np.full(self._dtype["logits"].shape, np.nan, np.float32)
        self.add(video, [WindowScores(duration, logits)])
