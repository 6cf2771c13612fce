"""Problems of the segments of a data set: overlaps, ends after the video, unlabeled parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise

from p3d.data.background import gaps
from p3d.data.dataset import WHOLE
from p3d.data.sampling import TOLERANCE
from p3d.prepare.findings import Finding, Level, VideoFacts, video_finding


def segment_findings(videos: Sequence[VideoFacts], class_names: Sequence[str]) -> Iterator[Finding]:
    """Yield the problems of segments, file by file.

    Args:
        videos: Facts about the videos that can be decoded.
        class_names: Names of their classes.
    """
    segments = [facts for facts in videos if facts.record.segment != WHOLE]
    ordered = sorted(segments, key=lambda f: (str(f.record.path), f.record.start or 0.0))
    for _, group in groupby(ordered, key=lambda f: f.record.path):
        of_file = list(group)
        yield from _ends(of_file)
        yield from _overlaps(of_file, class_names)
        yield from _unlabeled(of_file)


def _ends(of_file: Sequence[VideoFacts]) -> Iterator[Finding]:
    for facts in of_file:
        end = facts.record.end
        # Annotators round times, and the last frame's length is not known exactly.
        if end is not None and end > facts.duration + 1 / (facts.record.fps or 25) + TOLERANCE:
            detail = f"the video ends at {facts.duration:.3f} s"
            yield video_finding("WARNING", "segments that end after the video", facts, detail)


def _overlaps(of_file: Sequence[VideoFacts], class_names: Sequence[str]) -> Iterator[Finding]:
    for one, other in pairwise(of_file):
        start, end = other.record.start or 0.0, one.record.end
        if end is None or start < end - TOLERANCE:
            classes = [class_names[facts.record.label] for facts in (one, other)]
            detail = f"overlaps {one.record.fragment} ({classes[1]} and {classes[0]})"
            level: Level = "note" if classes[0] == classes[1] else "WARNING"
            yield video_finding(level, "segments that overlap", other, detail)


def _unlabeled(of_file: Sequence[VideoFacts]) -> Iterator[Finding]:
    first = of_file[0]
    found = gaps([facts.record.segment for facts in of_file], first.duration)
    total = sum(end - start for start, end in found)
    if total > 1 / (first.record.fps or 25):
        detail = f"{total:.1f} of {first.duration:.1f} s in {len(found)} parts, see --background"
        place = str(first.record.path)
        yield Finding("note", "unlabeled parts", first.split or "", place, detail)
