"""The parts of files that no segment covers, as a class of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from statistics import median

from p3d.data.dataset import WHOLE, Listing, Segment, VideoRecord
from p3d.data.sampling import TOLERANCE
from p3d.errors import BadVideoError, UserError
from p3d.system.text import counted

BACKGROUND = "background"
"""Name of the class."""

Span = tuple[float, float]
"""Start and end in seconds."""


def gaps(segments: Iterable[Segment], duration: float) -> list[Span]:
    """Return the parts of a video that no segment covers, in order.

    Args:
        segments: Its segments, which may overlap.
        duration: Length of the video in seconds.
    """
    found: list[Span] = []
    reached = 0.0
    for start, end in sorted(_spans(segments, duration)):
        if start > reached + TOLERANCE:
            found.append((reached, min(start, duration)))
        reached = max(reached, end)
    if duration > reached + TOLERANCE:
        found.append((reached, duration))
    return found


def _spans(segments: Iterable[Segment], duration: float) -> Iterator[Span]:
    for segment in segments:
        end = duration if segment.end is None else segment.end
        yield min(segment.start or 0.0, duration), min(end, duration)


def pieces(segments: Sequence[Segment], duration: float) -> list[Span]:
    """Return the pieces of a video that are taken as background.

    They are as long as the median of the segments, and at most as many, spread evenly over the
    parts that no segment covers. A part that is shorter than that has none.
    """
    length = median(end - start for start, end in _spans(segments, duration))
    if length <= TOLERANCE:
        return []
    starts = [
        start + (end - start - count * length) * (number + 1) / (count + 1) + number * length
        for start, end in gaps(segments, duration)
        for count in (int((end - start + TOLERANCE) / length),)
        for number in range(count)
    ]
    most = min(len(segments), len(starts))
    chosen = [starts[number * len(starts) // most] for number in range(most)]
    # Whole milliseconds, so that the names of the pieces are short.
    return [(round(start, 3), round(start + length, 3)) for start in chosen]


def check_background(listing: Listing) -> None:
    """Check that a data set can have a class "background".

    Raises:
        UserError: It has no segments, or a class of that name.
    """
    if BACKGROUND in listing.class_names:
        raise UserError(
            f"{listing.path}: has a class {BACKGROUND} already; drop --background, or rename it"
        )
    if not any(record.segment != WHOLE for record in listing.records):
        raise UserError(
            f"{listing.path}: --background needs segments; give a manifest with the columns start "
            "and end"
        )


def add_background(listing: Listing) -> Listing:
    """Return the videos with a class "background" of what no segment covers, see `pieces`.

    The files with segments are opened to learn how long they are. One that cannot be read has no
    background.
    """
    label = len(listing.class_names)
    parts = {
        part: None if records is None else (*records, *_background(listing, records, label))
        for part, records in listing.parts.items()
    }
    added = sum(len(records or ()) for records in parts.values()) - len(listing.records)
    note = f"BACKGROUND: {counted(added, 'piece')} of the parts without a segment"
    return replace(
        listing,
        class_names=(*listing.class_names, BACKGROUND),
        parts=parts,
        notes=(*listing.notes, note),
    )


def _background(
    listing: Listing, records: Sequence[VideoRecord], label: int
) -> Iterator[VideoRecord]:
    """Yield the background of the files of a part."""
    from p3d.video.decode import open_video  # imports PyTorch

    segments = [record for record in records if record.segment != WHOLE]
    ordered = sorted(segments, key=lambda record: str(record.path))
    for path, group in groupby(ordered, key=lambda record: record.path):
        of_file = list(group)
        first = of_file[0]
        if path in listing.missing:
            continue
        try:
            with open_video(path, fps=first.fps) as video:
                duration = video.duration
        except BadVideoError:
            continue
        for start, end in pieces([record.segment for record in of_file], duration):
            yield replace(first, label=label, num_frames=None, start=start, end=end)
