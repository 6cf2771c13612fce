"""The command `p3d timeline`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from p3d.errors import BadVideoError, UserError, printable
from p3d.inference.arguments import Item, VideoFinder, local_path
from p3d.inference.backends.names import BackendChoice
from p3d.inference.networks import chosen_backend, load_network, make_scorer
from p3d.inference.pipe import num_threads
from p3d.inference.scorer import Scorer
from p3d.inference.timeline import strip
from p3d.inference.timeline.annotate import write_annotated
from p3d.inference.timeline.frames import check_fps, open_frames
from p3d.inference.timeline.scan import WindowScores, scan
from p3d.inference.timeline.score_log import ScoreLog
from p3d.inference.timeline.segments import CutOptions
from p3d.inference.timeline.timeline import Timeline, make_timeline
from p3d.inference.timeline.windows import WindowPlan, make_plan
from p3d.inference.timeline.writers import check_file, check_out, segment_values, write_timelines
from p3d.system.device import resolve_device, set_up_cpu
from p3d.system.files import file_sha256
from p3d.system.markers import First, Positional
from p3d.system.options import DeviceOptions
from p3d.system.progress import ProgressBar
from p3d.system.text import json_line
from p3d.video.stream import file_seconds
from p3d.weights.loading import find_weights

_ASSUMED_RATE = 25.0
"""For the guess of how many windows a video has."""


@dataclass(frozen=True)
class TimelineOptions:
    """Find when a network sees its classes in long videos. Exit code 2: some were not read."""

    videos: Positional[tuple[str | Path, ...]]
    """Video files, folders of videos or of one video's frames, lists (.txt, one path a line; .csv
    with a column path), or patterns in quotes ('films/**/*.mp4')."""
    weights: Path
    """Weights in any format that p3d reads, a run's folder, or a file of `p3d export`. A .pt2 is a
    program; use only one that you trust."""
    out: First[Path | None] = None
    """File for the segments: .csv, .tsv, .json (as ActivityNet has it), or for one video .vtt, .srt
    (subtitles) or .eaf (ELAN). The same command goes on after an interruption."""
    annotate: First[Path | None] = None
    """Write an .mp4 of the video with the labels drawn in."""
    strip: First[Path | None] = None
    """Write a picture of the scores over time, .svg or .png."""
    window: First[float | None] = None
    """Seconds of a window, over which the frames of a clip are spread evenly; by default the length
    of a clip at the rate of the weights, or at the video's own if they have none."""
    stride: First[float | None] = None
    """Seconds from one window to the next; by default half a window. With more than a window, what
    lies between is not seen."""
    cut: CutOptions = field(default_factory=CutOptions)
    json: First[bool] = False
    """Print one JSON object a video instead of tables."""
    fps: float | None = None
    """Rate of folders of frames in frames per second; by default 25. Files have their own times."""
    scores: Path | None = None
    """Keep the scores of all windows in this file. The same command with other options for the
    segments takes them from there, and does not run the network again."""
    batch_size: int | None = None
    """Windows on the device at once; by default what suits it, such as 1 of 16x160x160 on a CPU."""
    backend: BackendChoice = "auto"
    """What computes the network; auto takes an exported file's, or compiles if that saves time."""
    workers: int | None = None
    """Threads that decode while the network computes; 0 decodes in turn with it. By default what
    suits the machine."""
    compute: DeviceOptions = field(default_factory=DeviceOptions)


def run(options: TimelineOptions) -> int:
    """Run `p3d timeline` and return the exit code.

    Raises:
        UserError: An option is out of range, or the weights cannot be read.
    """
    _check(options)
    set_up_cpu(options.compute.threads)
    weights = find_weights(local_path(options.weights, "weights"))
    found = VideoFinder([str(video) for video in options.videos])
    _check_items(options, found.items)
    work = _Work(options, weights, found.items)
    timelines = list[Timeline]()
    for number, item in enumerate(found.items):
        try:
            timelines.append(work.timeline(number, item))
        except BadVideoError as error:
            print(f"p3d: error: {error}", file=sys.stderr)
            continue
        _show(timelines[-1], as_json=options.json)
    if timelines:
        _write(options, timelines, work.settings)
    work.clean_up()
    unread = len(found.items) - len(timelines)
    if unread and len(found.items) > 1:
        _note(f"{unread} of {len(found.items)} videos were not read")
    return 2 if unread else 0


def _write(options: TimelineOptions, timelines: list[Timeline], settings: dict[str, Any]) -> None:
    if options.out is not None:
        write_timelines(options.out, timelines, settings)
        _note(f"the segments are in {options.out}")
    if options.strip is not None:
        strip.write_strip(options.strip, timelines[0])
        _note(f"the picture is {options.strip}")
    if options.annotate is not None:
        write_annotated(options.annotate, timelines[0])
        _note(f"the video with labels is {options.annotate}")


def _check(options: TimelineOptions) -> None:
    if not options.videos:
        raise UserError("no videos were given; give one or more files after the options")
    if options.batch_size is not None and options.batch_size < 1:
        raise UserError(f"--batch-size is {options.batch_size}; give 1 or more")
    options.cut.check()
    check_fps(options.fps)
    if options.out is not None:
        check_out(options.out)
    for path, flag, suffixes in _pictures(options):
        if path is not None:
            check_file(path, flag, suffixes)


def _pictures(
    options: TimelineOptions,
) -> tuple[tuple[Path | None, str, tuple[str, ...]], ...]:
    """Return the files that show a single video: path, option and suffixes."""
    return (
        (options.annotate, "--annotate", (".mp4",)),
        (options.strip, "--strip", strip.SUFFIXES),
    )


