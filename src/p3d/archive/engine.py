"""Work through an archive: what is left of it, in parts, until it is done or stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p3d.archive.parts import Parts, Record
from p3d.errors import UserError
from p3d.system.files import write_csv, write_json
from p3d.system.progress import ProgressBar
from p3d.system.signals import StopRequest
from p3d.system.text import counted, format_duration

SETTINGS_FILE, BAD_FILE = "settings.json", "bad.csv"
_VERSION = 1
_PART_RECORDS, _PART_SECONDS = 512, 60.0
"""A part is written after so many records or seconds: what a kill costs at most."""

Results = Callable[[Iterable[str], Callable[[], bool]], Generator[Record]]
"""Yields a record for each video, in any order, until the function says that it is to stop."""


def keep_settings(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Write what the results depend on, or compare it with that of an earlier command.

    Args:
        folder: Folder of the results.
        settings: JSON values by name; None takes an earlier command's.

    Returns:
        The settings, those that are None filled in.

    Raises:
        UserError: An earlier command had others, or the file is damaged.
    """
    path = folder / SETTINGS_FILE
    if not path.is_file():
        write_json(path, {"version": _VERSION, **settings})
        return dict(settings)
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        version = earlier.pop("version")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read or is damaged; choose another --out") from error
    if version != _VERSION:
        raise UserError(f"{path}: is of version {version}, this p3d reads {_VERSION}; upgrade p3d")
    for name, value in json.loads(json.dumps(settings)).items():
        if value is not None and earlier.get(name) != value:
            raise UserError(
                f"{folder}: its results are by {name} {_short(earlier.get(name))}, those of this "
                f"command by {_short(value)}; use the same, or choose another --out"
            )
    return {**settings, **earlier}


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


@dataclass(frozen=True)
class Outcome:
    """What a command did.

    Attributes:
        done: Videos that were done by this command.
        earlier: Videos that were done before.
        bad: Paths and reasons of all listed videos that could not be read.
        seconds: Time that it took.
        stopped: Whether it was stopped before the end.
    """

    done: int
    earlier: int
    bad: tuple[tuple[str, str], ...]
    seconds: float
    stopped: bool

    def describe(self) -> str:
        """Return a summary in one line."""
        rate = self.done / self.seconds if self.seconds else 0.0
        parts = [
            f"{counted(self.done, 'video')} done in {format_duration(self.seconds)}"
            + (f" ({rate:.3g} a second)" if self.done else ""),
            *([f"{self.earlier:,} done before"] if self.earlier else []),
            *([f"{len(self.bad):,} could not be read, see {BAD_FILE}"] if self.bad else []),
        ]
        return ", ".join(parts)


def work_through(
    paths: Sequence[str], parts: Parts, results: Results, title: str, stop: StopRequest
) -> Outcome:
    """Do the videos that have no record yet, and write their records in parts.

    Args:
        paths: The videos, each once.
        parts: The results.
        results: Does videos.
        title: Text of the progress bar.
        stop: Ends the work; what was done so far is written.

    Raises:
        UserError: A part cannot be read or written, or the work cannot start.
    """
    known = {record["path"]: record["error"] for record in parts.records()}
    left = [path for path in paths if path not in known]
    earlier, done, started = len(paths) - len(left), 0, time.monotonic()
    batch = _Batch(parts)
    try:
        with (
            closing(results(left, lambda: stop.is_set)) as records,
            ProgressBar(len(paths), title, done=earlier, leave=False) as bar,
        ):
            for record in records:
                known[record["path"]] = record["error"]
                batch.add(record)
                bar.advance()
                done += 1
    finally:
        batch.write()
    bad = tuple((path, known[path]) for path in paths if known.get(path) is not None)
    write_csv(parts.folder.parent / BAD_FILE, ("path", "error"), bad)
    return Outcome(done, earlier, bad, time.monotonic() - started, done < len(left))


class _Batch:
    """Records that are not yet in a part."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._records: list[Record] = []
        self._since = time.monotonic()

    def add(self, record: Record) -> None:
        self._records.append(record)
        is_late = time.monotonic() - self._since > _PART_SECONDS
        if len(self._records) >= _PART_RECORDS or is_late:
            self.write()

    def write(self) -> None:
        if self._records:
            self._parts.write(self._records)
        self._records, self._since = [], time.monotonic()
