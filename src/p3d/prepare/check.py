"""Checks of a data set before training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from p3d.archive.machines import open_machine
from p3d.archive.notes import Notes
from p3d.archive.run import run_work
from p3d.archive.work import OneStage
from p3d.data.dataset import (
    Listing,
    MissingVideosError,
    Part,
    VideoDataset,
    VideoRecord,
)
from p3d.data.layouts import list_dataset
from p3d.data.manifest_writer import write_manifest
from p3d.data.track import Track, open_record, track_of
from p3d.errors import BadVideoError, UserError, printable
from p3d.prepare.check_report import CheckReport
from p3d.prepare.findings import VideoFacts, write_findings
from p3d.prepare.folder import walk_videos
from p3d.prepare.options import CheckOptions
from p3d.prepare.same_content import find_same_content
from p3d.system.device import set_up_cpu
from p3d.system.files import check_no_input
from p3d.system.folders import make_folder
from p3d.system.machine import num_cores
from p3d.video.packets import open_stream
from p3d.video.sources import FrameSource, chunks


def check_dataset(options: CheckOptions) -> CheckReport:
    """Decode every video of a data set and look for problems.

    Raises:
        UserError: There is no data set, or a requested file cannot be written.
    """
    for path, flag in ((options.out, "--out"), (options.findings, "--findings")):
        if path is not None:
            _check_writable(path, flag)
            check_no_input(path, flag, (options.data.data, options.data.data / "manifest.csv"))
    listing = list_dataset(options.data)
    datasets, faults = _read_parts(listing, allow_missing=options.data.allow_missing)
    listed = [(split, record) for split, data in datasets.items() for record in data.records]
    videos = _examine_all(listed, options)
    report = CheckReport(
        class_names=listing.class_names,
        videos=videos,
        clip_frames=options.clip_frames,
        faults=faults,
        missing=tuple(
            (part, name) for part in listing.parts for name in listing.missing_from(part)
        ),
        allow_missing=options.data.allow_missing,
        duplicates=_find_duplicates(videos, options.workers),
        unlisted=_find_unlisted(options.data.data, [record.path for _, record in listed]),
        ignored=listing.ignored,
        notes=listing.notes,
    )
    if options.out is not None:
        _write_sound(options.out, report)
    if options.findings is not None:
        write_findings(options.findings, report.findings())
    return report


def run(options: CheckOptions) -> int:
    """Check a data set, print the report, and return the exit code: 0 if fit for training."""
    report = check_dataset(options)
    print("\n".join(map(printable, report.lines())))
    return 0 if report.fit else 1


def _read_parts(
    listing: Listing, *, allow_missing: bool
) -> tuple[dict[Part, VideoDataset], dict[Part, str]]:
    """Return the splits that can be read, and the errors of the others."""
    datasets: dict[Part, VideoDataset] = {}
    faults: dict[Part, str] = {}
    errors: list[UserError] = []
    for part in listing.parts:
        try:
            datasets[part] = listing.dataset(part, allow_missing=True)
        except UserError as error:
            errors.append(error)
            # Without allow_missing, the report names the missing videos.
            if allow_missing or not isinstance(error, MissingVideosError):
                faults[part] = str(error)
    if not datasets:
        raise errors[0]
    return datasets, faults


@dataclass(frozen=True)
class _Work:
    """See `p3d.archive.work.Work`."""

    all_frames: bool

    def start(self, number: int) -> OneStage:  # noqa: ARG002
        set_up_cpu(1)
        return OneStage(partial(examine, all_frames=self.all_frames))


def _examine_all(
    listed: Sequence[tuple[Part, VideoRecord]], options: CheckOptions
) -> tuple[VideoFacts, ...]:
    """Return the facts about all videos; those that kill the decoder's process are broken."""
    items = {str(number): item for number, item in enumerate(listed)}
    notes = Notes(None)
    work = _Work(options.frames == "all")
    with open_machine(None, options.workers or num_cores(), "cpu", 1) as machine:
        run_work(items, work, machine, notes, "Checking")
    dead = {name: VideoFacts(*items[name], reason=reason) for name, reason in notes.bad.items()}
    facts = notes.done | dead
    return tuple(facts[name] for name in items)


def examine(item: tuple[Part, VideoRecord], *, all_frames: bool) -> VideoFacts:
    """Return the facts about a video: its first and last frame can be decoded, or all."""
    split, record = item
    try:
        with open_record(record) as video:
            track = track_of(video, None, record.segment)
            _decode(video, track, all_frames=all_frames)
            known = replace(record, num_frames=track.length, fps=video.fps)
            size = (video.width, video.height)
            # What a file lacks is missing from each of its segments.
            promised = max(0, int(_promised_frames(record.path)) - video.num_frames + track.length)
            return VideoFacts(
                split,
                known,
                size,
                promised,
                num_missing=video.num_missing,
                duration=video.duration,
            )
    except BadVideoError as error:
        return VideoFacts(split, record, reason=error.reason)


def _promised_frames(path: Path) -> float:
    if path.is_dir():
        return 0
    container, stream = open_stream(path)
    with closing(container):
        return min(stream.frames, _num_kept(container, stream))


def _num_kept(container: InputContainer, stream: VideoStream) -> float:
    """Return how many frames the edit list of an MP4 or MOV file keeps, of a trimmed video."""
    if "mov" not in container.format.name.split(","):
        return math.inf
    # Of all frames that are stored, FFmpeg's index has those that are needed for the kept ones.
    entries = getattr(stream, "index_entries", None)  # not in older PyAV
    return math.inf if entries is None else sum(not entry.is_discard for entry in entries)


def _decode(video: FrameSource, track: Track, *, all_frames: bool) -> None:
    first, last = track.frames(np.array([0, track.length - 1])).tolist()
    if not all_frames:
        video.read([first, last])
        return
    for indices in chunks(video):
        if part := [frame for frame in indices if first <= frame <= last]:
            video.read(part)


def _find_duplicates(
    videos: Sequence[VideoFacts], workers: int
) -> tuple[tuple[VideoFacts, ...], ...]:
    """Return groups of videos with equal contents; the segments of a file are one."""
    files = {facts.record.path: facts for facts in reversed(videos)}
    # A broken one may be an endless pipe.
    sound = [facts for facts in reversed(files.values()) if not facts.reason]
    groups = find_same_content([facts.record.path for facts in sound], workers)
    return tuple(tuple(sound[position] for position in group) for group in groups)


def _find_unlisted(folder: Path, listed: Iterable[Path]) -> tuple[Path, ...]:
    """Return the video files below a folder that are not listed; links are followed."""
    if not folder.is_dir():
        return ()
    known = {_file_id(path) for path in listed}
    found = ((path, _file_id(path)) for path in walk_videos(folder))
    return tuple(path for path, file_id in found if file_id and file_id not in known)


def _file_id(path: Path) -> tuple[int, int] | None:
    """Return device and inode of a file, None for a broken link."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _write_sound(path: Path, report: CheckReport) -> None:
    parts: dict[Part, list[VideoRecord]] = {}
    for facts in report.sound:
        parts.setdefault(facts.split, []).append(facts.record)
    write_manifest(path, report.class_names, parts)


def _check_writable(path: Path, flag: str) -> None:
    make_folder(path.parent, flag)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give the name of a CSV file in it")
