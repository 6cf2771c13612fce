"""Facts about videos, and problems found in a data set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from p3d.data.dataset import Part, VideoRecord
from p3d.errors import report_cell
from p3d.system.csv_file import write_csv


@dataclass(frozen=True)
class VideoFacts:
    """Properties of a video.

    Attributes:
        split: Its split, None if nothing divides the data set.
        record: The video, with number of frames and frame rate if it is sound.
        size: Width and height in pixels, zeros if it is broken.
        promised: Number of frames according to its header, 0 if unknown.
        num_missing: Number of frames missing according to the names in its folder.
        duration: Length of the file in seconds, 0 if it is broken.
        reason: Why it is broken, "" if it is sound.
    """

    split: Part
    record: VideoRecord
    size: tuple[int, int] = (0, 0)
    promised: int = 0
    reason: str = ""
    num_missing: int = 0
    duration: float = 0.0

    @property
    def incomplete(self) -> bool:
        """Whether clearly fewer frames can be decoded than its header says."""
        lacking = self.promised - (self.record.num_frames or 0)
        return not self.reason and lacking > max(2, self.promised // 50)


Level = Literal["ERROR", "WARNING", "note"]

LEVELS = get_args(Level)
"""The levels of findings, the worst first."""


class Finding(NamedTuple):
    """A problem; the fields are the columns of the CSV file.

    Attributes:
        level: ERROR if training or evaluation cannot start, WARNING if videos are skipped or the
            results would be worse, else note.
        kind: The kind of problem.
        split: The split, "" if several.
        place: The video or class, "" if it concerns the whole data set.
        detail: More about it, or "".
    """

    level: Level
    kind: str
    split: str
    place: str
    detail: str = ""

    def line(self) -> str:
        """Return the finding without its kind."""
        return ": ".join(filter(None, (self.place, self.detail)))


def video_finding(level: Level, kind: str, facts: VideoFacts, detail: str) -> Finding:
    """Return a problem of one video."""
    return Finding(level, kind, facts.split or "", facts.record.name, detail)


def duplicate_finding(group: Sequence[VideoFacts]) -> Finding:
    """Return the problem that videos have the same content."""
    first, *others = (
        f"{facts.record.path} ({facts.split})" if facts.split else str(facts.record.path)
        for facts in group
    )
    inside = len({facts.split for facts in group}) == 1
    kind = "the same content twice" if inside else "the same content in two splits"
    videos = "".join((first, *(f" = {other}" for other in others)))
    return Finding("WARNING", kind, (group[0].split or "") if inside else "", videos)


def write_findings(path: Path, findings: Iterable[Finding]) -> None:
    """Write all findings as CSV, one per row, see `report_cell`.

    Raises:
        UserError: The file cannot be written.
    """
    write_csv(path, Finding._fields, ([*map(report_cell, row)] for row in findings))
