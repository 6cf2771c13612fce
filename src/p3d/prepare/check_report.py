"""What is to be said of a data set that was looked over."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple

from p3d.data.dataset import SPLITS, Split, VideoRecord
from p3d.errors import printable
from p3d.system.files import replacing

SHOWN = 10
"""Findings of one kind that a terminal shows; the rest is counted."""


@dataclass(frozen=True)
class VideoFacts:
    """What was found out about a video.

    Attributes:
        split: Where it belongs.
        record: The video, with its number of frames and its rate where it is sound.
        size: Width and height in pixels; zeros where it is broken.
        promised: How many frames its header says it has; 0 where it says nothing.
        reason: Why it is broken; empty where it is sound.
    """

    split: Split
    record: VideoRecord
    size: tuple[int, int] = (0, 0)
    promised: int = 0
    reason: str = ""

    @property
    def incomplete(self) -> bool:
        """Whether frames are lacking that its header promises, but for a few that never were."""
        lacking = self.promised - (self.record.num_frames or 0)
        return not self.reason and lacking > max(2, self.promised // 50)


class Finding(NamedTuple):
    """Something amiss.

    Attributes:
        level: What it means: training would stop, or learn wrongly, or it is good to know.
        kind: What it is.
        split: Where, if it belongs to one split.
        place: The video or class; empty for a fault of the whole data set.
        detail: More about it; may be empty.
    """

    level: Literal["ERROR", "WARNING", "note"]
    kind: str
    split: str
    place: str
    detail: str = ""

    def line(self) -> str:
        """The finding without its kind."""
        return ": ".join(filter(None, (self.place, self.detail)))


@dataclass(frozen=True)
class CheckReport:
    """What is to be said of a data set.

    Attributes:
        class_names: Its classes.
        videos: Facts on every video that is there.
        clip_frames: What counts as long enough.
        faults: Lines on splits that cannot be read.
        missing: Videos that are listed and not there, as the list names them, with their split.
        allow_missing: Whether that is allowed.
        duplicates: Groups of videos with the same content.
        unlisted: Videos in its folder that no list names.
    """

    class_names: tuple[str, ...]
    videos: tuple[VideoFacts, ...]
    clip_frames: int
    faults: tuple[str, ...]
    missing: tuple[tuple[Split, str], ...]
    allow_missing: bool
    duplicates: tuple[tuple[VideoFacts, ...], ...]
    unlisted: tuple[Path, ...]

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
        """Sound videos that were cut off or damaged."""
        return tuple(facts for facts in self.videos if facts.incomplete)

    @property
    def untaught(self) -> tuple[str, ...]:
        """Classes without a sound training video."""
        taught = {facts.record.label for facts in self.sound if facts.split == "train"}
        return tuple(n for label, n in enumerate(self.class_names) if label not in taught)

    @property
    def fit(self) -> bool:
        """Whether training would run through: nothing missing, nothing broken."""
        return not any(finding.level == "ERROR" for finding in self.findings())

    def findings(self) -> Iterator[Finding]:
        """Everything that is amiss, the worst first, kind by kind."""
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
        yield from sorted(map(_duplicate, self.duplicates), key=lambda finding: bool(finding.split))
        for name in self.untaught:
            yield Finding("WARNING", "classes without a training video", "train", name)
        for f in self.short:
            kind, detail = f"shorter than {self.clip_frames} frames", str(f.record.num_frames)
            yield Finding("note", kind, f.split, str(f.record.path), detail)
        for path in self.unlisted:
            yield Finding("note", "in the folder, but in no list", "", str(path))

    def lines(self) -> list[str]:
        """The report as lines for a reader, the worst first."""
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
        verdict = "fit for training" if self.fit else "NOT fit for training: mend the errors above"
        return [*lines, *_statistics(self), verdict]


def write_findings(path: Path, findings: Iterable[Finding]) -> None:
    """Writes all findings as CSV, a row for each.

    Raises:
        OSError: The file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Finding._fields)
        writer.writerows(map(printable, finding) for finding in findings)


def _duplicate(group: Sequence[VideoFacts]) -> Finding:
    first, *others = group
    same = "".join(f" = {facts.record.path} ({facts.split})" for facts in others)
    inside = all(facts.split == first.split for facts in others)
    kind = "the same content twice" if inside else "the same content in two splits"
    place = f"{first.record.path} ({first.split}){same}"
    return Finding("WARNING", kind, first.split if inside else "", place)


def _statistics(report: CheckReport) -> list[str]:
    lines = []
    for split in SPLITS:
        labels = Counter(f.record.label for f in report.sound if f.split == split)
        if labels:
            counts = [labels[label] for label in range(len(report.class_names))]
            lines.append(
                f"{split}: {sum(counts):,} videos, {_range(counts)} a class of {len(counts):,}"
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
    shown = [f"{value} ({count:,})" for value, count in counter.most_common(5)]
    return ", ".join(chain(shown, ["..."] if len(counter) > 5 else []))
