"""Files of segments, by suffix."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from p3d.errors import UserError
from p3d.inference.timeline.timeline import COLUMNS, Timeline
from p3d.system.files import csv_line, write_text

Settings = Mapping[str, Any]
"""What segments depend on, as JSON values."""


def _csv(timelines: Sequence[Timeline], _: Settings) -> str:
    return csv_line(COLUMNS) + "".join(timeline.csv_rows() for timeline in timelines)


def _json(timelines: Sequence[Timeline], settings: Settings) -> str:
    content = {
        "version": "p3d timeline 1",
        "results": {
            timeline.name: [segment_values(segment) for segment in timeline.segments]
            for timeline in timelines
        },
        "durations": {timeline.name: round(timeline.duration, 3) for timeline in timelines},
        "external_data": dict(settings),
    }
    return json.dumps(content, indent=1, ensure_ascii=True) + "\n"


def segment_values(segment: Any) -> dict[str, Any]:
    """Return a segment as ActivityNet's JSON has it."""
    return {
        "segment": [round(segment.start, 3), round(segment.end, 3)],
        "label": segment.label,
        "score": round(segment.score, 4),
    }


_WRITERS: dict[str, Callable[[Sequence[Timeline], Settings], str]] = {
    ".csv": _csv,
    ".json": _json,
}


def check_out(path: Path) -> None:
    """Check that a file of segments can have this path.

    Raises:
        UserError: It has another suffix, is a folder, or its folder does not exist.
    """
    if path.suffix.lower() not in _WRITERS:
        *others, last = _WRITERS
        raise UserError(f"--out {path}: give a name that ends in {', '.join(others)} or {last}")
    if path.is_dir() or not path.parent.is_dir():
        fault = "is a folder" if path.is_dir() else "its folder does not exist"
        raise UserError(f"--out {path}: {fault}; give a file in an existing folder")


def write_timelines(path: Path, timelines: Sequence[Timeline], settings: Settings) -> None:
    """Write the segments of videos to a file in the format of its suffix.

    Raises:
        UserError: It cannot be written.
    """
    write_text(path, _WRITERS[path.suffix.lower()](timelines, settings))
