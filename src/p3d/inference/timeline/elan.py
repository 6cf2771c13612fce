"""Segments as an annotation file of ELAN, to look at and to correct."""

from __future__ import annotations

import mimetypes
from datetime import datetime, timezone
from pathlib import Path
from xml.etree import ElementTree as ET

from p3d.errors import printable
from p3d.inference.timeline.segments import Segment
from p3d.inference.timeline.timeline import Timeline

_SCHEMA = "http://www.mpi.nl/tools/elan/EAFv3.0.xsd"
_XSI = "http://www.w3.org/2001/XMLSchema-instance"
_TYPE = "default-lt"


def to_eaf(timeline: Timeline) -> str:
    """Return an EAF document (format 3.0) with a tier for each class.

    Annotations on one tier cannot overlap; segments of a class never do. The date of the document
    is that of the video, so that the same segments give the same file.
    """
    root = ET.Element(
        "ANNOTATION_DOCUMENT",
        {
            "AUTHOR": "p3d",
            "DATE": _date(timeline.path),
            "FORMAT": "3.0",
            "VERSION": "3.0",
            "xmlns:xsi": _XSI,
            "xsi:noNamespaceSchemaLocation": _SCHEMA,
        },
    )
    header = ET.SubElement(root, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
    if isinstance(timeline.path, Path):
        header.append(_media(timeline.path))
    last = ET.SubElement(header, "PROPERTY", NAME="lastUsedAnnotationId")
    last.text = str(len(timeline.segments))
    slots = _add_times(root, timeline.segments)
    for label in dict.fromkeys(segment.label for segment in timeline.segments):
        tier = ET.SubElement(root, "TIER", LINGUISTIC_TYPE_REF=_TYPE, TIER_ID=printable(label))
        for number, segment in enumerate(timeline.segments):
            if segment.label == label:
                _add_annotation(tier, number, segment, slots)
    ET.SubElement(
        root,
        "LINGUISTIC_TYPE",
        GRAPHIC_REFERENCES="false",
        LINGUISTIC_TYPE_ID=_TYPE,
        TIME_ALIGNABLE="true",
    )
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _date(path: Path | str | None) -> str:
    try:
        seconds = int(path.stat().st_mtime) if isinstance(path, Path) else 0
    except OSError:
        seconds = 0
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat()


def _media(path: Path) -> ET.Element:
    kind = mimetypes.guess_type(path.name)[0] or "video/mp4"
    address = path.resolve().as_uri()
    relative = f"./{address.rpartition('/')[2]}"
    return ET.Element(
        "MEDIA_DESCRIPTOR", MEDIA_URL=address, MIME_TYPE=kind, RELATIVE_MEDIA_URL=relative
    )


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)


def _add_times(root: ET.Element, segments: tuple[Segment, ...]) -> dict[int, str]:
    """Add all times in order; return their names by milliseconds."""
    order = ET.SubElement(root, "TIME_ORDER")
    times = sorted({_milliseconds(time) for segment in segments for time in segment[:2]})
    slots = {time: f"ts{number}" for number, time in enumerate(times, start=1)}
    for time, name in slots.items():
        ET.SubElement(order, "TIME_SLOT", TIME_SLOT_ID=name, TIME_VALUE=str(time))
    return slots


def _add_annotation(tier: ET.Element, number: int, segment: Segment, slots: dict[int, str]) -> None:
    outer = ET.SubElement(tier, "ANNOTATION")
    inner = ET.SubElement(
        outer,
        "ALIGNABLE_ANNOTATION",
        ANNOTATION_ID=f"a{number + 1}",
        TIME_SLOT_REF1=slots[_milliseconds(segment.start)],
        TIME_SLOT_REF2=slots[_milliseconds(segment.end)],
    )
    ET.SubElement(inner, "ANNOTATION_VALUE").text = printable(segment.label)
