"""The folder of the results: parts, bad videos and attempts. It is all the state that there is."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from p3d.archive.attempts import ATTEMPTS_FILE, Attempts
from p3d.archive.parts import PartFormat, Row, default_format, part_files, read_part, write_part
from p3d.errors import UserError
from p3d.system.csv_file import plain_cell, write_csv
from p3d.system.extras import load_extra
from p3d.system.files import reason_of, write_json

PARTS = "parts"
"""Name of the folder in the results that holds the parts."""

SETTINGS_FILE, BAD_FILE = "settings.json", "bad.csv"
PART_SECONDS = 60.0
"""A part is written at least this often, so that a kill costs little."""

BAD_COLUMNS = ("path", "error")


class Results:
    """Results of videos in a folder, which one process at a time adds to.

    Args:
        folder: The folder; `PARTS` in it must exist.
        settings: What the results depend on, as plain values.
        part_videos: Videos of a part; fewer if they take longer than `PART_SECONDS`.
        kind: Format of new parts; None for that of the others, or what the machine can write.

    Attributes:
        done: Names of the videos in the parts.
        bad: Why videos have no result, by name.
        attempts: The log of attempts.

    Raises:
        UserError: The folder holds results of other settings, or damaged ones.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        part_videos: int = 1000,
        kind: PartFormat | None = None,
    ) -> None:
        self.folder = folder
        self.done: set[str] = set()
        self._settings, self._part_videos = dict(settings), part_videos
        self._rows: list[Row] = []
        files = part_files(folder / PARTS)
        for file in files:
            part = read_part(file, only_paths=True)
            check_same(file, part.settings, self._settings)
            self.done.update(row["path"] for row in part.rows)
        self._number = 1 + max((int(file.stem.removeprefix("part-")) for file in files), default=0)
        self._format = kind or _format_of(files)
        if self._format == "parquet":
            load_extra("pyarrow.parquet", "archive")  # before hours of work
        found = _read_bad(folder / BAD_FILE)
        self.bad = {video: reason for video, reason in found.items() if video not in self.done}
        self._bad_changed = len(self.bad) < len(found)
        self.attempts = Attempts(folder / ATTEMPTS_FILE)
        self.attempts.compact()  # also cuts off a line that was not written completely
        self._flushed_at = time.monotonic()

    def add(self, video: str, row: Row) -> None:
        """Add the result of a video; it is on the disk after the next `flush`."""
        self._rows.append({"path": video, **row})
        self.done.add(video)
        self._bad_changed |= self.bad.pop(video, None) is not None
        self.attempts.end(video)
        self._flush_if_due()

    def add_bad(self, video: str, reason: str) -> None:
        """Add a video that has no result."""
        self.bad[video] = reason
        self._bad_changed = True
        self.attempts.end(video)
        self._flush_if_due()

    def forget_bad(self) -> None:
        """Forget the bad videos, so that they are tried again."""
        self._bad_changed |= bool(self.bad)
        self.bad = {}

    def flush(self) -> None:
        """Write a part of what is new, the bad videos and the attempts.

        Raises:
            UserError: The disk is full, or the folder cannot be written.
        """
        if self._rows:
            name = f"part-{self._number:06d}.{self._format}"
            write_part(self.folder / PARTS / name, self._settings, self._rows)
            self._number, self._rows = self._number + 1, []
        if self._bad_changed:
            write_csv(self.folder / BAD_FILE, BAD_COLUMNS, list(self.bad.items()))
            self._bad_changed = False
        if (self.done or self.bad) and not (self.folder / SETTINGS_FILE).exists():
            # For people; the parts have them too.
            write_json(self.folder / SETTINGS_FILE, self._settings)
        self.attempts.compact()
        self._flushed_at = time.monotonic()

    def _flush_if_due(self) -> None:
        is_late = time.monotonic() - self._flushed_at > PART_SECONDS
        if is_late or len(self._rows) >= self._part_videos:
            self.flush()


def _format_of(files: list[Path]) -> PartFormat:
    """Return the format of the first part, or what this machine can write."""
    if not files:
        return default_format()
    return "parquet" if files[0].suffix == ".parquet" else "jsonl"


def check_same(place: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Check that earlier results were made as those of this command are.

    Args:
        place: Their file or folder, for the message.
        there: What they depend on. None is the default of an option.
        here: The same of this command.

    Raises:
        UserError: They were not.
    """
    others = {name for name in there.keys() | here.keys() if there.get(name) != here.get(name)}
    if not others:
        return
    # Other weights may have other classes, and other results other options: name the cause.
    given = [name for name in others if None not in (there.get(name), here.get(name))]
    name = min(given or others, key=lambda name: (name != "weights", name))
    before, now = (
        "by default" if values.get(name) is None else values[name] for values in (there, here)
    )
    raise UserError(
        f"{place}: was made with {name} {before}, not {now}; give the same options and weights, "
        "or another --out"
    )


def _read_bad(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    try:
        text = path.read_bytes().decode("utf-8")
        header, *rows = csv.reader(io.StringIO(text, newline=""))
        if tuple(header) != BAD_COLUMNS:
            raise ValueError("another header")
        return {plain_cell(video): plain_cell(reason) for video, reason in rows}
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(
            f"{path}: is no list of bad videos ({reason_of(error)}); delete it, then they are "
            "tried again"
        ) from error
