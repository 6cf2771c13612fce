"""The command `p3d timeline`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from p3d.errors import BadVideoError, printable
from p3d.inference.arguments import Item, VideoFinder
from p3d.inference.pipe import num_threads
from p3d.inference.timeline.annotate import write_annotated
from p3d.inference.timeline.folder import run_folder
from p3d.inference.timeline.frames import open_frames
from p3d.inference.timeline.live import LivePrinter
from p3d.inference.timeline.live_queue import LiveQueue, LiveReader
from p3d.inference.timeline.network import TimelineNetwork
from p3d.inference.timeline.options import TimelineOptions
from p3d.inference.timeline.scan import WindowScores, scan
from p3d.inference.timeline.score_log import ScoreLog
from p3d.inference.timeline.strip import write_strip
from p3d.inference.timeline.timeline import Timeline, make_timeline
from p3d.inference.timeline.writers import segment_values, write_timelines
from p3d.inference.two_streams import check_networks, split_weights
from p3d.system.device import set_up_cpu
from p3d.system.messages import print_note
from p3d.system.progress import ProgressBar
from p3d.system.signals import StopRequest
from p3d.system.text import json_line
from p3d.video.live import LiveSource, find_live_source
from p3d.video.remote import is_address
from p3d.video.stream import file_seconds

_WAITING_WINDOWS = 16
"""Windows of a live stream that wait for the network, at least."""


def run(options: TimelineOptions) -> int:
    """Run `p3d timeline` and return the exit code.

    Raises:
        UserError: An option is out of range, the weights cannot be read, or a live stream is lost.
    """
    networks, words = split_weights(options.weights, options.videos)
    check_networks(networks, options.fusion)
    options = replace(options, videos=tuple(words))
    options.check()
    sources = [find_live_source(word, is_address=is_address(word)) for word in words]
    source = next(filter(None, sources), None)
    if source is not None:
        options.check_live()
    set_up_cpu(options.compute.threads)
    if source is not None:
        return _watch(source, options, networks)
    found = VideoFinder(words)
    options.check_items(found.items)
    if options.has_folder:
        found.check_found()
        return run_folder(options, networks, found.items)
    return _Files(options, networks, found.items).run()


def _watch(source: LiveSource, options: TimelineOptions, networks: Sequence[Path]) -> int:
    """Print the segments of a live stream until it ends, and return the exit code."""
    network = TimelineNetwork(options, networks, None, options.batch_size or 1)
    scorer, live = network.scorer, options.live
    drops = live.drop == "yes" or (live.drop == "auto" and not source.can_wait)
    queue = LiveQueue(max(_WAITING_WINDOWS, 2 * scorer.batch_size), drops=drops)
    reader = LiveReader(source, scorer.windows, live.stall, live.retry, queue)
    printer = LivePrinter(
        source.name,
        scorer,
        network.names,
        network.plan,
        network.cut,
        options.windows,
        network.cut_note,
    )
    with StopRequest() as stop:
        reader.start()
        try:
            printer.run(queue, stop)
        finally:
            if options.out is not None:
                timeline = printer.timeline()
                write_timelines(options.out, [timeline], network.all_settings)
                print_note(f"the segments are in {options.out}")
    return stop.exit_code if stop.is_set else 0


class _Files:
    """The timelines of files, from the scores so far and the rest of them."""

    def __init__(
        self, options: TimelineOptions, networks: Sequence[Path], items: Sequence[Item]
    ) -> None:
        self._options, self._items = options, items
        self._seconds = [_seconds(item) for item in items]
        self._network = network = TimelineNetwork(
            options, networks, sum(filter(None, self._seconds)), options.batch_size
        )
        self._threads = num_threads(options.workers, network.scorer.device)
        out = options.out
        self._part = None if out is None else out.with_name(f".{out.name}.part")
        self._log = ScoreLog(
            options.scores or self._part,
            {
                **network.settings,
                "classes": network.names,
                "videos": [_identity(item) for item in items],
            },
            len(network.names),
            network.scorer.batch_size,
            restart=options.scores is None,
        )

    def run(self) -> int:
        """Print and write the timelines, and return the exit code."""
        timelines = list[Timeline]()
        for number, item in enumerate(self._items):
            try:
                timelines.append(self._timeline(number, item))
            except BadVideoError as error:
                print(f"p3d: error: {error}", file=sys.stderr)
                continue
            if len(timelines) == 1:
                print_note(self._network.cut_note)
            _show(timelines[-1], self._options)
        if timelines:
            self._write(timelines)
        if self._part is not None and self._options.scores is None:
            with suppress(OSError):
                self._part.unlink(missing_ok=True)
        unread = len(self._items) - len(timelines)
        if unread and len(self._items) > 1:
            print_note(f"{unread} of {len(self._items)} videos were not read")
        return 2 if unread else 0

    def _write(self, timelines: list[Timeline]) -> None:
        options = self._options
        if options.out is not None:
            write_timelines(options.out, timelines, self._network.all_settings)
            print_note(f"the segments are in {options.out}")
        if options.strip is not None:
            write_strip(options.strip, timelines[0])
            print_note(f"the picture is {options.strip}")
        if options.annotate is not None:
            write_annotated(options.annotate, timelines[0])
            print_note(f"the video with labels is {options.annotate}")

    def _timeline(self, number: int, item: Item) -> Timeline:
        if isinstance(item, BadVideoError):
            raise item
        windows, duration = self._log.of(number)
        if duration is None:
            if windows:
                print_note(f"{item}: goes on at {windows[-1].time:.1f} s")
            duration = self._scan(number, item, windows)
        temperature = self._network.scorer.temperature
        timeline = make_timeline(item, windows, duration, self._network.names, temperature)
        return timeline.cut(self._network.cut)

    def _scan(self, number: int, path: Path, windows: list[WindowScores]) -> float:
        """Append the windows of a video that are missing; return its length in seconds."""
        scorer = self._network.scorer
        threads = 1 if scorer.device.type == "cpu" else self._threads
        total = self._seconds[number]
        reached = int(windows[-1].time) if windows else 0
        with (
            open_frames(path, scorer.preps, threads, self._options.fps) as frames,
            closing(scan(scorer, scorer.windows(frames, len(windows)), self._threads)) as batches,
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
                print_note(f"{path}: {faults}")
            return frames.end


def _show(timeline: Timeline, options: TimelineOptions) -> None:
    if options.json:
        values: dict[str, Any] = {
            "video": timeline.name,
            "duration": round(timeline.duration, 3),
            "segments": [segment_values(segment) for segment in timeline.segments],
        }
        if options.windows:
            values["classes"] = timeline.class_names
            values["times"] = timeline.times.round(3).tolist()
            values["scores"] = timeline.scores.round(4).tolist()
        print(json_line(values), flush=True)
        return
    print(f"{printable(timeline.name)}: {timeline.describe()}")
    if timeline.segments:
        print(timeline.table())
    print(flush=True)


def _seconds(item: Item) -> float | None:
    """Return the length of a video if its header says it."""
    if isinstance(item, BadVideoError) or item.is_dir():
        return None
    try:
        return file_seconds(item)
    except BadVideoError:
        return None


def _identity(item: Item) -> list[Any]:
    """Return what changes when a video changes, as JSON values."""
    if isinstance(item, BadVideoError):
        return [str(item.path)]
    try:
        status = item.stat()
    except OSError:
        return [str(item)]
    return [str(item), status.st_size, status.st_mtime_ns]
