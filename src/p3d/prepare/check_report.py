"""The report of a data set check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple

from p3d.data.dataset import SPLITS, Split, VideoRecord
from p3d.errors import report_cell
from p3d.system.files import write_csv

SHOWN = 10
"""Number of findings of each kind that the printed report names."""


@dataclass(frozen=True)
class VideoFacts:
    """Properties of a video.

    Attributes:
        split: Its split.
        record: The video, with number of frames and frame rate if it is sound.
        size: Width and height in pixels, zeros if it is broken.
        promised: Number of frames according to its header, 0 if unknown.
        num_missing: Number of frames missing according to the names in its folder.
        reason: Why it is broken, "" if it is sound.
    """

    split: Split
    record: VideoRecord
    size: tuple[int, int] = (0, 0)
    promised: int = 0
    reason: str = ""
    num_missing: int = 0

    @property
    def incomplete(self) -> bool:
        """Whether clearly fewer frames can be decoded than its header says."""
        lacking = self.promised - (self.record.num_frames or 0)
        return not self.reason and lacking > max(2, self.promised // 50)


class Finding(NamedTuple):
    """A problem; the fields are the columns of the CSV file.

    Attributes:
        level: ERROR if training would stop, WARNING if it would give worse results, else note.
        kind: The kind of problem.
        split: The split, "" if several.
        place: The video or class, "" if it concerns the whole data set.
        detail: More about it, or "".
    """

    level: Literal["ERROR", "WARNING", "note"]
    kind: str
    split: str
    place: str
    detail: str = ""

    def line(self) -> str:
        """Return the finding without its kind."""
        return ": ".join(filter(None, (self.place, self.detail)))


@dataclass(frozen=True)
class CheckReport:
    """Everything found out about a data set.

    Attributes:
        class_names: Its classes.
        videos: Facts about every listed video that exists.
        clip_frames: Videos with fewer frames are short.
        faults: Errors of splits that cannot be read.
        missing: Listed videos that do not exist, with their split.
        allow_missing: Whether missing videos are allowed.
        duplicates: Groups of videos with the same contents.
        unlisted: Videos in its folder that no list names.
        ignored: Files in its class folders that are not videos.
    """

    class_names: tuple[str, ...]
    videos: tuple[VideoFacts, ...]
    clip_frames: int
    faults: tuple[str, ...]
    missing: tuple[tuple[Split, str], ...]
    allow_missing: bool
    duplicates: tuple[tuple[VideoFacts, ...], ...]
    unlisted: tuple[Path, ...]
    ignored: tuple[str, ...] = ()

    @property
    def broken(self) -> tuple[VideoFacts, ...]:
        """Videos that cannot be decoded."""
        return tuple(facts for facts in self.videos if facts.reason)

    @property
    def sound(self) -> tuple[VideoFacts, ...]:
        """Videos that can be decoded."""
        return tuple(facts for facts in self.videos if not facts.reason)

    @property
    def short(self) -> tuple[VideoFacts, ...]:
        """Sound videos with fewer frames than a clip."""
        return tuple(f for f in self.sound if (f.record.num_frames or 0) < self.clip_frames)

    @property
    def incomplete(self) -> tuple[VideoFacts, ...]:
        """Sound videos that are truncated or damaged."""
        return tuple(facts for facts in self.videos if facts.incomplete)

    @property
    def untrained(self) -> tuple[str, ...]:
        """Classes without a sound training video."""
        trained = {facts.record.label for facts in self.sound if facts.split == "train"}
        return tuple(n for label, n in enumerate(self.class_names) if label not in trained)

    @property
    def fit(self) -> bool:
        """Whether the data set can be trained on: nothing is missing or broken."""
        return not any(finding.level == "ERROR" for finding in self.findings())

    def findings(self) -> Iterator[Finding]:
        """Yield all problems kind by kind, the worst first."""
        for fault in self.faults:
            yield Finding("ERROR", "", "", "", fault)
        level: Literal["ERROR", "note"] = "note" if self.allow_missing else "ERROR"
        for split, name in self.missing:
            yield Finding(level, "missing", split, name)
        for f in self.broken:
            yield Finding("ERROR", "broken", f.split, str(f.record.path), f.reason)
        for f in self.incomplete:
            detail = f"{f.record.num_frames} of {f.promised} frames"
            yield Finding("WARNING", "cut off or damaged", f.split, str(f.record.path), detail)
        for f in self.videos:
            if f.num_missing:
                detail = f"{f.num_missing} missing, {f.record.num_frames} there"
                yield Finding(
                    "WARNING", "gaps in the frame numbers", f.split, str(f.record.path), detail
                )
        yield from sorted(map(_duplicate, self.duplicates), key=lambda finding: bool(finding.split))
        for name in self.untrained:
            yield Finding("WARNING", "classes without a training video", "train", name)
        for f in self.short:
            kind, detail = f"shorter than {self.clip_frames} frames", str(f.record.num_frames)
            yield Finding("note", kind, f.split, str(f.record.path), detail)
        for path in self.unlisted:
            yield Finding("note", "in the folder, but in no list", "", str(path))
        for name in self.ignored:
            yield Finding("note", "ignored, as its suffix is not that of a video", "", name)

    def lines(self) -> list[str]:
        """Return the report as lines of text, the worst first."""
        lines = []
        for (level, kind), group in groupby(self.findings(), key=lambda f: (f.level, f.kind)):
            findings = [finding.line() for finding in group]
            if kind:
                hint = ", see --allow-missing" if (level, kind) == ("ERROR", "missing") else ""
                lines.append(f"{level}: {kind}: {len(findings):,}{hint}")
                lines += [f"  {line}" for line in findings[:SHOWN]]
                if len(findings) > SHOWN:
                    lines.append(f"  and {len(findings) - SHOWN:,} more, see --findings")
            else:
                lines += [f"{level}: {line}" for line in findings]
        verdict = "fit for training" if self.fit else "NOT fit for training: fix the errors above"
        return [*lines, *_statistics(self), verdict]


def write_findings(path: Path, findings: Iterable[Finding]) -> None:
    """Write all findings as CSV, one per row, see `report_cell`.

    Raises:
        UserError: The file cannot be written.
    """
    write_csv(path, Finding._fields, ([*map(report_cell, row)] for row in findings))


def _duplicate(group: Sequence[VideoFacts]) -> Finding:
    first, *others = group
    same = "".join(f" = {facts.record.path} ({facts.split})" for facts in others)
    inside = all(facts.split == first.split for facts in others)
    kind = "the same content twice" if inside else "the same content in two splits"
    videos = f"{first.record.path} ({first.split}){same}"
    return Finding("WARNING", kind, first.split if inside else "", videos)


def _statistics(report: CheckReport) -> list[str]:
    lines = []
    for split in SPLITS:
        labels = Counter(f.record.label for f in report.sound if f.split == split)
        if labels:
            counts = [labels[label] for label in range(len(report.class_names))]
            total, classes = sum(counts), len(counts)
            lines.append(
                f"{split}: {total:,} videos, {_range(counts)} in each of {classes} classes"
            )
    if report.sound:
        frames = [facts.record.num_frames or 0 for facts in report.sound]
        sizes = Counter(f"{width}x{height}" for width, height in (f.size for f in report.sound))
        rates = Counter(f"{facts.record.fps:.4g}" for facts in report.sound)
        lines.append(f"frames: {_range(frames)}; sizes: {_most(sizes)}; rates: {_most(rates)}")
    return lines


def _range(values: Sequence[int]) -> str:
    return f"{min(values):,} to {max(values):,} (median {median(values):,.0f})"


def _most(counter: Counter[str]) -> str:
    shown = ", ".join(f"{value} ({count:,})" for value, count in counter.most_common(5))
    return shown + (", ..." if len(counter) > 5 else "")