def _check_items(options: TimelineOptions, items: Sequence[Item]) -> None:
    """Check that what shall be written is for so many videos."""
    if options.out is not None:
        check_out(options.out, len(items))
    for path, flag, _ in _pictures(options):
        if path is not None and len(items) != 1:
            raise UserError(f"{flag} is for one video, but there are {len(items)}; give one")
    for item in items:
        if options.annotate is not None and isinstance(item, Path) and item.is_dir():
            raise UserError(f"--annotate is for video files; {item} is a folder")


def _note(text: str) -> None:
    print(f"p3d: {printable(text)}", file=sys.stderr)


def _show(timeline: Timeline, *, as_json: bool) -> None:
    if as_json:
        values = {"video": timeline.name, "duration": round(timeline.duration, 3)}
        segments = [segment_values(segment) for segment in timeline.segments]
        print(json_line({**values, "segments": segments}), flush=True)
        return
    print(f"{printable(timeline.name)}: {timeline.describe()}")
    if timeline.segments:
        print(timeline.table())
    print(flush=True)


class _Work:
    """The network, and the scores so far."""

    def __init__(self, options: TimelineOptions, weights: Path, items: Sequence[Item]) -> None:
        self._options = options
        backend = chosen_backend(options.backend, compiled=options.compute.compile)
        network = load_network(weights, backend)
        self._plan = make_plan(network.preprocessing, options.window, options.stride)
        seconds = [_seconds(item) for item in items]
        self._seconds = dict(enumerate(seconds))
        self._scorer = make_scorer(
            network,
            resolve_device(options.compute.device),
            options.compute.precision,
            backend=backend,
            batch_size=options.batch_size,
            clips=_num_windows(self._plan, sum(filter(None, seconds))),
        )
        self._names = network.class_names or tuple(map(str, range(network.config.num_classes)))
        self._threads = num_threads(options.workers, self._scorer.device)
        self.settings = _settings(options, weights, self._plan, self._scorer)
        self._part = _part_of(options)
        self._log = ScoreLog(
            options.scores or self._part,
            {**self.settings, "classes": self._names, "videos": [_identity(i) for i in items]},
            len(self._names),
            self._scorer.batch_size,
            replace=options.scores is None,
        )
        self._report_plan()

    def _report_plan(self) -> None:
        seconds, stride = self._plan.seconds, self._plan.stride
        if seconds is not None and stride is not None and stride > seconds + 1e-9:
            _note(
                f"--stride {stride:g} is more than a window of {seconds:g} s; what lies between "
                "windows is not seen"
            )

    def timeline(self, number: int, item: Item) -> Timeline:
        """Return the timeline of a video, from its scores so far and the rest of it.

        Raises:
            BadVideoError: It cannot be read.
        """
        if isinstance(item, BadVideoError):
            raise item
        windows, duration = self._log.of(number)
        if duration is None:
            if windows:
                _note(f"{item}: goes on at {windows[-1].time:.1f} s")
            duration = self._scan(number, item, windows)
        timeline = make_timeline(item, windows, duration, self._names, self._scorer.temperature)
        return timeline.cut(self._options.cut)

    def _scan(self, number: int, path: Path, windows: list[WindowScores]) -> float:
        """Append the windows of a video that are missing; return its length in seconds."""
        on_cpu = self._scorer.device.type == "cpu"
        threads = 1 if on_cpu else self._threads
        total = self._seconds[number]
        reached = int(windows[-1].time) if windows else 0
        with (
            open_frames(path, self._scorer.preprocessing, threads, self._options.fps) as frames,
            closing(
                scan(self._scorer, self._plan.windows(frames, len(windows)), self._threads)
            ) as batches,
            ProgressBar(
                None if total is None else round(total), path.name, "s", done=reached, leave=False
            ) as bar,
        ):
            for batch in batches:
                windows += batch
                self._log.add(number, batch)
                now = int(batch[-1].time)
                bar.advance(now - reached)
                reached = now
            self._log.finish(number, frames.end)
            if faults := frames.describe_faults():
                _note(f"{path}: {faults}")
            return frames.end

    def clean_up(self) -> None:
        """Delete the scores that were kept for an interruption only."""
        if self._part is not None and self._options.scores is None:
            with suppress(OSError):
                self._part.unlink(missing_ok=True)


def _part_of(options: TimelineOptions) -> Path | None:
    out = options.out
    return None if out is None else out.with_name(f".{out.name}.part")


def _seconds(item: Item) -> float | None:
    """Return the length of a video if its header says it."""
    if isinstance(item, BadVideoError) or item.is_dir():
        return None
    try:
        return file_seconds(item)
    except BadVideoError:
        return None


def _num_windows(plan: WindowPlan, seconds: float) -> int:
    stride = plan.stride or plan.num_frames * plan.frame_stride / _ASSUMED_RATE / 2
    return round(seconds / stride)


def _settings(
    options: TimelineOptions, weights: Path, plan: WindowPlan, scorer: Scorer
) -> dict[str, Any]:
    """Return what scores depend on, as JSON values."""
    return {
        "weights": file_sha256(weights),
        "windows": asdict(plan),
        "precision": scorer.precision,
        "batch_size": scorer.batch_size,
        "fps": options.fps,
    }


def _identity(item: Item) -> list[Any]:
    """Return what changes when a video changes, as JSON values."""
    if isinstance(item, BadVideoError):
        return [str(item.path)]
    try:
        status = item.stat()
    except OSError:
        return [str(item)]
    return [str(item), status.st_size, status.st_mtime_ns]
