"""A new data set made from another, video by video, with the same splits, classes and lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from p3d.data.dataset import SPLITS, Split, VideoDataset, VideoRecord
from p3d.data.layouts import DataOptions, read_splits
from p3d.data.listing import read_text, stem_of
from p3d.data.manifest import write_manifest
from p3d.data.ucf101 import LISTS
from p3d.errors import BadVideoError, UserError, printable
from p3d.prepare.linking import remove_partial
from p3d.prepare.lists import write_lines
from p3d.prepare.parallel import parallel_map


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


_Outcome = tuple[Split, Derived | BadVideoError]


def derive(
    data: DataOptions,
    out: Path,
    make: Callable[[Path, VideoRecord], Derived],
    *,
    what: str,
    suffix: str = "",
    workers: int = 0,
    stopping: Event | None = None,
) -> Summary:
    """Make something of every video of every split, as `OUT/SPLIT/CLASS/VIDEO`.

    Lists of UCF101 are copied; other data sets get a manifest with the frame rates.

    Args:
        data: The original data set.
        out: Folder of the new one.
        make: Called in several threads with the path of a new video and the record of the original.
            Writes the new video unless it exists. Its `BadVideoError`s become part of the summary.
        what: What is made, such as "frames".
        suffix: Suffix of the new videos' names.
        workers: Number of threads; 0: one per core.
        stopping: Set when running work should stop.

    Returns:
        The summary. Broken videos are not part of the new data set.

    Raises:
        UserError: The data set cannot be read, a class name is not a folder name, two videos would
            get the same path, or a path is occupied by something else.
    """
    splits = read_splits(data)
    work = _plan(splits, out, what, suffix)
    for split in SPLITS:
        remove_partial(out / split)

    def attempt(item: tuple[Path, tuple[Split, VideoRecord]]) -> _Outcome:
        target, (split, record) = item
        try:
            return split, make(target, record)
        except BadVideoError as error:
            return split, error
        except OSError as error:
            raise UserError(f"{target}: cannot be written ({error.strerror or error})") from error

    outcomes = tuple(
        parallel_map(
            attempt,
            work.items(),
            total=len(work),
            title=what.capitalize(),
            workers=workers,
            stopping=stopping,
        )
    )
    _write_lists(data, out, splits["train"].class_names, outcomes)
    return _summarize(out, what, outcomes)


def _plan(
    splits: Mapping[Split, VideoDataset], out: Path, what: str, suffix: str
) -> dict[Path, tuple[Split, VideoRecord]]:
    """Return split and record of each original by the path of the new video."""
    work: dict[Path, tuple[Split, VideoRecord]] = {}
    for split, dataset in splits.items():
        for name in dataset.class_names:
            if Path(name).name != name or name in (".", ".."):
                raise UserError(
                    f"{name!r}: this class name cannot be a folder name; rename it without slashes"
                )
        for record in dataset.records:
            if record.label not in range(len(dataset.class_names)):
                raise UserError(f"{record.path}: has no class; give every video one")
            name = stem_of(record.path.name) + suffix
            target = out / split / dataset.class_names[record.label] / name
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
    if lists.is_dir():
        if out.resolve() != data.data.resolve():
            (out / LISTS).mkdir(parents=True, exist_ok=True)
            for path in sorted(lists.glob("*.txt")):
                write_lines(out / LISTS / path.name, read_text(path).rstrip("\n").split("\n"))
        return
    records: Mapping[Split, list[VideoRecord]] = {split: [] for split in SPLITS}
    for split, video in outcomes:
        if isinstance(video, Derived):
            records[split].append(video.record)
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
