"""Manifests for data sets that have their own lists: HMDB51, Kinetics and others.

Videos stay where they are; only archives are unpacked. `tables` reads the different kinds of lists.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from p3d.data.dataset import (
    SPLITS,
    WHOLE,
    Part,
    Segment,
    Split,
    VideoRecord,
    check_missing,
    examples,
)
from p3d.data.listing import find_clash, read_lines, spelling_key
from p3d.data.manifest_writer import write_manifest
from p3d.errors import UserError, printable
from p3d.prepare import segment_files, tables
from p3d.prepare.archive import text_folder
from p3d.prepare.listed_videos import VideoIndex, unpack_videos
from p3d.prepare.tables import Row, is_number
from p3d.system.files import check_no_input
from p3d.system.markers import First
from p3d.system.spelling import ask_meant
from p3d.system.text import counted


@dataclass(frozen=True)
class ManifestOptions:
    """Write a manifest for a data set that has its own lists."""

    kind: Literal["hmdb51", "kinetics", "ucf101", "lists", "csv", "activitynet", "elan", "boris"]
    """Format of the lists.
    hmdb51: CLASS_test_split1.txt and so on.
    kinetics: CSV with youtube_id, time_start and so on.
    ucf101: classInd.txt, trainlist01.txt and so on.
    lists: lines `path label` or `path frames label`.
    csv: any CSV with a header, see --columns.
    activitynet: JSON, as of ActivityNet and THUMOS14.
    elan: .eaf, or tab-delimited text with headers.
    boris: events as CSV or TSV, aggregated or not."""
    videos: Path
    """Folder of the videos. For hmdb51 also hmdb51_org.rar, or the folder of its RARs."""
    out: Path
    """Manifest to write. Archives are unpacked into the folder `videos` next to it."""
    tables: First[tuple[Path, ...]] = ()
    """The lists: files; the folder of the lists for ucf101, folder or RAR for hmdb51."""
    train_list: First[Path | None] = None
    """lists: text file of the training videos."""
    validation_list: First[Path | None] = None
    """lists: text file of the validation videos."""
    test_list: First[Path | None] = None
    """lists: text file of the test videos."""
    classes: Path | None = None
    """lists: text file with a line `name` or `number name` per class, in the order of the labels.
    Without this file, labels are used as class names."""
    first_label: Literal[0, 1] | None = None
    """lists: label of the first class, where --classes is given.
    By default 0 if a list has that label, and 1 if the largest label is the number of classes."""
    columns: First[tuple[str, str, str, str]] = ("path", "class", "split", "group")
    """csv: names of the columns for path, class, split and group. The last two may be absent."""
    tier: str | None = None
    """elan: tier of the classes, if there are several."""
    split: Split | None = None
    """kinetics, csv, activitynet: split of rows without one. elan, boris: split of all rows."""
    fold: First[Literal[1, 2, 3]] = 1
    """hmdb51, ucf101: official split to use."""
    allow_missing: First[bool] = False
    """Skip listed videos that are missing, instead of stopping."""


@dataclass(frozen=True)
class ManifestSummary:
    """What was written.

    Attributes:
        out: The manifest.
        class_names: Its classes.
        counts: Number of videos, or of segments, by split.
        missing: Listed videos that do not exist.
        left_out: A line for each segment that cannot be used.
    """

    out: Path
    class_names: tuple[str, ...]
    counts: dict[Part, int]
    missing: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return the summary as lines of text."""
        parts = [part for part in (*SPLITS, None) if part in self.counts]
        counts = ", ".join(f"{self.counts[part]:,} {part or 'undivided'}" for part in parts)
        lines = [f"{self.out} lists {counts} videos of {len(self.class_names):,} classes"]
        if self.missing:
            shown = examples(self.missing)
            lines.append(f"WARNING: {len(self.missing):,} videos are missing: {shown}")
        if self.left_out:
            shown = f"{counted(len(self.left_out), 'segment')}, first: {self.left_out[0]}"
            lines.append(f"LEFT OUT: {shown}")
        return lines


def prepare_manifest(options: ManifestOptions) -> ManifestSummary:
    """Read the lists, find the videos and write the manifest.

    Raises:
        UserError: A list is missing or malformed, a video is listed twice, or videos are missing
            and `allow_missing` is off.
    """
    lists = (options.train_list, options.validation_list, options.test_list, options.classes)
    check_no_input(options.out, "--out", (*options.tables, *filter(None, lists)))
    class_names = _class_names(options)
    rows = list(_read_rows(options, class_names))
    if not rows:
        raise UserError(f"--kind {options.kind}: the tables list no videos; give others")
    class_names = class_names or _order_classes(rows, options)
    labels = {spelling_key(name): label for label, name in enumerate(class_names)}
    labels |= {name: label for label, name in enumerate(class_names)}
    index = VideoIndex(_find_videos(options))
    splits: dict[Part, list[VideoRecord]] = {split: [] for split in SPLITS}
    if any(row.split is None for row in rows):
        splits = {None: []}
    seen: dict[tuple[Path, Segment], str] = {}
    missing: list[str] = []
    left_out: list[str] = []
    for row in rows:
        path = index.find(row.names)
        if why := _unusable(row):
            left_out.append(f"{row.line}, {why}")
            continue
        label = labels.get(row.class_name, labels.get(spelling_key(row.class_name)))
        if label is None:
            raise UserError(f"{row.line}: class {row.class_name} is not in {options.classes}")
        if path is None:
            missing.append(row.names[0])
        elif (where := seen.get((path, row.segment))) and row.segment == WHOLE:
            raise UserError(f"{row.line}: {path} is listed in {where} already; remove one")
        elif where:
            left_out.append(f"{row.line}, the same times as {where}")
        else:
            seen[path, row.segment] = row.line
            record = VideoRecord(path, label, row.group)
            splits[row.split].append(replace(record, start=row.segment[0], end=row.segment[1]))
    check_missing(missing, len(rows) - len(left_out), index.root, options.allow_missing)
    write_manifest(options.out, class_names, splits)
    counts = {split: len(records) for split, records in splits.items()}
    return ManifestSummary(options.out, tuple(class_names), counts, tuple(missing), tuple(left_out))


