"""Manifests for data sets that have their own lists: HMDB51, Kinetics and others.

Videos stay where they are; only archives are unpacked. `tables` reads the different kinds of lists.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from p3d.data.dataset import SPLITS, Split, VideoRecord, check_missing
from p3d.data.listing import read_lines, stem_of
from p3d.data.manifest import write_manifest
from p3d.errors import UserError, printable
from p3d.prepare import tables
from p3d.prepare.archive import open_archive, text_folder
from p3d.prepare.tables import Row
from p3d.system.files import TEMPORARY


@dataclass(frozen=True)
class ManifestOptions:
    """Write a manifest for a data set that has its own lists."""

    kind: Literal["hmdb51", "kinetics", "ucf101", "lists", "csv"]
    """Format of the lists.
    hmdb51: CLASS_test_split1.txt and so on.
    kinetics: CSV with the columns label, youtube_id, time_start, time_end and split.
    ucf101: classInd.txt, trainlist01.txt and so on, with lines `Class/video`.
    lists: text files with lines `path label` or `path frames label`.
    csv: any CSV with a header; --columns names its columns."""
    videos: Path
    """Folder of the videos. For hmdb51 also hmdb51_org.rar, or the folder of its RARs."""
    out: Path
    """Manifest to write. Archives are unpacked into the folder `videos` next to it."""
    tables: tuple[Path, ...] = ()
    """The lists.
    kinetics, csv: the CSV files.
    ucf101: the folder of the lists.
    hmdb51: the folder or the RAR of the lists."""
    train_list: Path | None = None
    """lists: text file of the training videos."""
    validation_list: Path | None = None
    """lists: text file of the validation videos."""
    test_list: Path | None = None
    """lists: text file of the test videos."""
    classes: Path | None = None
    """lists: text file with a line `name` or `number name` per class, in the order of the labels.
    Labels start at 0. Without this file, labels are used as class names."""
    columns: tuple[str, str, str, str] = ("path", "class", "split", "group")
    """csv: names of the columns for path, class, split and group. The last two may be absent."""
    split: Split | None = None
    """kinetics, csv: split of rows without one."""
    fold: Literal[1, 2, 3] = 1
    """hmdb51, ucf101: official split to use."""
    allow_missing: bool = False
    """Skip listed videos that are missing, instead of stopping."""


@dataclass(frozen=True)
class ManifestSummary:
    """What was written.

    Attributes:
        out: The manifest.
        class_names: Its classes.
        counts: Number of videos by split.
        missing: Listed videos that do not exist.
    """

    out: Path
    class_names: tuple[str, ...]
    counts: dict[Split, int]
    missing: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return the summary as lines of text."""
        counts = ", ".join(f"{self.counts[split]:,} {split}" for split in SPLITS)
        lines = [f"{self.out} lists {counts} videos of {len(self.class_names):,} classes"]
        if self.missing:
            shown = ", ".join(self.missing[:3]) + (", ..." if len(self.missing) > 3 else "")
            lines.append(f"WARNING: {len(self.missing):,} videos are missing: {printable(shown)}")
        return lines


def prepare_manifest(options: ManifestOptions) -> ManifestSummary:
    """Read the lists, find the videos and write the manifest.

    Raises:
        UserError: A list is missing or malformed, a video is listed twice, or videos are missing
            and `allow_missing` is off.
    """
    class_names = _class_names(options)
    rows = list(_read_rows(options, class_names))
    if not rows:
        raise UserError(f"--kind {options.kind}: the tables list no videos; give others")
    class_names = class_names or _order_classes({row.class_name for row in rows}, options.kind)
    labels = {name: label for label, name in enumerate(class_names)}
    index = _VideoIndex(_unpack_videos(options))
    splits: dict[Split, list[VideoRecord]] = {split: [] for split in SPLITS}
    seen: dict[Path, str] = {}
    missing: list[str] = []
    for row in rows:
        path = index.find(row.names)
        if row.class_name not in labels:
            raise UserError(f"{row.line}: class {row.class_name} is not in {options.classes}")
        if path is None:
            missing.append(row.names[0])
        elif path in seen:
            raise UserError(f"{row.line}: {path} is listed in {seen[path]} already; remove one")
        else:
            seen[path] = row.line
            splits[row.split].append(VideoRecord(path, labels[row.class_name], row.group))
    check_missing(missing, len(rows), index.root, options.allow_missing)
    write_manifest(options.out, class_names, splits)
    counts = {split: len(records) for split, records in splits.items()}
    return ManifestSummary(options.out, tuple(class_names), counts, tuple(missing))


def run(options: ManifestOptions) -> None:
    """Write a manifest and print the summary."""
    print("\n".join(prepare_manifest(options).lines()))


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
        yield from tables.lists(given, class_names)
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
        else:
            yield from tables.table(path, options.columns, options.split)


def _read_classes(path: Path) -> tuple[str, ...]:
    names = []
    for number, line in read_lines(path):
        first, _, rest = line.partition(" ")
        names.append(rest.strip() if first.isdigit() and rest.strip() else line)
        if names[-1] in names[:-1]:
            raise UserError(f"{path}:{number}: class {names[-1]} is listed twice; remove one")
    return tuple(names)


def _order_classes(names: set[str], kind: str) -> tuple[str, ...]:
    """Return sorted names; numbers of `lists` keep their value, even if some have no video."""
    if kind == "lists" and all(name.isdigit() for name in names):
        return tuple(map(str, range(max(map(int, names)) + 1)))
    return tuple(sorted(names))


def _unpack_videos(options: ManifestOptions) -> Path:
    """Return the folder of the videos, which are unpacked if they are archives."""
    source = options.videos
    if not source.exists():
        raise UserError(f"{source}: there is no such folder or archive; fix --videos")
    if options.kind != "hmdb51":
        return source
    target = options.out.parent / "videos"
    if source.is_file():
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=target) as folder:
            open_archive(source, ".rar").extract_all(Path(folder))
            _unpack_classes(sorted(Path(folder).glob("*.rar")), target)
        return target
    if archives := sorted(source.glob("*.rar")):
        _unpack_classes(archives, target)
        return target
    return source


def _unpack_classes(archives: Iterable[Path], target: Path) -> None:
    """Unpack a RAR per class, named like the class."""
    for path in archives:
        archive = open_archive(path)
        if archive.clips:
            archive.extract_all(target / path.stem)


class _VideoIndex:
    """Videos below a folder by name. Each folder is listed once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listings: dict[Path, dict[str, str]] = {}

    def find(self, names: Iterable[str]) -> Path | None:
        """Return the first of the names that exists, as it is or with a video's suffix."""
        for name in names:
            path = self.root / name
            found = self._listing(path.parent).get(path.name)
            if found is not None:
                return path.with_name(found)
        return None

    def _listing(self, folder: Path) -> dict[str, str]:
        if folder not in self._listings:
            try:
                names = sorted(os.listdir(folder))  # noqa: PTH208 (names only)
            except OSError:
                names = []
            stems = {stem_of(name): name for name in reversed(names)}
            self._listings[folder] = stems | {name: name for name in names}
        return self._listings[folder]
