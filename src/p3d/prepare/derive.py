"""A data set made from another, video by video: the same splits, classes and lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from p3d.data.dataset import SPLITS, Split, VideoRecord
from p3d.data.layouts import DataOptions, read_dataset
from p3d.data.listing import stem_of
from p3d.data.manifest import write_manifest
from p3d.data.ucf101 import LISTS
from p3d.errors import BadVideoError, UserError
from p3d.prepare.parallel import parallel_map
from p3d.prepare.placing import remove_partial, write_text


@dataclass(frozen=True)
class Made:
    """One video of the new data set.

    Attributes:
        record: Where it is, with its number of frames and its rate.
        written: False where it was there already.
    """

    record: VideoRecord
    written: bool


@dataclass(frozen=True)
class Summary:
    """What was done.

    Attributes:
        out: Where the new data set is.
        what: What it holds, "frames" for instance.
        written: Videos made.
        kept: Videos that were there.
        frames: Frames of all of them.
        broken: A line on each video that could not be read.
    """

    out: Path
    what: str
    written: int
    kept: int
    frames: int
    broken: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 if no video was broken, else 1."""
        return 1 if self.broken else 0

    def lines(self) -> list[str]:
        """The summary as lines for a reader."""
        return [
            *(f"ERROR: {line}" for line in self.broken),
            f"{self.out} holds {self.frames:,} {self.what} of {self.written + self.kept:,} videos "
            f"({self.kept:,} kept, {len(self.broken):,} broken)",
        ]


@dataclass(frozen=True)
class _Outcome:
    split: Split
    made: Made | None
    error: str = ""


def derive(
    data: DataOptions,
    out: Path,
    make: Callable[[Path, VideoRecord], Made],
    *,
    what: str,
    suffix: str = "",
    workers: int = 0,
    stopping: Event | None = None,
) -> Summary:
    """Makes something of every video of every split, as `OUT/SPLIT/CLASS/VIDEO`.

    The lists of UCF101 are copied; another data set gets a manifest, which also keeps the rates.

    Args:
        data: The data set to start from.
        out: Folder of the new one.
        make: Given the place of a new video and the record of the old one, makes the new one or
            finds that it is there. Called from several threads. Its `BadVideoError` is reported.
        what: What is made, for reports: "frames" for instance.
        suffix: Behind the names of the new videos.
        workers: Number of threads; 0 takes one a processor.
        stopping: Set when work under way is to be given up.

    Returns:
        What was done. Broken videos are in it, and not in the new data set.

    Raises:
        UserError: If the data set cannot be read, two videos would share a place, or something
            else is in the way.
    """
    splits = {split: read_dataset(data, split) for split in SPLITS}
    class_names = splits["train"].class_names
    work: dict[Path, tuple[Split, VideoRecord]] = {}
    for split, dataset in splits.items():
        remove_partial(out / split)
        for record in dataset.records:
            name = stem_of(record.path.name) + suffix
            _claim(work, out / split / class_names[record.label] / name, split, record, what)

    def attempt(item: tuple[Path, tuple[Split, VideoRecord]]) -> _Outcome:
        target, (split, record) = item
        return _attempt(make, target, split, record)

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
    _write_lists(data, out, class_names, outcomes)
    return _summarise(out, what, outcomes)


def _claim(
    work: dict[Path, tuple[Split, VideoRecord]],
    target: Path,
    split: Split,
    record: VideoRecord,
    what: str,
) -> None:
    if target in work:
        raise UserError(
            f"{record.path} and {work[target][1].path}: would both become {target}; rename one"
        )
    if target.exists() and target.samefile(record.path):
        raise UserError(f"{target}: has been turned into {what} already; choose another --out")
    work[target] = (split, record)


def _attempt(
    make: Callable[[Path, VideoRecord], Made], target: Path, split: Split, record: VideoRecord
) -> _Outcome:
    try:
        return _Outcome(split, make(target, record))
    except BadVideoError as error:
        return _Outcome(split, None, str(error))
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror or error})") from error


def _write_lists(
    data: DataOptions, out: Path, class_names: Sequence[str], outcomes: Sequence[_Outcome]
) -> None:
    lists = data.data / LISTS
    if lists.is_dir():
        if out.resolve() != data.data.resolve():
            (out / LISTS).mkdir(parents=True, exist_ok=True)
            for path in sorted(lists.glob("*.txt")):
                text = path.read_text("utf-8-sig")
                write_text(out / LISTS / path.name, text.splitlines())
        return
    records: Mapping[Split, list[VideoRecord]] = {split: [] for split in SPLITS}
    for outcome in outcomes:
        if outcome.made is not None:
            records[outcome.split].append(outcome.made.record)
    write_manifest(out / "manifest.csv", class_names, records)


def _summarise(out: Path, what: str, outcomes: Sequence[_Outcome]) -> Summary:
    made = [outcome.made for outcome in outcomes if outcome.made is not None]
    written = sum(video.written for video in made)
    return Summary(
        out=out,
        what=what,
        written=written,
        kept=len(made) - written,
        frames=sum(video.record.num_frames or 0 for video in made),
        broken=tuple(outcome.error for outcome in outcomes if outcome.error),
    )
