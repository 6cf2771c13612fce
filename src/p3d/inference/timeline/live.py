"""`p3d timeline` of a live stream: JSON lines as it goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import numpy as np

from p3d.inference.timeline.cut_options import CutOptions
from p3d.inference.timeline.live_queue import Connected, Ended, Failed, LiveQueue
from p3d.inference.timeline.scan import to_probabilities
from p3d.inference.timeline.segments import Cutter, Segment
from p3d.inference.timeline.timeline import Timeline
from p3d.inference.timeline.window_scorer import WindowScorer
from p3d.inference.timeline.windows import Window, WindowPlan
from p3d.system.messages import print_note
from p3d.system.signals import StopRequest
from p3d.system.text import json_line

_POLL = 0.25
"""Seconds after which a signal is noticed at the latest."""


def latency(plan: WindowPlan, cut: CutOptions, rate: float, batch_size: int) -> float:
    """Return after how many seconds from its end a segment is printed at most.

    The network's own time comes on top.

    Args:
        plan: Where windows are.
        cut: How scores become segments.
        rate: Frame rate of the stream, in frames per second.
        batch_size: Windows that are scored together.
    """
    window = plan.seconds or plan.num_frames * plan.frame_stride / rate
    stride = plan.stride or window / 2
    return window / 2 + cut.smooth / 2 + cut.merge + (3 + batch_size) * stride


@dataclass
class LivePrinter:
    """Scores the windows of a live stream and prints its segments.

    Attributes:
        name: The source.
        scorer: The network or networks; batches are filled before they are scored.
        class_names: Names of the classes.
        plan: Where windows are.
        cut: How scores become segments.
        shows_windows: Whether to print the scores of every window.
        note: A remark to print at the first connection.
        segments: All segments so far.
        duration: Seconds from the first frame to the last one.
        num_dropped: Windows that were dropped.
    """

    name: str
    scorer: WindowScorer
    class_names: tuple[str, ...]
    plan: WindowPlan
    cut: CutOptions
    shows_windows: bool
    note: str = ""
    segments: list[Segment] = field(default_factory=list)
    duration: float = 0.0
    num_dropped: int = 0

    def __post_init__(self) -> None:
        self._waiting: list[Window] = []
        self._start, self._time = 0.0, 0.0
        self._cutter = Cutter(self.class_names, self.cut)
        self._is_connected = False

    def run(self, queue: LiveQueue, stop: StopRequest) -> None:
        """Print events until the stream ends or a signal comes.

        Raises:
            UserError: The stream cannot be opened, or is lost for good.
        """
        while not stop.is_set:
            event, dropped = queue.get(_POLL)
            if dropped:
                self._report_dropped(dropped)
            if isinstance(event, Failed):
                if event.error is not None:
                    raise event.error
                return
            if event is not None:
                self._take(event)
        self._finish(self._time)

    def timeline(self) -> Timeline:
        """Return the segments so far, without scores, which are not kept."""
        times, scores = np.zeros(0), np.zeros((0, len(self.class_names)))
        segments = tuple(sorted(self.segments))
        return Timeline(self.name, times, scores, self.class_names, self.duration, segments)

    def _take(self, event: Window | Connected | Ended) -> None:
        if isinstance(event, Window):
            self._waiting.append(event)
            if len(self._waiting) == self.scorer.batch_size:
                self._score()
        elif isinstance(event, Connected):
            self._connect(event)
        else:
            self._finish(event.duration)
            if event.faults:
                print_note(f"{self.name}: {event.faults}")
            if event.lost:
                print_note(
                    f"{self.name}: lost at {self.duration:.1f} s ({event.lost}); connecting again"
                )
                _print({"lost": round(self.duration, 3), "reason": event.lost})

    def _connect(self, event: Connected) -> None:
        seconds = latency(self.plan, self.cut, event.rate, self.scorer.batch_size)
        seconds += self.scorer.frames_late / event.rate
        if self.note:
            print_note(self.note)
            self.note = ""
        # Not before the end of the earlier connection, whose last frame may be counted longer.
        self._start = max(event.start, self.duration)
        self._cutter = Cutter(self.class_names, self.cut)
        self._is_connected = True
        print_note(f"{self.name}: segments are printed at most {seconds:.1f} s after they end")
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        _print(
            {
                "source": self.name,
                "connected": now,
                "at": round(self._start, 3),
                "latency": round(seconds, 3),
            }
        )

    def _score(self) -> None:
        if not self._waiting:
            return
        logits = self.scorer.score(self.scorer.stack(self._waiting)).numpy()
        rows = to_probabilities(logits, self.scorer.temperature)
        for window, row in zip(self._waiting, rows, strict=True):
            self._time = window.time
            if self.shows_windows:
                scores = dict(zip(self.class_names, row.round(4).tolist(), strict=True))
                _print({"time": round(self._start + window.time, 3), "scores": scores})
            self._add(self._cutter.push(window.time, row))
        self._waiting.clear()

    def _add(self, found: Iterator[Segment]) -> None:
        for each in found:
            segment = each._replace(start=self._start + each.start, end=self._start + each.end)
            self.segments.append(segment)
            _print(
                {
                    "start": round(segment.start, 3),
                    "end": round(segment.end, 3),
                    "label": segment.label,
                    "score": round(segment.score, 4),
                }
            )

    def _finish(self, duration: float) -> None:
        """End a connection of this length."""
        if not self._is_connected:
            return
        self._score()
        self._add(self._cutter.finish(duration))
        self.duration = self._start + max(duration, self._time)
        self._is_connected = False

    def _report_dropped(self, number: int) -> None:
        if not self.num_dropped:
            print_note(
                f"{self.name}: the network is slower than the stream, so the oldest windows are "
                "dropped; give a longer --stride"
            )
        self.num_dropped += number
        _print({"dropped": number, "total": self.num_dropped})


def _print(values: dict[str, Any]) -> None:
    print(json_line(values), flush=True)
