"""Files of segments: CSV with a row each, or JSON as ActivityNet has it."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from p3d.data.listing import read_text, stem_of
from p3d.errors import UserError
from p3d.scores.detection import Found
from p3d.system.csv_file import plain_cell

_COLUMNS = ("path", "start", "end", "class")


def read_segments(paths: Sequence[Path]) -> list[Found]:
    """Read the segments of several files.

    A CSV file has the columns path, start, end (in seconds) and class, and may have score. A JSON
    file has `{"database": {VIDEO: {"annotations": [...]}}}` or `{"results": {VIDEO: [...]}}`, with
    entries `{"segment": [START, END], "label": CLASS, "score": SCORE}`. A video is known by the
    name of its file, without folders and suffix.

    Raises:
        UserError: A file cannot be read, a segment is not possible, or videos of two folders have
            the same name.
    """
    path_of: dict[str, str] = {}
    return [segment for path in paths for segment in _read_file(path, path_of)]


def video_key(path: str) -> str:
    """Return the name by which a video is known: that of its file, without folders and suffix."""
    return stem_of(PurePosixPath(path.replace("\\", "/")).name)


def _read_file(path: Path, path_of: dict[str, str]) -> list[Found]:
    """Read a file; `path_of` has the videos so far by their names."""
    if path.is_file() and path.suffix.lower() not in (".csv", ".json"):
        raise UserError(f"{path}: give a file of segments that ends in .csv or .json")
    text = read_text(path)
    rows = _csv_rows(path, text) if path.suffix.lower() == ".csv" else _json_rows(path, text)
    found = list[Found]()
    for location, (video, *values) in rows:
        name = video_key(video)
        if path_of.setdefault(name, video) != video:
            raise UserError(
                f"{location}: {video} and {path_of[name]} have the same name; rename one of them"
            )
        found.append(_segment(location, name, *values))
    return found


def _segment(location: str, video: str, start: Any, end: Any, label: Any, score: Any) -> Found:
    """Return a segment after checking it."""
    try:
        numbers = float(start), float(end), float(score)
    except (TypeError, ValueError):
        numbers = (math.nan,) * 3
    if not all(map(math.isfinite, numbers)) or not 0 <= numbers[0] < numbers[1]:
        raise UserError(
            f"{location}: is from {str(start)[:20]!r} to {str(end)[:20]!r} with score "
            f"{str(score)[:20]!r}; give numbers, 0 or more seconds, the end after the start"
        )
    if not isinstance(label, str) or not label or not video:
        raise UserError(f"{location}: has no video or no class; give both")
    return Found(video, numbers[0], numbers[1], label, numbers[2])


_Rows = Iterator[tuple[str, tuple[Any, ...]]]
"""Where a segment is in the file, and its video, start, end, class and score."""


def _csv_rows(path: Path, text: str) -> _Rows:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise UserError(
            f"{path}: the header has no column {missing[0]}; it needs {', '.join(_COLUMNS)}, and "
            "may have score"
        )
    try:
        for row in reader:
            cells = [plain_cell((row[name] or "").strip()) for name in _COLUMNS]
            score = (row.get("score") or "1").strip()
            yield f"{path}, line {reader.line_num}", (cells[0], *cells[1:], score)
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: is not CSV ({error})") from error


def _json_rows(path: Path, text: str) -> _Rows:
    try:
        content = json.loads(text)
        if "results" in content:
            videos = content["results"].items()
        else:
            videos = [(k, v.get("annotations", ())) for k, v in content["database"].items()]
        for video, entries in videos:
            for number, entry in enumerate(entries, start=1):
                start, end = entry["segment"]
                values = (video, start, end, entry["label"], entry.get("score", 1))
                yield f"{path}, {video}, segment {number}", values
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f'{path}: is not JSON of segments; it needs "database" or "results" as ActivityNet has '
            "them"
        ) from error
