"""A new data set made from another, file by file, with the same splits, classes and lists.

A file with segments is made once and as a whole, so that the times of its segments still hold, and
the parts between them are there for `--background`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from p3d.archive.machines import Machine
from p3d.archive.notes import Notes, write_bad
from p3d.archive.run import run_work
from p3d.archive.work import OneStage, Work
from p3d.data.dataset import Part, VideoDataset, VideoRecord
from p3d.data.layouts import DataOptions, check_apart, read_parts
from p3d.data.listing import read_text, stem_of
from p3d.data.manifest_writer import write_manifest
from p3d.data.track import check_segment, track_of
from p3d.data.ucf101 import LISTS
from p3d.errors import BadVideoError, UserError, printable
from p3d.prepare.linking import remove_partial
from p3d.prepare.lists import write_lines
from p3d.system.files import GOES_ON, writing
from p3d.system.folders import lock_folder, make_folder, results_folder
from p3d.system.text import counted
from p3d.video.sources import FrameSource

SEGMENTED = "segmented"
"""Folder of the files with segments, which belong to no single class."""


@dataclass(frozen=True)
class Derived:
    """One file of the new data set.

    Attributes:
        records: What becomes of each record of the original file: a new one with its number of
            frames and frame rate, or the reason why there is none.
        num_frames: Number of frames of the file.
        written: False if it existed already.
    """

    records: tuple[VideoRecord | BadVideoError, ...]
    num_frames: int
    written: bool


def describe(
    records: Sequence[VideoRecord], target: Path, source: FrameSource, *, written: bool
) -> Derived:
    """Describe a new file.

    Args:
        records: The records of the original file.
        target: The new file.
        source: Its frames, with their times.
        written: False if it existed already.
    """

    def new(record: VideoRecord) -> VideoRecord | BadVideoError:
        try:
            check_segment(record.name, source, record.segment)
        except BadVideoError as error:
            return error
        length = track_of(source, None, record.segment).length
        return replace(record, path=target, num_frames=length, fps=source.fps)

    return Derived(tuple(map(new, records)), source.num_frames, written)


@dataclass(frozen=True)
class Summary:
    """What was done.

    Attributes:
        out: The new data set.
        what: What it holds, such as "frames".
        written: Number of files written.
        kept: Number of files that existed already.
        frames: Number of frames of all of them.
        broken: A line for each file that cannot be read, and each segment outside its file.
    """

    out: Path
    what: str
    written: int
    kept: int
    frames: int
    broken: tuple[str, ...]

    def print(self) -> int:
        """Print the summary, and return the exit code: 0 if no video is broken, else 1."""
        for line in self.broken:
            print(f"ERROR: {printable(line)}")
        print(
            f"{printable(self.out)} holds {self.frames:,} {self.what} of "
            f"{counted(self.written + self.kept, 'video')} ({self.kept:,} kept, "
            f"{len(self.broken):,} broken)"
        )
        return 1 if self.broken else 0


Item = tuple[Path, tuple[VideoRecord, ...]]
"""What a worker gets: the path of a new file, and all records of the original one."""

_Plan = Mapping[Path, tuple[Part, tuple[VideoRecord, ...]]]
"""Split and records of each original file, by the path of the new one."""


def stages(make: Callable[[Path, Sequence[VideoRecord]], Derived], threads: int = 0) -> OneStage:
    """Return what a worker of `derive` does.

    Args:
        make: Writes a new file completely or not at all, unless it exists.
        threads: Threads that call it; 0 makes one file after another.
    """

    def attempt(item: Item) -> Derived:
        target, records = item
        with writing(target, GOES_ON):
            return make(target, records)

    return OneStage(attempt, threads)


def derive(
    data: DataOptions,
    out: Path,
    work: Work,
    machine: Machine,
    *,
    what: str,
    suffix: str = "",
    in_place: bool = False,
) -> Summary:
    """Make something of every video of every split, as `OUT/SPLIT/CLASS/VIDEO`.

    If nothing divides the videos, they become `OUT/CLASS/VIDEO`. A file with segments is made once,
    as `OUT/SPLIT/segmented/VIDEO`. Lists of UCF101 are copied; other data sets, and those divided
    by a rule, get a manifest with the frame rates, in the order of the original.

    Args:
        data: The original data set.
        out: Folder of the new one.
        work: What the workers do, see `stages`. Videos that cannot be read, and those that kill
            their workers, become part of the summary.
        machine: Where they run. All of its machines have the videos and `out` by the same paths.
        what: What is made, such as "frames".
        suffix: Suffix of the new videos' names.
        in_place: Whether the folder may be that of the original data set, if it has UCF101's lists.

    Returns:
        The summary. Broken videos, and segments that start after the end of their file, are not
        part of the new data set.

    Raises:
        UserError: The data set cannot be read, or the new one would become a part of it; a class
            name is not a folder name, two videos would get the same path, or a path is occupied by
            something else.
        SystemExit: SIGINT or SIGTERM stopped it.
    """
    parts = read_parts(data)
    plan = _plan(parts, out, what, suffix)
    if not (in_place and (data.data / LISTS).is_dir() and out.resolve() == data.data.resolve()):
        check_apart(data.data, out, (records[0].path for _, records in plan.values()))
    with results_folder(out), lock_folder(out):
        notes = _make_files(plan, out, work, machine, what)
        _write_lists(data, out, parts, _new_records(plan, notes))
        errors = list(_errors(plan, notes))
        write_bad(out, [(error.path, error.reason) for error in errors])
    return _summarize(out, what, notes.done.values(), errors)


def _make_files(plan: _Plan, out: Path, work: Work, machine: Machine, what: str) -> Notes:
    """Make all files that are not there yet, and return what is known of each."""
    _remove_partial(plan)
    notes = Notes(out)
    items = {str(target): _item(target, records) for target, (_, records) in plan.items()}
    run_work(items, work, machine, notes, what.capitalize())
    _remove_partial(plan)
    return notes


def _remove_partial(targets: Iterable[Path]) -> None:
    """Remove what killed processes left."""
    for folder in {target.parent.parent for target in targets}:
        remove_partial(folder)


def _item(target: Path, records: Sequence[VideoRecord]) -> Item:
    """Return what a worker gets, whose working folder may be another."""
    return target.absolute(), tuple(replace(r, path=r.path.absolute()) for r in records)


def _new_records(plan: _Plan, notes: Notes) -> dict[tuple[Part, VideoRecord], VideoRecord]:
    """Return the new records by the split and the original record."""
    return {
        (split, old): replace(new, path=target)
        for target, (split, records) in plan.items()
        if (derived := notes.done.get(str(target)))
        for old, new in zip(records, derived.records, strict=True)
        if isinstance(new, VideoRecord)
    }


def _errors(plan: _Plan, notes: Notes) -> Iterator[BadVideoError]:
    """Yield why there is no new file, or no new record of a segment."""
    for target, (_, records) in plan.items():
        if reason := notes.bad.get(str(target)):
            yield BadVideoError(records[0].path, reason)
            continue
        for old, new in zip(records, notes.done[str(target)].records, strict=True):
            if isinstance(new, BadVideoError):
                yield BadVideoError(old.name, new.reason)


def _plan(
    parts: Mapping[Part, VideoDataset], out: Path, what: str, suffix: str
) -> dict[Path, tuple[Part, tuple[VideoRecord, ...]]]:
    """Return what is made, see `_Plan`."""
    plan: dict[Path, tuple[Part, tuple[VideoRecord, ...]]] = {}
    for split, dataset in parts.items():
        _check_classes(dataset)
        for records in _by_file(dataset.records):
            first = records[0]
            folder = SEGMENTED if first.fragment else dataset.class_names[first.label]
            target = out / (split or "") / folder / (stem_of(first.path.name) + suffix)
            if target in plan:
                other = plan[target][1][0].path
                raise UserError(f"{first.path} and {other}: both would become {target}; rename one")
            if target.exists() and target.samefile(first.path):
                raise UserError(f"{target}: is converted to {what} already; choose another --out")
            plan[target] = (split, records)
    return plan


def _check_classes(dataset: VideoDataset) -> None:
    for name in dataset.class_names:
        if not all(folder not in ("", ".", "..") for folder in name.split("/")):
            raise UserError(f"{name!r}: this class name cannot be a folder name; rename it")
    for record in dataset.records:
        if record.label not in range(len(dataset.class_names)):
            raise UserError(f"{record.path}: has no class; give every video one")


def _by_file(records: Iterable[VideoRecord]) -> Iterator[tuple[VideoRecord, ...]]:
    """Yield the segments of each file, and each whole file."""
    segments: dict[Path, list[VideoRecord]] = {}
    for record in records:
        if record.fragment:
            segments.setdefault(record.path, []).append(record)
        else:
            yield (record,)
    yield from map(tuple, segments.values())


def _write_lists(
    data: DataOptions,
    out: Path,
    parts: Mapping[Part, VideoDataset],
    new: Mapping[tuple[Part, VideoRecord], VideoRecord],
) -> None:
    lists = data.data / LISTS
    if lists.is_dir() and not data.splits.divides:
        if out.resolve() != data.data.resolve():
            make_folder(out / LISTS)
            # classInd.txt last, since a set without it is none: until then, a list may be missing.
            for path in sorted(lists.glob("*.txt"), key=lambda path: path.name == "classInd.txt"):
                write_lines(out / LISTS / path.name, read_text(path).rstrip("\n").split("\n"))
        return
    records = {
        split: [new[split, old] for old in dataset.records if (split, old) in new]
        for split, dataset in parts.items()
    }
    class_names = next(iter(parts.values())).class_names
    write_manifest(out / "manifest.csv", class_names, records)


def _summarize(
    out: Path, what: str, files: Collection[Derived], errors: Sequence[BadVideoError]
) -> Summary:
    written = sum(file.written for file in files)
    return Summary(
        out=out,
        what=what,
        written=written,
        kept=len(files) - written,
        frames=sum(file.num_frames for file in files),
        broken=tuple(map(str, errors)),
    )
