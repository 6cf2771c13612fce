"""The report of a data set check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import median

from p3d.data.dataset import SPLITS, Part, examples
from p3d.prepare.findings import (
    LEVELS,
    Finding,
    Level,
    VideoFacts,
    duplicate_finding,
    video_finding,
)
from p3d.prepare.segments import segment_findings
from p3d.system.text import counted

SHOWN = 10
"""Number of findings of each kind that the printed report names."""

LONG = 80
"""A video of more than this many clips is long: the 20 clips of `p3d eval` see less than a
quarter of it."""

UNEQUAL = 3
"""Classes are unequal if one has at least this many times the videos of another."""


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
        notes: Lines about how it was read.
    """

    class_names: tuple[str, ...]
    videos: tuple[VideoFacts, ...]
    clip_frames: int
    faults: Mapping[Part, str]
    missing: tuple[tuple[Part, str], ...]
    allow_missing: bool
    duplicates: tuple[tuple[VideoFacts, ...], ...]
    unlisted: tuple[Path, ...]
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

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
    def long(self) -> tuple[VideoFacts, ...]:
        """Sound videos of which few frames are seen."""
        most = LONG * self.clip_frames
        return tuple(f for f in self.sound if (f.record.num_frames or 0) > most)

    def counts(self, part: Part) -> list[int]:
        """Return the number of sound videos of each class in a split, or of the undivided ones."""
        labels = Counter(facts.record.label for facts in self.sound if facts.split == part)
        return [labels[label] for label in range(len(self.class_names))]

    @property
    def is_divided(self) -> bool:
        """Whether its videos are divided into splits."""
        return all(facts.split is not None for facts in self.videos)

    @property
    def fit(self) -> bool:
        """Whether training and evaluation can start."""
        return not any(finding.level == "ERROR" for finding in self.findings())

    def findings(self) -> Iterator[Finding]:
        """Yield all problems kind by kind, the worst first."""
        return iter(sorted(self._findings(), key=lambda finding: LEVELS.index(finding.level)))

    def _findings(self) -> Iterator[Finding]:
        for part, fault in self.faults.items():
            yield Finding("WARNING" if part == "test" else "ERROR", "", part or "", "", fault)
        yield from self._unreadable_splits()
        level: Level = "note" if self.allow_missing else "ERROR"
        for part, name in self.missing:
            yield Finding(level, "missing", part or "", name)
        for f in self.broken:
            yield video_finding("WARNING", "broken", f, f.reason)
        for f in self.incomplete:
            detail = f"{f.record.num_frames} of {f.promised} frames"
            yield video_finding("WARNING", "cut off or damaged", f, detail)
        for f in self.videos:
            if f.num_missing:
                detail = f"{f.num_missing} missing, {f.record.num_frames} there"
                yield video_finding("WARNING", "gaps in the frame numbers", f, detail)
        yield from segment_findings(self.sound, self.class_names)
        yield from sorted(
            map(duplicate_finding, self.duplicates), key=lambda finding: bool(finding.split)
        )
        yield from self._class_findings()
        for f in self.short:
            kind, detail = f"shorter than {self.clip_frames} frames", str(f.record.num_frames)
            yield video_finding("note", kind, f, detail)
        kind = f"longer than {LONG * self.clip_frames:,} frames"
        for f in self.long:
            frames = f.record.num_frames or 0
            share = f"{20 * self.clip_frames / frames:.0%}"
            detail = f"{frames:,}; 20 clips see {share} of it, cut out what matters"
            yield video_finding("note", kind, f, detail)
        for path in self.unlisted:
            yield Finding("note", "in the folder, but in no list", "", str(path))
        for name in self.ignored:
            yield Finding("note", "ignored, as its suffix is not that of a video", "", name)

    def _unreadable_splits(self) -> Iterator[Finding]:
        for part, names in {"train": "training", "validation": "validation", None: ""}.items():
            found = [f for f in self.videos if f.split == part]
            if found and all(f.reason for f in found):
                detail = f"none of the {len(found)} {names} videos can be read".replace("  ", " ")
                yield Finding("ERROR", "", part or "", "", detail)

    def _class_findings(self) -> Iterator[Finding]:
        """Yield what is unusual about the classes' names and numbers of videos."""
        for name in self.class_names:
            if not name.isascii() and any("\ud800" <= c <= "\udfff" for c in name):
                kind = "class names that are not UTF-8; save the list or name the folder in UTF-8"
                yield Finding("WARNING", kind, "", name)
        for part in (*SPLITS, None):
            counts = self.counts(part)
            if not any(counts):
                continue
            what = "" if part is None else "training " if part == "train" else f"{part} "
            for name, count in zip(self.class_names, counts, strict=True):
                if not count:
                    kind = f"classes without a {what}video"
                    yield Finding("WARNING", kind, part or "", name)
            if part in ("train", None) and (detail := self._describe_balance(counts)):
                yield Finding("WARNING", "unequal classes", part or "", "", detail)

    def _describe_balance(self, counts: Sequence[int]) -> str:
        """Compare the largest class with the smallest that has videos, "" if they are alike."""
        ordered = sorted(
            (count, name) for name, count in zip(self.class_names, counts, strict=True) if count
        )
        (fewest, small), (most, large) = ordered[0], ordered[-1]
        if most < UNEQUAL * fewest:
            return ""
        return (
            f"{large} has {most / fewest:.2g} times the videos of {small} ({most:,} and "
            f"{fewest:,}); consider more videos of {small}, and compare by mean class accuracy"
        )

    def lines(self) -> list[str]:
        """Return the report as lines of text, the worst first."""
        lines = list(self.notes)
        hints = {
            "missing": ", see --allow-missing",
            "broken": ", which training skips, and p3d eval with --on-bad-video skip",
        }
        for (level, kind), group in groupby(self.findings(), key=lambda f: (f.level, f.kind)):
            findings = [finding.line() for finding in group]
            if kind:
                hint = hints.get(kind, "") if level != "note" else ""
                lines.append(f"{level}: {kind}: {len(findings):,}{hint}")
                lines += [f"  {line}" for line in findings[:SHOWN]]
                if len(findings) > SHOWN:
                    lines.append(f"  and {len(findings) - SHOWN:,} more, see --findings")
            else:
                lines += [f"{level}: {line}" for line in findings]
        return [*lines, *_statistics(self), self._verdict()]

    def _verdict(self) -> str:
        errors = {finding.split for finding in self.findings() if finding.level == "ERROR"}
        if errors == {"test"}:
            return "fit for training, but p3d eval cannot start: fix the errors above"
        if errors:
            return "NOT fit for training, which cannot start: fix the errors above"
        verdict = "fit for training"
        skipped = sum(facts.split != "test" for facts in self.broken)
        if skipped:
            verdict += f", which skips {counted(skipped, 'video')}"
        if not self.is_divided:
            verdict += "; to divide the videos, give it --test-fraction or another rule"
        return verdict


def _statistics(report: CheckReport) -> list[str]:
    lines = []
    for part in (*SPLITS, None):
        counts = report.counts(part)
        if any(counts):
            lines.append(
                f"{part or 'all'}: {counted(sum(counts), 'video')}, {_range(counts)} in each of "
                f"{counted(len(counts), 'class')}"
            )
    if groups := sorted({facts.record.group for facts in report.videos} - {""}):
        lines.append(f"groups: {len(groups):,}, {examples(groups)}")
    if report.sound:
        frames = [facts.record.num_frames or 0 for facts in report.sound]
        sizes = Counter(f"{width}x{height}" for width, height in (f.size for f in report.sound))
        rates = Counter(f"{facts.record.fps:.4g}" for facts in report.sound)
        lines.append(f"frames: {_range(frames)}; sizes: {_most(sizes)}; rates: {_most(rates)}")
    return lines


def _range(values: Sequence[int]) -> str:
    if min(values) == max(values):
        return f"{min(values):,}"
    return f"{min(values):,} to {max(values):,} (median {median(values):,.0f})"


def _most(counter: Counter[str]) -> str:
    shown = ", ".join(f"{value} ({count:,})" for value, count in counter.most_common(5))
    return shown + (", ..." if len(counter) > 5 else "")
