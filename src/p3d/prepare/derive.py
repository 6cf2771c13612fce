"""A new data set made from another, video by video, with the same splits, classes and lists."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from p3d.archive.machines import Machine
from p3d.archive.notes import Notes, write_bad
from p3d.archive.run import run_work
from p3d.archive.work import OneStage, Work
from p3d.data.dataset import Part, VideoDataset, VideoRecord
from p3d.data.layouts import DataOptions, read_parts
from p3d.data.listing import read_text, stem_of
from p3d.data.manifest import write_manifest
from p3d.data.ucf101 import LISTS
from p3d.errors import BadVideoError, UserError, printable
from p3d.prepare.linking import remove_partial
from p3d.prepare.lists import write_lines
from p3d.system.files import lock_folder, make_folder


@dataclass(frozen=True)
class Derived:
    """One video of the new data set.

    Attributes:
        record: Its path, label, number of frames and frame rate.
        written: False if it existed already.
    """

    record: VideoRecord
    written: bool


@dataclass(frozen=True)
class Summary:
    """What was done.

    Attributes:
        out: The new data set.
        what: What it holds, such as "frames".
        written: Number of videos written.
        kept: Number of videos that existed already.
        frames: Number of frames of all of them.
        broken: A line for each video that cannot be read.
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
            f"{self.written + self.kept:,} videos ({self.kept:,} kept, {len(self.broken):,} broken)"
        )
        return 1 if self.broken else 0


Item = tuple[Path, VideoRecord]
"""What a worker gets: the path of a new video, and the record of the original."""

_Outcome = tuple[Part, Derived | BadVideoError]


def stages(make: Callable[[Path, VideoRecord], Derived], threads: int = 0) -> OneStage:
    """Return what a worker of `derive` does.

    Args:
        make: Writes a new video completely or not at all, unless it exists.
        threads: Threads that call it; 0 makes one video after another.
    """

    def attempt(item: Item) -> Derived:
        target, record = item
        try:
            return make(target, record)
        except OSError as error:
            raise UserError(f"{target}: cannot be written ({error.strerror or error})") from error

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

    If nothing divides the videos, they become `OUT/CLASS/VIDEO`. Lists of UCF101 are copied; other
    data sets, and those divided by a rule, get a manifest with the frame rates.

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
        The summary. Broken videos are not part of the new data set.

    Raises:
        UserError: The data set cannot be read, or the new one would become a part of it; a class
            name is not a folder name, two videos would get the same path, or a path is occupied by
            something else.
        SystemExit: SIGINT or SIGTERM stopped it.
    """
    parts = read_parts(data)
    plan = _plan(parts, out, what, suffix)
    if not (in_place and (data.data / LISTS).is_dir() and out.resolve() == data.data.resolve()):
        _check_out(data.data, out, (record.path for _, record in plan.values()))
    make_folder(out)
    with lock_folder(out):
        _remove_partial(plan)
        notes = Notes(out)
        items = {str(target): _item(target, record) for target, (_, record) in plan.items()}
        run_work(items, work, machine, notes, what.capitalize())
        _remove_partial(plan)
        outcomes = [
            (split, _outcome(notes, target, record)) for target, (split, record) in plan.items()
        ]
        class_names = next(iter(parts.values())).class_names
        _write_lists(data, out, class_names, outcomes)
        errors = [video for _, video in outcomes if isinstance(video, BadVideoError)]
        write_bad(out, [(error.path, error.reason) for error in errors])
    return _summarize(out, what, outcomes)


def _remove_partial(targets: Iterable[Path]) -> None:
    """Remove what killed processes left."""
    for folder in {target.parent.parent for target in targets}:
        remove_partial(folder)


def _item(target: Path, record: VideoRecord) -> Item:
    """Return what a worker gets, whose working folder may be another."""
    return target.absolute(), replace(record, path=record.path.absolute())


def _outcome(notes: Notes, target: Path, record: VideoRecord) -> Derived | BadVideoError:
    if reason := notes.bad.get(str(target)):
        return BadVideoError(record.path, reason)
    derived: Derived = notes.done[str(target)]
    return replace(derived, record=replace(derived.record, path=target))


def _check_out(data: Path, out: Path, videos: Iterable[Path]) -> None:
    """Check that new videos in a folder do not become a part of the data set.

    Raises:
        UserError: They would.
    """
    source, target = data.resolve(), out.resolve()
    if target in (source, source.parent):
        raise UserError(f"--out {out}: holds the data set itself; choose another folder")
    has_lists = (data / LISTS).is_dir()
    if not has_lists and (data.is_file() or (data / "manifest.csv").is_file()):
        return  # only what the manifest lists is a part of it
    folders = {video.parent.resolve() for video in videos} | (set() if has_lists else {source})
    if inside := folders & {target, *target.parents}:
        raise UserError(
            f"--out {out}: would become a part of the data set, since it is inside {min(inside)}; "
            "choose a folder elsewhere"
        )


def _plan(
    parts: Mapping[Part, VideoDataset], out: Path, what: str, suffix: str
) -> dict[Path, tuple[Part, VideoRecord]]:
    """Return split and record of each original by the path of the new video."""
    work: dict[Path, tuple[Part, VideoRecord]] = {}
    for split, dataset in parts.items():
        for name in dataset.class_names:
            if not all(folder not in ("", ".", "..") for folder in name.split("/")):
                raise UserError(f"{name!r}: this class name cannot be a folder name; rename it")
        for record in dataset.records:
            if record.label not in range(len(dataset.class_names)):
                raise UserError(f"{record.path}: has no class; give every video one")
            if record.fragment:
                raise UserError(
                    f"{record.name}: is a segment, and {what} are made of whole videos; train on "
                    "the videos themselves, or cut them into files first"
                )
            name = stem_of(record.path.name) + suffix
            target = out / (split or "") / dataset.class_names[record.label] / name
            if target in work:
                raise UserError(
                    f"{record.path} and {work[target][1].path}: both would become {target}; "
                    "rename one"
                )
            if target.exists() and target.samefile(record.path):
                raise UserError(f"{target}: is converted to {what} already; choose another --out")
            work[target] = (split, record)
    return work


def _write_lists(
    data: DataOptions, out: Path, class_names: Sequence[str], outcomes: Sequence[_Outcome]
) -> None:
    lists = data.data / LISTS
    if lists.is_dir() and not data.splits.divides:
        if out.resolve() != data.data.resolve():
            (out / LISTS).mkdir(parents=True, exist_ok=True)
            for path in sorted(lists.glob("*.txt")):
                write_lines(out / LISTS / path.name, read_text(path).rstrip("\n").split("\n"))
        return
    records: dict[Part, list[VideoRecord]] = {}
    for split, video in outcomes:
        if isinstance(video, Derived):
            records.setdefault(split, []).append(video.record)
    write_manifest(out / "manifest.csv", class_names, records)


def _summarize(out: Path, what: str, outcomes: Sequence[_Outcome]) -> Summary:
    derived = [video for _, video in outcomes if isinstance(video, Derived)]
    written = sum(video.written for video in derived)
    return Summary(
        out=out,
        what=what,
        written=written,
        kept=len(derived) - written,
        frames=sum(video.record.num_frames or 0 for video in derived),
        broken=tuple(str(error) for _, error in outcomes if isinstance(error, BadVideoError)),
    )
