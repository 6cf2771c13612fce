"""Segments in the files of annotation programs and benchmarks, read into rows of a manifest.

All functions raise a `UserError` with the place at fault if a file cannot be read.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

from p3d.data.columns import find_delimiter
from p3d.data.dataset import SPLIT_NAMES, Segment, Split, examples
from p3d.data.listing import read_text
from p3d.errors import UserError
from p3d.prepare.tables import Row
from p3d.system.spelling import describe_unread

_Cells = dict[str, str]
_MEDIA = ("media file name", "media file", "media file path", "file name", "file", "file path")
"""Columns that name the video, in lower case."""


def activitynet(path: Path, default: Split | None) -> Iterator[Row]:
    """Read JSON in the form of ActivityNet, which THUMOS14 and others are distributed in too.

    Its `database` has for each video `subset` and `annotations`, a list of `segment` (seconds) and
    `label`. Videos are called by their keys, or `v_` and the key.
    """
    try:
        database = json.loads(read_text(path))["database"]
        for video, entry in database.items():
            line = f"{path}: video {video}"
            for annotation in entry.get("annotations") or ():
                start, end = map(float, annotation["segment"])
                split = SPLIT_NAMES.get(str(entry.get("subset", "")).lower(), default)
                if split is None:
                    raise UserError(
                        f"{line}: subset {entry.get('subset')!r} is no split; give --split for it"
                    )
                names = (video, f"v_{video}")
                yield Row(names, str(annotation["label"]), split, "", line, Segment(start, end))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: is not JSON like ActivityNet's, a database of videos with annotations of "
            f"segment and label ({type(error).__name__}: {error})"
        ) from error


def elan(path: Path, tier: str | None, split: Split | None) -> Iterator[Row]:
    """Read an ELAN file (.eaf), or its export as tab-delimited text with column headers.

    The values of the annotations of one tier are the classes. The video is the linked one, or is
    called like the file.
    """
    if path.suffix.lower() == ".eaf":
        videos, found = _read_eaf(path)
    else:
        videos, found = (path.stem,), _read_tabs(path)
    tiers = {row[0]: None for row in found}
    if tier is None and len(tiers) > 1:
        raise UserError(f"{path}: has several tiers ({examples([*tiers])}); choose one by --tier")
    if tier is not None and tier not in tiers:
        raise UserError(f"--tier {tier}: {path} has only {examples([*tiers]) or 'empty ones'}")
    for name, value, segment, video in found:
        if name == (tier or name):
            names = (video, *videos) if video else videos
            yield Row(names, value, split, "", f"{path}: {name} at {segment.start} s", segment)


_Found = tuple[str, str, Segment, str]
"""Tier, value, segment, and the video if it is named ("")."""


def _read_eaf(path: Path) -> tuple[tuple[str, ...], list[_Found]]:
    """Return the names of the video of an .eaf file, and its annotations."""
    try:
        content = path.read_bytes()
        if b"<!DOCTYPE" in content or b"<!ENTITY" in content:  # no ELAN file has one
            raise UserError(f"{path}: is not an ELAN file, since it defines a document type")
        root = ElementTree.fromstring(content)
        slots = {
            slot.attrib["TIME_SLOT_ID"]: int(slot.attrib["TIME_VALUE"]) / 1000
            for slot in root.iter("TIME_SLOT")
            if "TIME_VALUE" in slot.attrib
        }
        media = [*root.iter("MEDIA_DESCRIPTOR")]
        # Where the annotations' time 0 is in the media file.
        origin = int(media[0].get("TIME_ORIGIN", "0")) / 1000 if media else 0.0
        found = [
            (
                tier.attrib["TIER_ID"],
                (annotation.findtext("ANNOTATION_VALUE") or "").strip(),
                Segment(*(slots[annotation.attrib[f"TIME_SLOT_REF{n}"]] + origin for n in (1, 2))),
                "",
            )
            for tier in root.iter("TIER")
            for annotation in tier.iter("ALIGNABLE_ANNOTATION")
        ]
    except OSError as error:
        raise UserError(f"{path}: {describe_unread(path, error)}") from error
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise UserError(f"{path}: is not an ELAN file, or is damaged ({error})") from error
    names = [_base_name(unquote(each.get("MEDIA_URL", ""))) for each in media]
    return (*filter(None, names), path.stem), found


def _read_tabs(path: Path) -> list[_Found]:
    """Return the annotations in a tab-delimited export."""
    found: list[_Found] = []
    for line, row in _rows(path, "begin time"):
        start, end = (_elan_time(line, row, name) for name in ("begin time", "end time"))
        video = _media(row)
        others = [
            (name, value)
            for name, value in row.items()
            if value
            and not name.startswith(("begin time", "end time", "duration"))
            and name not in (*_MEDIA, "tier", "participant", "annotator")
        ]
        for name, value in others[:1] if "tier" in row else others:
            found.append((row.get("tier") or name, value, Segment(start, end), video))
    return found


def _elan_time(line: str, row: _Cells, name: str) -> float:
    """Return a time of an export, which has it in up to three units, as its columns say."""
    for column, text in row.items():
        if not column.startswith(name) or not text:
            continue
        try:
            if ":" in text:
                hours, minutes, seconds = text.split(":")
                return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
            return float(text) / 1000 if column.endswith("- msec") else float(text)
        except ValueError as error:
            raise UserError(f"{line}: {text!r} is no time ({error})") from error
    raise UserError(f"{line}: has no {name}; export begin and end times")


def boris(path: Path, split: Split | None) -> Iterator[Row]:
    """Read events that BORIS has exported as CSV or TSV, aggregated or one row for each.

    Behaviors are the classes. Each observation is of one media file. Point events, which have no
    duration, become segments without one, which are left out.
    """
    opened: dict[tuple[str, str, str], float] = {}
    for line, row in _rows(path, "behavior"):
        video, behavior = _media(row) or row.get("observation id", ""), row["behavior"]
        if "start (s)" in row:
            start, end = (_number(line, row, name) for name in ("start (s)", "stop (s)"))
            yield Row((video,), behavior, split, "", line, Segment(start, end))
            continue
        kind = (row.get("behavior type") or row.get("status") or "").upper()
        time = _number(line, row, "time")
        key = (video, row.get("subject", ""), behavior)
        if kind == "START" and key not in opened:
            opened[key] = time
        elif kind == "STOP" and key in opened:
            yield Row((video,), behavior, split, "", line, Segment(opened.pop(key), time))
        elif kind == "POINT":
            yield Row((video,), behavior, split, "", line, Segment(time, time))
        else:
            raise UserError(f"{line}: {behavior} has {kind or 'no type'} where it cannot; fix it")
    for video, _, behavior in opened:
        raise UserError(f"{path}: {behavior} of {video} starts and never stops; fix it in BORIS")


def _number(line: str, row: _Cells, name: str) -> float:
    try:
        return float(row[name])
    except (KeyError, ValueError) as error:
        raise UserError(f"{line}: needs a number in the column {name!r} ({error})") from error


def _media(row: Mapping[str, str]) -> str:
    """Return the name of the video in a row, "" if there is none."""
    return _base_name(next((row[name] for name in _MEDIA if row.get(name)), ""))


def _base_name(path: str) -> str:
    return PurePosixPath(path.replace("\\", "/")).name


def _rows(path: Path, needed: str) -> Iterator[tuple[str, _Cells]]:
    """Yield place and cells of the rows of a table, by their headers in lower case.

    Lines above the header, which has a column that starts with `needed`, are skipped.
    """
    lines = read_text(path).splitlines()
    table: Iterable[Sequence[str]] | Any = ()
    first = 0
    for first, line in enumerate(lines):
        delimiter = find_delimiter(line)
        cells = next(csv.reader([line], delimiter=delimiter), [])
        header = [cell.strip().lower() for cell in cells]
        if any(cell.startswith(needed) for cell in header):
            table = csv.reader(lines[first + 1 :], delimiter=delimiter)
            break
    else:
        raise UserError(
            f"{path}: has no column {needed!r}; export it as CSV or tab-delimited text with "
            "column headers"
        )
    try:
        for row in table:
            if any(row):
                place = f"{path}:{first + 1 + table.line_num}"
                yield place, dict(zip(header, map(str.strip, row), strict=False))
    except csv.Error as error:
        raise UserError(f"{path}: cannot be read as a table ({error})") from error
