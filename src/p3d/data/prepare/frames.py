"""Videos as folders of JPEG frames, for where decoding is the bottleneck.

A folder appears whole or not at all. It is kept by a later run if it has as many frames as the
video, of the size asked for; otherwise it is made anew.
"""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from p3d.data.decode import FrameSource, open_video
from p3d.data.manifest import read_dataset, write_manifest
from p3d.data.prepare.chunks import chunks
from p3d.data.prepare.files import TEMPORARY, appearing, remove_partial, write_text
from p3d.data.prepare.options import FramesOptions
from p3d.data.prepare.progress import parallel_map
from p3d.data.records import SPLITS, Split, VideoRecord, stem_of
from p3d.data.transforms import resize
from p3d.data.ucf101 import LISTS
from p3d.errors import BadVideoError, UserError


@dataclass(frozen=True)
class FramesSummary:
    """What was done.

    Attributes:
        out: Where the frames are.
        written: Videos turned into frames.
        kept: Videos whose frames were there.
        frames: Frames of all of them.
        broken: A line on each video that could not be read.
    """

    out: Path
    written: int
    kept: int
    frames: int
    broken: tuple[str, ...]

    def lines(self) -> list[str]:
        """The summary as lines for a reader."""
        return [
            *(f"ERROR: {line}" for line in self.broken),
            f"{self.out} holds {self.frames:,} frames of {self.written + self.kept:,} videos "
            f"({self.kept:,} kept, {len(self.broken):,} broken)",
        ]


@dataclass(frozen=True)
class _Outcome:
    split: Split
    record: VideoRecord
    written: bool = False
    error: str = ""


def extract_frames(options: FramesOptions) -> FramesSummary:
    """Writes every video of every split as a folder of JPEG frames.

    The lists of UCF101 are copied; another data set gets a manifest, which also keeps the rates.

    Args:
        options: See `FramesOptions`.

    Returns:
        What was done. Broken videos are in it and have no folder.

    Raises:
        UserError: If the data set cannot be read, two videos would share a folder, or something
            that is not frames is in the way.
    """
    splits = {split: read_dataset(options.data, split) for split in SPLITS}
    class_names = splits["train"].class_names
    work: dict[Path, tuple[Split, VideoRecord]] = {}
    for split, dataset in splits.items():
        remove_partial(options.out / split)
        for record in dataset.records:
            stem = stem_of(record.path.name)
            target = options.out / split / class_names[record.label] / stem
            _claim(work, target, split, record)

    def extract(item: tuple[Path, tuple[Split, VideoRecord]]) -> _Outcome:
        target, (split, record) = item
        return _extract(options, target, split, record)

    outcomes = tuple(
        parallel_map(
            extract, work.items(), total=len(work), title="Frames", workers=options.workers
        )
    )
    _write_lists(options, class_names, outcomes)
    sound = [outcome for outcome in outcomes if not outcome.error]
    written = sum(outcome.written for outcome in sound)
    return FramesSummary(
        out=options.out,
        written=written,
        kept=len(sound) - written,
        frames=sum(outcome.record.num_frames or 0 for outcome in sound),
        broken=tuple(outcome.error for outcome in outcomes if outcome.error),
    )


def run(options: FramesOptions) -> int:
    """Writes frames, prints the outcome, and returns the exit code: 0 if no video was broken."""
    summary = extract_frames(options)
    print("\n".join(summary.lines()))
    return 1 if summary.broken else 0


def _claim(
    work: dict[Path, tuple[Split, VideoRecord]], target: Path, split: Split, record: VideoRecord
) -> None:
    if target in work:
        raise UserError(
            f"{record.path} and {work[target][1].path}: would both become {target}; rename one"
        )
    if target.exists() and target.samefile(record.path):
        raise UserError(f"{target}: has been turned into frames already; choose another --out")
    work[target] = (split, record)


def _extract(options: FramesOptions, target: Path, split: Split, record: VideoRecord) -> _Outcome:
    try:
        with open_video(record.path) as video:
            size = _frame_size(video, options.short_side)
            made = replace(record, path=target, num_frames=video.num_frames, fps=video.fps)
            if _finished(target, video.num_frames, size):
                return _Outcome(split, made)
            _check_replaceable(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            with appearing(target) as temporary:
                temporary.mkdir()
                _write_frames(video, temporary, target.name, size, options.quality)
                _set_aside(target)
            return _Outcome(split, made, written=True)
    except BadVideoError as error:
        return _Outcome(split, record, error=str(error))
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror or error})") from error


def _frame_size(video: FrameSource, short_side: int | None) -> tuple[int, int]:
    shorter = min(video.height, video.width)
    if short_side is None or shorter <= short_side:
        return video.height, video.width
    scale = short_side / shorter
    return round(video.height * scale), round(video.width * scale)


def _write_frames(
    video: FrameSource, folder: Path, stem: str, size: tuple[int, int], quality: int
) -> None:
    for numbers in chunks(video):
        clip = video.read(numbers)
        if size != (video.height, video.width):
            clip = resize(clip, *size)
        for number, frame in enumerate(clip.numpy(), start=numbers.start + 1):
            Image.fromarray(frame).save(folder / f"{stem}-{number:04d}.jpg", quality=quality)


def _frame_pattern(stem: str) -> re.Pattern[str]:
    return re.compile(re.escape(stem) + r"-(\d{4,})\.jpg")


def _finished(folder: Path, num_frames: int, size: tuple[int, int]) -> bool:
    """Whether a folder holds frames 1 to `num_frames` of this size and nothing else."""
    if not folder.is_dir():
        return False
    expected = {f"{folder.name}-{number:04d}.jpg" for number in range(1, num_frames + 1)}
    if {path.name for path in folder.iterdir()} != expected:
        return False
    try:
        with Image.open(folder / f"{folder.name}-{num_frames:04d}.jpg") as last:
            return last.size == (size[1], size[0])
    except OSError:
        return False


def _check_replaceable(folder: Path) -> None:
    pattern = _frame_pattern(folder.name)
    if folder.is_symlink() or folder.is_file():
        raise UserError(f"{folder}: is in the way of a folder of frames; move it, or change --out")
    for path in folder.iterdir() if folder.is_dir() else ():
        if not pattern.fullmatch(path.name):
            raise UserError(f"{path}: is no frame of this video; move it, or choose another --out")


def _set_aside(folder: Path) -> None:
    """Removes an unfinished folder, so that at no time half of it is in place."""
    if folder.is_dir():
        old = folder.with_name(f"{TEMPORARY}{uuid.uuid4().hex[:12]}-old-{folder.name}")
        folder.rename(old)
        shutil.rmtree(old)


def _write_lists(
    options: FramesOptions, class_names: Sequence[str], outcomes: Sequence[_Outcome]
) -> None:
    lists = options.data.data / LISTS
    if lists.is_dir():
        if options.out.resolve() != options.data.data.resolve():
            (options.out / LISTS).mkdir(parents=True, exist_ok=True)
            for path in sorted(lists.glob("*.txt")):
                text = path.read_text("utf-8-sig")
                write_text(options.out / LISTS / path.name, text.splitlines())
        return
    records: Mapping[Split, list[VideoRecord]] = {split: [] for split in SPLITS}
    for outcome in outcomes:
        if not outcome.error:
            records[outcome.split].append(outcome.record)
    write_manifest(options.out / "manifest.csv", class_names, records)
