"""Files of segments, by suffix."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from p3d.errors import UserError, printable
from p3d.inference.timeline.elan import to_eaf
from p3d.inference.timeline.segments import Segment
from p3d.inference.timeline.timeline import COLUMNS, Timeline, format_time
from p3d.system.csv_file import csv_line
from p3d.system.files import check_place, write_text
from p3d.system.text import format_percent

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


def segment_values(segment: Segment) -> dict[str, Any]:
    """Return a segment as ActivityNet's JSON has it."""
    return {
        "segment": [round(segment.start, 3), round(segment.end, 3)],
        "label": segment.label,
        "score": round(segment.score, 4),
    }


def _tsv(timelines: Sequence[Timeline], settings: Settings) -> str:
    rows = csv.reader(io.StringIO(_csv(timelines, settings), newline=""))
    return "".join("\t".join(printable(cell) for cell in row) + "\n" for row in rows)


def _vtt(timeline: Timeline) -> str:
    def cue(label: str) -> str:
        return html.escape(label, quote=False)

    return "WEBVTT\n\n" + _cues(timeline, ".", cue)


def _srt(timeline: Timeline) -> str:
    return _cues(timeline, ",", str)


def _cues(timeline: Timeline, point: str, escape: Callable[[str], str]) -> str:
    """Return subtitles: a number, a line of times, a line of text, an empty line."""
    return "".join(
        f"{number}\n{_clock(s.start, point)} --> {_clock(s.end, point)}\n"
        f"{escape(printable(s.label))} {format_percent(s.score)}\n\n"
        for number, s in enumerate(timeline.segments, start=1)
    )


def _clock(seconds: float, point: str) -> str:
    """Return a time with at least two digits of hours."""
    return format_time(seconds, point).zfill(12)


_MANY: dict[str, Callable[[Sequence[Timeline], Settings], str]] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".json": _json,
}
"""Formats that hold several videos."""

_SINGLE: dict[str, Callable[[Timeline], str]] = {".vtt": _vtt, ".srt": _srt, ".eaf": to_eaf}


def check_out(path: Path, num_videos: int = 1) -> None:
    """Check that a file of the segments of so many videos can have this path.

    Raises:
        UserError: It has another suffix, is a folder, or its folder does not exist, or the format
            is for a single video.
    """
    check_file(path, "--out", (*_MANY, *_SINGLE))
    if num_videos > 1 and path.suffix.lower() in _SINGLE:
        raise UserError(
            f"--out {path}: this format is for one video, but there are {num_videos}; give one "
            f"of {', '.join(_MANY)}"
        )


def check_file(path: Path, flag: str, suffixes: Sequence[str]) -> None:
    """Check that the file of an option can be written and has one of some suffixes.

    Raises:
        UserError: It has another suffix, is a folder, or its folder does not exist.
    """
    if path.suffix.lower() not in suffixes:
        *others, last = suffixes
        listed = f"{', '.join(others)} or {last}" if others else last
        raise UserError(f"{flag} {path}: give a name that ends in {listed}")
    check_place(path, flag)


def write_timelines(path: Path, timelines: Sequence[Timeline], settings: Settings) -> None:
    """Write the segments of videos to a file in the format of its suffix.

    Raises:
        UserError: It cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix in _SINGLE:
        (timeline,) = timelines
        write_text(path, _SINGLE[suffix](timeline))
    else:
        write_text(path, _MANY[suffix](timelines, settings))
