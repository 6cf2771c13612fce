"""Windows of a live stream, read in a thread of their own that connects again when it is lost."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from p3d.errors import BadVideoError, UserError
from p3d.inference.timeline.frames import StreamedFrames, TimedFrames
from p3d.inference.timeline.windows import Window
from p3d.system.threads import use_one_core
from p3d.video.live import LiveSource, StreamLost

_LONGEST_WAIT = 30.0
"""Seconds between two attempts to connect; they double up to here."""


@dataclass(frozen=True)
class Connected:
    """A connection has begun; windows and times that follow are counted from its first frame.

    Attributes:
        start: Seconds from the first frame of the first connection.
        rate: Frames per second that the stream states.
    """

    start: float
    rate: float


@dataclass(frozen=True)
class Ended:
    """A connection has ended.

    Attributes:
        duration: Its length in seconds.
        lost: Why it was lost; empty at the end of the video.
        faults: What was wrong with the timestamps, in words.
    """

    duration: float
    lost: str
    faults: str


@dataclass(frozen=True)
class Failed:
    """There will be no more windows, for this reason; None at the end of the video."""

    error: UserError | None


Event: TypeAlias = "Window | Connected | Ended | Failed"


class LiveQueue:
    """Events of a live stream, in their order.

    Args:
        limit: Windows that wait at most.
        drops: Whether the oldest window is dropped for a new one; otherwise the reader waits.
    """

    def __init__(self, limit: int, *, drops: bool) -> None:
        self._limit, self._drops = limit, drops
        self._events = deque[Event]()
        self._num_windows = self._num_dropped = 0
        self._changed = threading.Condition()

    def put(self, event: Event) -> None:
        """Add an event at the end."""
        with self._changed:
            if isinstance(event, Window):
                while self._num_windows >= self._limit:
                    if self._drops:
                        self._drop_oldest()
                    else:
                        self._changed.wait()
                self._num_windows += 1
            self._events.append(event)
            self._changed.notify_all()

    def _drop_oldest(self) -> None:
        place = next(n for n, event in enumerate(self._events) if isinstance(event, Window))
        del self._events[place]
        self._num_windows -= 1
        self._num_dropped += 1

    def get(self, seconds: float) -> tuple[Event | None, int]:
        """Return the next event, and how many windows were dropped before it since the last one.

        None if there is none within this time.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._events, seconds)
            if not self._events:
                return None, 0
            event = self._events.popleft()
            dropped, self._num_dropped = self._num_dropped, 0
            self._num_windows -= isinstance(event, Window)
            self._changed.notify_all()
            return event, dropped


@dataclass(frozen=True)
class LiveReader:
    """Reads the windows of a live source into a queue.

    Attributes:
        source: The source.
        windows: Returns the windows of a connection.
        stall: Seconds without data after which the source is lost.
        retry: Seconds for which a lost source is tried again.
        queue: Where the events go.
        sleep: Waits for some seconds.
    """

    source: LiveSource
    windows: Callable[[TimedFrames], Iterator[Window]]
    stall: float
    retry: float
    queue: LiveQueue
    sleep: Callable[[float], None] = time.sleep

    def start(self) -> None:
        """Start the thread. It ends with the process: a read of a pipe cannot be interrupted."""
        threading.Thread(target=self._run, name="p3d-live", daemon=True).start()

    def _run(self) -> None:
        use_one_core()
        try:
            self._read_all()
            self.queue.put(Failed(None))
        except UserError as error:
            self.queue.put(Failed(error))
        except BaseException as error:
            self.queue.put(
                Failed(UserError(f"{self.source.name}: {type(error).__name__}: {error}"))
            )
            raise

    def _read_all(self) -> None:
        began: float | None = None
        lost_at, wait = time.monotonic(), 1.0
        while True:
            try:
                with self.source.open(self.stall) as stream:
                    began = began or time.monotonic()
                    start = time.monotonic() - began
                    self.queue.put(Connected(start, stream.clock.rate))
                    lost = self._read(StreamedFrames(stream))
                if not lost:
                    return
                lost_at, wait = time.monotonic(), 1.0
            except (StreamLost, BadVideoError) as error:
                if began is None or (isinstance(error, BadVideoError) and self.source.ends):
                    raise _no_stream(self.source, error) from error
                lost = str(error)
            if time.monotonic() + wait > lost_at + self.retry:
                raise UserError(
                    f"{self.source.name}: was lost ({lost}) and did not come back in "
                    f"{self.retry:g} s; check the source, or give a longer --retry"
                )
            self.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)

    def _read(self, frames: StreamedFrames) -> str:
        """Read a connection to its end; return why it was lost, or nothing."""
        lost = ""
        try:
            for window in self.windows(frames):
                self.queue.put(window)
        except StreamLost as error:
            lost = str(error)
        if not lost and not self.source.ends:
            lost = "the source has ended it"
        self.queue.put(Ended(frames.end, lost, frames.describe_faults()))
        return lost


def _no_stream(source: LiveSource, error: Exception) -> UserError:
    """Return the error about a source that cannot be opened at first."""
    if isinstance(error, UserError):
        return error
    remedy = {
        "device": "check the device and your permissions (v4l2-ctl --list-devices lists them)",
        "pipe": "check what writes to it",
    }.get(source.kind, "check the address, and that something sends there")
    return UserError(f"{source.name}: cannot be opened ({error}); {remedy}")