def _unusable(row: Row) -> str:
    """Return why a segment cannot be used, "" if it can."""
    start, end = row.segment
    if not row.class_name:
        return "it has no class"
    if not 0 <= (start or 0.0) < (math.inf if end is None else end) or end == math.inf:
        return f"from {start} to {end} s it has no length, or is outside"
    return ""


def run(options: ManifestOptions) -> None:
    """Write a manifest and print the summary."""
    print("\n".join(map(printable, prepare_manifest(options).lines())))


def _class_names(options: ManifestOptions) -> tuple[str, ...]:
    """Return the class names of a file, none if they follow from the rows."""
    if options.kind == "ucf101" and options.tables:
        return tables.ucf101_classes(options.tables[0])
    return _read_classes(options.classes) if options.classes else ()


def _read_rows(options: ManifestOptions, class_names: tuple[str, ...]) -> Iterator[Row]:
    if options.kind == "lists":
        paths = (options.train_list, options.validation_list, options.test_list)
        given = [(split, path) for split, path in zip(SPLITS, paths, strict=True) if path]
        if not given:
            raise UserError("--kind lists needs --train-list, and --test-list for testing")
        index = VideoIndex(options.videos)
        yield from tables.lists(
            given,
            class_names,
            lambda name: index.find((name,)) is not None,
            options.first_label,
        )
        return
    if not options.tables:
        raise UserError(f"--kind {options.kind} needs --tables, the lists of the data set")
    for path in options.tables:
        if options.kind == "hmdb51":
            with text_folder(path) as folder:
                yield from tables.hmdb51(folder, options.fold)
        elif options.kind == "ucf101":
            yield from tables.ucf101(path, options.fold, class_names)
        elif options.kind == "kinetics":
            yield from tables.kinetics(path, options.split)
        elif options.kind == "activitynet":
            yield from segment_files.activitynet(path, options.split)
        elif options.kind == "elan":
            yield from segment_files.elan(path, options.tier, options.split)
        elif options.kind == "boris":
            yield from segment_files.boris(path, options.split)
        else:
            yield from tables.table(path, options.columns, options.split)


def _read_classes(path: Path) -> tuple[str, ...]:
    lines = read_lines(path)
    numbered = [line.split(maxsplit=1) for _, line in lines]
    numbers = [int(p[0]) if len(p) == 2 and is_number(p[0]) else None for p in numbered]
    start = next((n - i for i, n in enumerate(numbers) if n is not None), 0)
    names: dict[str, str] = {}
    for i, (number, line) in enumerate(lines):
        if numbers[i] is not None and (numbers[i] != i + start or start not in (0, 1)):
            raise UserError(
                f"{path}:{number}: {line!r} is class {i + start} by its line; number the classes "
                "in order from 0 or 1"
            )
        name = line if numbers[i] is None else numbered[i][1]
        key = spelling_key(name)
        if key in names:
            raise UserError(f"{path}:{number}: class {name} is listed twice; remove one")
        names[key] = name
    return tuple(names.values())


def _order_classes(rows: Sequence[Row], options: ManifestOptions) -> tuple[str, ...]:
    """Return sorted names; numbers of `lists` keep their value, even if some have no video."""
    lines = {row.class_name: row.line for row in rows if not _unusable(row)}
    if options.kind == "lists" and all(map(is_number, lines)):
        return tuple(map(str, range(options.first_label or 0, max(map(int, lines)) + 1)))
    if clash := find_clash(sorted(lines)):
        raise UserError(
            f"{lines[clash[1]]}: class {clash[1]!a} is spelled {clash[0]!a} in "
            f"{lines[clash[0]]}; spell it alike"
        )
    return tuple(sorted(lines))


def _find_videos(options: ManifestOptions) -> Path:
    """Return the folder of the videos, which are unpacked if they are archives."""
    source = options.videos
    if not source.exists():
        raise UserError(
            f"{source}: there is no such folder or archive; {ask_meant(source, 'fix --videos')}"
        )
    if options.kind != "hmdb51":
        return source
    return unpack_videos(source, options.out.parent / "videos")
