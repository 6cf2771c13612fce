"""A data set looked over before hours are spent on it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from statistics import median

from p3d.data.decode import FrameSource, open_video
from p3d.data.manifest import DataOptions, read_dataset, write_manifest
from p3d.data.packets import open_stream
from p3d.data.prepare.chunks import chunks
from p3d.data.prepare.files import file_sha256
from p3d.data.prepare.folder import walk_videos
from p3d.data.prepare.options import CheckOptions
from p3d.data.prepare.progress import parallel_map
from p3d.data.records import SPLITS, Split, VideoDataset, VideoRecord
from p3d.errors import BadVideoError, UserError, printable

SHOWN = 10
"""Lines of one kind that a report shows; the rest is counted."""


@dataclass(frozen=True)
class VideoFacts:
    """What was found out about a video.

    Attributes:
        split: Where it belongs.
        record: The video, with its number of frames and its rate where it is sound.
        size: Width and height in pixels; zeros where it is broken.
        promised: How many frames its header says it has; 0 where it says nothing.
        reason: Why it is broken; empty where it is sound.
    """

    split: Split
    record: VideoRecord
    size: tuple[int, int] = (0, 0)
    promised: int = 0
    reason: str = ""

    @property
    def incomplete(self) -> bool:
        """Whether frames are lacking that its header promises, but for a few that never were."""
        lacking = self.promised - (self.record.num_frames or 0)
        return not self.reason and lacking > max(2, self.promised // 50)


@dataclass(frozen=True)
class CheckReport:
    """What is to be said of a data set.

    Attributes:
        class_names: Its classes.
        videos: Facts on every video that is there.
        clip_frames: What counts as long enough.
        faults: Lines on missing videos and on splits that cannot be read.
        duplicates: Groups of videos with the same content.
        unlisted: Videos in its folder that no list names.
    """

    class_names: tuple[str, ...]
    videos: tuple[VideoFacts, ...]
    clip_frames: int
    faults: tuple[str, ...]
    duplicates: tuple[tuple[VideoFacts, ...], ...]
    unlisted: tuple[Path, ...]

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
        """Sound videos that were cut off or damaged."""
        return tuple(facts for facts in self.videos if facts.incomplete)

    @property
    def untaught(self) -> tuple[str, ...]:
        """Classes without a sound training video."""
        taught = {facts.record.label for facts in self.sound if facts.split == "train"}
        return tuple(n for label, n in enumerate(self.class_names) if label not in taught)

    @property
    def fit(self) -> bool:
        """Whether training would run through: nothing missing, nothing broken."""
        return not (self.faults or self.broken)

    def lines(self) -> list[str]:
        """The report as lines for a reader, the worst first."""
        leaks = [group for group in self.duplicates if len({f.split for f in group}) > 1]
        inside = [group for group in self.duplicates if len({f.split for f in group}) == 1]
        return [
            *(f"ERROR: {fault}" for fault in self.faults),
            *_some("ERROR", "broken", (f"{f.record.path}: {f.reason}" for f in self.broken)),
            *_some(
                "WARNING",
                "cut off or damaged",
                (
                    f"{f.record.path}: {f.record.num_frames} of {f.promised} frames"
                    for f in self.incomplete
                ),
            ),
            *_some("WARNING", "the same content in two splits", map(_paths, leaks)),
            *_some("WARNING", "the same content twice", map(_paths, inside)),
            *_some("WARNING", "classes without a training video", self.untaught),
            *_some(
                "note",
                f"shorter than {self.clip_frames} frames",
                (f"{f.record.path} ({f.record.num_frames})" for f in self.short),
            ),
            *_some("note", "in the folder, but in no list", map(str, self.unlisted)),
            *_statistics(self),
            "fit for training" if self.fit else "NOT fit for training: mend the errors above",
        ]


def check_dataset(options: CheckOptions) -> CheckReport:
    """Decodes every video of a data set and looks for what is amiss.

    Args:
        options: See `CheckOptions`.

    Returns:
        What was found.

    Raises:
        UserError: If there is no data set, or `options.out` cannot be written.
    """
    datasets, faults = _read_splits(options.data)
    if not datasets:
        raise UserError(faults[0])
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
        faults=faults,
        duplicates=_duplicates(videos, options.workers),
        unlisted=_unlisted(options.data.data, [record.path for _, record in listed]),
    )
    if options.out is not None:
        _write(options.out, report)
    return report


def run(options: CheckOptions) -> int:
    """Checks a data set, prints the report, and returns the exit code: 0 if fit for training."""
    report = check_dataset(options)
    print("\n".join(map(printable, report.lines())))
    return 0 if report.fit else 1


def _read_splits(options: DataOptions) -> tuple[Mapping[Split, VideoDataset], tuple[str, ...]]:
    """Reads what can be read; the rest is told. Missing videos are a fault unless allowed."""
    datasets: dict[Split, VideoDataset] = {}
    faults: dict[str, None] = {}
    for split in SPLITS:
        try:
            datasets[split] = read_dataset(replace(options, allow_missing=True), split)
            if datasets[split].missing and not options.allow_missing:
                read_dataset(options, split)
        except UserError as error:
            faults[str(error)] = None
    return datasets, tuple(faults)


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


def _write(path: Path, report: CheckReport) -> None:
    splits: dict[Split, list[VideoRecord]] = {split: [] for split in SPLITS}
    for facts in report.sound:
        splits[facts.split].append(facts.record)
    try:
        write_manifest(path, report.class_names, splits)
    except UnicodeEncodeError as error:
        raise UserError(
            f"{path}: cannot be written in UTF-8; rename the video {printable(error.object)!r}"
        ) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def _some(level: str, what: str, items: Iterable[str]) -> list[str]:
    every = list(items)
    if not every:
        return []
    rest = [f"  and {len(every) - SHOWN:,} more"] if len(every) > SHOWN else []
    return [f"{level}: {what}: {len(every):,}", *(f"  {item}" for item in every[:SHOWN]), *rest]


def _paths(group: Sequence[VideoFacts]) -> str:
    return " = ".join(f"{facts.record.path} ({facts.split})" for facts in group)


def _statistics(report: CheckReport) -> list[str]:
    lines = []
    for split in SPLITS:
        labels = Counter(f.record.label for f in report.sound if f.split == split)
        if labels:
            counts = [labels[label] for label in range(len(report.class_names))]
            lines.append(
                f"{split}: {sum(counts):,} videos, {_range(counts)} a class of {len(counts):,}"
            )
    if report.sound:
        frames = [facts.record.num_frames or 0 for facts in report.sound]
        sizes = Counter(f"{width}x{height}" for width, height in (f.size for f in report.sound))
        rates = Counter(f"{facts.record.fps:.4g}" for facts in report.sound)
        lines.append(f"frames: {_range(frames)}; sizes: {_most(sizes)}; rates: {_most(rates)}")
    return lines


def _range(values: Sequence[int]) -> str:
    return f"{min(values):,} to {max(values):,} (median {median(values):,.0f})"


def _most(counter: Counter[str]) -> str:
    shown = [f"{value} ({count:,})" for value, count in counter.most_common(5)]
    return ", ".join(chain(shown, ["..."] if len(counter) > 5 else []))
