"""A manifest for data sets that come with lists of their own: HMDB51, Kinetics, and any other.

The videos stay where they are; only archives are unpacked. What differs between the kinds is how
their tables are read (`tables`), the rest is written once.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from p3d.data.dataset import SPLITS, Split, VideoRecord, check_missing
from p3d.data.listing import read_lines, stem_of
from p3d.data.manifest import write_manifest
from p3d.errors import UserError, printable
from p3d.prepare import tables
from p3d.prepare.archive import open_archive
from p3d.prepare.tables import Row

ARCHIVES = frozenset({".rar", ".zip"})


@dataclass(frozen=True)
class ManifestOptions:
    """Write a manifest for a data set that has lists of its own."""

    kind: Literal["hmdb51", "kinetics", "ucf101", "lists", "csv"]
    """What the lists are. hmdb51: CLASS_test_split1.txt and so on. kinetics: CSV with the columns
    label, youtube_id, time_start, time_end, split. ucf101: classInd.txt, trainlist01.txt and so on
    with lines `Class/video`, as MERL and Breakfast have too. lists: text files with a line
    `path label` or `path frames label` for each video. csv: any CSV with a header, as --columns
    says."""
    videos: Path
    """Folder with the videos. For hmdb51 also hmdb51_org.rar, or the folder of its RARs."""
    out: Path
    """Manifest to write. Archives are unpacked into the folder videos beside it."""
    tables: tuple[Path, ...] = ()
    """kinetics, csv: the CSV files. ucf101: the folder of its lists. hmdb51: the folder or the RAR
    of its lists."""
    train_list: Path | None = None
    """lists: the training videos."""
    validation_list: Path | None = None
    """lists: the validation videos."""
    test_list: Path | None = None
    """lists: the test videos."""
    classes: Path | None = None
    """lists: text file with a line for each class, `name` or `number name`, in the order of the
    labels, which count from 0. Without it a label is its own name."""
    columns: tuple[str, str, str, str] = ("path", "class", "split", "group")
    """csv: what the columns for path, class, split and group are called; the last two may be
    absent."""
    split: Split | None = None
    """kinetics, csv: the split of rows that do not name theirs."""
    fold: Literal[1, 2, 3] = 1
    """hmdb51, ucf101: which of the three official splits."""
    allow_missing: bool = False
    """List the videos that are there, when some are not."""


@dataclass(frozen=True)
class ManifestSummary:
    """What was written.

    Attributes:
        out: The manifest.
        class_names: Its classes.
        counts: Videos by split.
        missing: Videos that the tables name and that are not there.
    """

    out: Path
    class_names: tuple[str, ...]
    counts: dict[Split, int]
    missing: tuple[str, ...]

    def lines(self) -> list[str]:
        """The summary as lines for a reader."""
        counts = ", ".join(f"{self.counts[split]:,} {split}" for split in SPLITS)
        lines = [f"{self.out} lists {counts} videos of {len(self.class_names):,} classes"]
        if self.missing:
            shown = ", ".join(self.missing[:3]) + (", ..." if len(self.missing) > 3 else "")
            lines.append(f"WARNING: {len(self.missing):,} videos are missing: {printable(shown)}")
        return lines


def prepare_manifest(options: ManifestOptions) -> ManifestSummary:
    """Reads the tables, finds the videos and writes the manifest.

    Raises:
        UserError: If a table is absent or malformed, a video is named twice, or videos are missing
            and that is not allowed.
    """
    class_names = _class_names(options)
    rows = list(_read_rows(options, class_names))
    if not rows:
        raise UserError(f"--kind {options.kind}: the tables list no videos; give others")
    class_names = class_names or _order_classes({row.class_name for row in rows}, options.kind)
    labels = {name: label for label, name in enumerate(class_names)}
    shelf = _Shelf(_unpacked(options))
    splits: dict[Split, list[VideoRecord]] = {split: [] for split in SPLITS}
    seen: dict[Path, str] = {}
    missing: list[str] = []
    for row in rows:
        path = shelf.find(row.names)
        if row.class_name not in labels:
            raise UserError(f"{row.place}: class {row.class_name} is not in {options.classes}")
        if path is None:
            missing.append(row.names[0])
        elif path in seen:
            raise UserError(f"{row.place}: {path} stands in {seen[path]} already; name it once")
        else:
            seen[path] = row.place
            splits[row.split].append(VideoRecord(path, labels[row.class_name], row.group))
    check_missing(missing, len(rows), shelf.root, options.allow_missing)
    write_manifest(options.out, class_names, splits)
    counts = {split: len(records) for split, records in splits.items()}
    return ManifestSummary(options.out, tuple(class_names), counts, tuple(missing))


def run(options: ManifestOptions) -> None:
    """Writes a manifest and says what is in it."""
    print("\n".join(prepare_manifest(options).lines()))


def _class_names(options: ManifestOptions) -> tuple[str, ...]:
    """Those that a file says; none where the rows are to say them."""
    if options.kind == "ucf101" and options.tables:
        return tables.ucf101_classes(options.tables[0])
    return _read_classes(options.classes) if options.classes else ()


def _read_rows(options: ManifestOptions, class_names: tuple[str, ...]) -> Iterator[Row]:
    if options.kind == "lists":
        named = zip(
            SPLITS, (options.train_list, options.validation_list, options.test_list), strict=True
        )
        given = [(split, path) for split, path in named if path]
        if not given:
            raise UserError("--kind lists needs --train-list, and --test-list for testing")
        yield from tables.lists(given, class_names)
        return
    if not options.tables:
        raise UserError(f"--kind {options.kind} needs --tables, the lists of the data set")
    for path in options.tables:
        if options.kind == "hmdb51":
            with _text_folder(path) as folder:
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
            raise UserError(f"{path}:{number}: class {names[-1]} stands there twice")
    return tuple(names)


def _order_classes(names: set[str], kind: str) -> tuple[str, ...]:
    """Sorted names; bare labels stay what they are, also where some are shown by no video."""
    if kind == "lists" and all(name.isdigit() for name in names):
        return tuple(map(str, range(max(map(int, names)) + 1)))
    return tuple(sorted(names))


@contextmanager
def _text_folder(place: Path) -> Iterator[Path]:
    """A folder with the lists that a folder or an archive holds."""
    if place.suffix.lower() not in ARCHIVES:
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="p3d-lists-") as folder:
        archive = open_archive(place, ".txt")
        names = {key: Path(member.name).name for key, member in archive.clips.items()}
        archive.extract({key: Path(folder, name) for key, name in names.items()})
        yield Path(folder)


def _unpacked(options: ManifestOptions) -> Path:
    """The folder with the videos, out of an archive of archives if need be."""
    source = options.videos
    if not source.exists():
        raise UserError(f"{source}: there is no such folder or archive; mend --videos")
    if options.kind != "hmdb51":
        return source
    target = options.out.parent / "videos"
    if source.suffix.lower() in ARCHIVES:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".p3d-partial-", dir=target) as folder:
            archive = open_archive(source, ".rar")
            names = {key: Path(member.name).name for key, member in archive.clips.items()}
            archive.extract({key: Path(folder, name) for key, name in names.items()})
            _unpack_classes(sorted(Path(folder).glob("*.rar")), target)
        return target
    if archives := sorted(source.glob("*.rar")):
        _unpack_classes(archives, target)
        return target
    return source


def _unpack_classes(archives: Iterable[Path], target: Path) -> None:
    """Unpacks a RAR for each class, named like it; clips that are there are kept."""
    for path in archives:
        archive = open_archive(path)
        if archive.clips:
            folder = target / path.stem
            folder.mkdir(parents=True, exist_ok=True)
            targets = {k: folder / Path(m.name).name for k, m in archive.clips.items()}
            sizes = {key: member.size for key, member in archive.clips.items()}
            archive.extract(
                {
                    key: file
                    for key, file in targets.items()
                    if not (file.is_file() and file.stat().st_size == sizes[key])
                }
            )


class _Shelf:
    """Finds videos below a folder, listing each folder once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listings: dict[Path, dict[str, str]] = {}

    def find(self, names: Iterable[str]) -> Path | None:
        """The first of the names that is there, as it stands or with a video's suffix."""
        for name in names:
            path = self.root / name
            found = self._listing(path.parent).get(path.name)
            if found is not None:
                return path.with_name(found)
        return None

    def _listing(self, folder: Path) -> dict[str, str]:
        if folder not in self._listings:
            try:
                names = sorted(os.listdir(folder))  # noqa: PTH208 (names, not paths, are wanted)
            except OSError:
                names = []
            stems = {stem_of(name): name for name in reversed(names)}
            self._listings[folder] = stems | {name: name for name in names}
        return self._listings[folder]
