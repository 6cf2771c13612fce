"""A data set looked over before hours are spent on it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from p3d.data.dataset import SPLITS, MissingVideosError, Split, VideoDataset, VideoRecord
from p3d.data.layouts import DataOptions, read_dataset
from p3d.data.manifest import write_manifest
from p3d.errors import BadVideoError, UserError, printable
from p3d.prepare.check_report import CheckReport, VideoFacts, write_findings
from p3d.prepare.folder import walk_videos
from p3d.prepare.options import CheckOptions
from p3d.prepare.parallel import parallel_map
from p3d.system.files import file_sha256
from p3d.video.decode import open_video
from p3d.video.packets import open_stream
from p3d.video.sources import FrameSource, chunks


def check_dataset(options: CheckOptions) -> CheckReport:
    """Decodes every video of a data set and looks for what is amiss.

    Args:
        options: See `CheckOptions`.

    Returns:
        What was found.

    Raises:
        UserError: If there is no data set, or a file that was asked for cannot be written.
    """
    splits = _read_splits(options.data)
    datasets = splits.datasets
    listed = [(split, record) for split, data in datasets.items() for record in data.records]

    def examine(item: tuple[Split, VideoRecord]) -> VideoFacts:
        return _examine(*item, all_frames=options.frames == "all")

    videos = tuple(
        parallel_map(examine, listed, total=len(listed), title="Checking", workers=options.workers)
    )
    report = CheckReport(
        class_names=next(iter(datasets.values())).class_names,
        videos=videos,
        clip_frames=options.clip_frames,
        faults=tuple(dict.fromkeys(splits.faults)),
        missing=tuple(splits.missing),
        allow_missing=options.data.allow_missing,
        duplicates=_duplicates(videos, options.workers),
        unlisted=_unlisted(options.data.data, [record.path for _, record in listed]),
    )
    if options.out is not None:
        _write(options.out, lambda path: _write_sound(path, report))
    if options.findings is not None:
        _write(options.findings, lambda path: write_findings(path, report.findings()))
    return report


def run(options: CheckOptions) -> int:
    """Checks a data set, prints the report, and returns the exit code: 0 if fit for training."""
    report = check_dataset(options)
    print("\n".join(map(printable, report.lines())))
    return 0 if report.fit else 1


@dataclass
class _Splits:
    datasets: dict[Split, VideoDataset] = field(default_factory=dict)
    missing: list[tuple[Split, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def _read_splits(options: DataOptions) -> _Splits:
    """Reads what can be read; the rest is told.

    Raises:
        UserError: No split can be read.
    """
    splits = _Splits()
    errors: list[UserError] = []
    for split in SPLITS:
        try:
            splits.datasets[split] = read_dataset(replace(options, allow_missing=True), split)
            if splits.datasets[split].missing:
                read_dataset(replace(options, allow_missing=False), split)
        except MissingVideosError as error:
            splits.missing += [(split, name) for name in error.names]
            if split not in splits.datasets and options.allow_missing:
                splits.faults.append(str(error))
            errors.append(error)
        except UserError as error:
            splits.faults.append(str(error))
            errors.append(error)
    if not splits.datasets:
        raise errors[0]
    return splits


def _examine(split: Split, record: VideoRecord, *, all_frames: bool) -> VideoFacts:
    try:
        with open_video(record.path) as video:
            _decode(video, all_frames=all_frames)
            known = replace(record, num_frames=video.num_frames, fps=video.fps)
            size = (video.width, video.height)
            return VideoFacts(split, known, size, _promised(record.path))
    except BadVideoError as error:
        return VideoFacts(split, record, reason=error.reason)


def _promised(path: Path) -> int:
    if path.is_dir():
        return 0
    container, stream = open_stream(path)
    with closing(container):
        return stream.frames


def _decode(video: FrameSource, *, all_frames: bool) -> None:
    if not all_frames:
        video.read([0, video.num_frames - 1])
        return
    for numbers in chunks(video):
        video.read(numbers)


def _duplicates(videos: Sequence[VideoFacts], workers: int) -> tuple[tuple[VideoFacts, ...], ...]:
    """Compares contents, of those alone that have the same number of bytes."""
    by_bytes: dict[int, list[VideoFacts]] = defaultdict(list)
    # Not the broken ones: reading a pipe, for one, would never end.
    for facts in (facts for facts in videos if not facts.reason):
        by_bytes[sum(path.stat().st_size for path in _files(facts))].append(facts)
    doubtful = [facts for group in by_bytes.values() if len(group) > 1 for facts in group]
    by_content: dict[tuple[str, ...], list[VideoFacts]] = defaultdict(list)
    digests = parallel_map(
        lambda facts: tuple(map(file_sha256, _files(facts))),
        doubtful,
        total=len(doubtful),
        title="Comparing",
        workers=workers,
    )
    for facts, digest in zip(doubtful, digests, strict=True):
        by_content[digest].append(facts)
    return tuple(tuple(group) for group in by_content.values() if len(group) > 1)


def _files(facts: VideoFacts) -> list[Path]:
    path = facts.record.path
    return sorted(f for f in path.iterdir() if f.is_file()) if path.is_dir() else [path]


def _unlisted(folder: Path, listed: Iterable[Path]) -> tuple[Path, ...]:
    """Video files below the folder that are none of those listed, not even by another name."""
    if not folder.is_dir():
        return ()
    known = {_identity(path) for path in listed}
    found = ((path, _identity(path)) for path in walk_videos(folder))
    return tuple(path for path, identity in found if identity and identity not in known)


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from all others whatever its name; None if it cannot be reached."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _write_sound(path: Path, report: CheckReport) -> None:
    splits: dict[Split, list[VideoRecord]] = {split: [] for split in SPLITS}
    for facts in report.sound:
        splits[facts.split].append(facts.record)
    try:
        write_manifest(path, report.class_names, splits)
    except UnicodeEncodeError as error:
        raise UserError(
            f"{path}: cannot be written in UTF-8; rename the video {printable(error.object)!r}"
        ) from error


def _write(path: Path, write: Callable[[Path], None]) -> None:
    try:
        write(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
