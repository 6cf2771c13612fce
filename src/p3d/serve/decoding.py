"""Decoder processes, as the service sees them: asked, killed and replaced."""

from __future__ import annotations

import queue
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from p3d.errors import UserError
from p3d.serve.decoder import DecoderSettings, Reply
from p3d.serve.decoder_process import Decoder, process_context
from p3d.serve.problems import Problem
from p3d.system.messages import print_warning

_START_SECONDS = 120.0
_UNREADABLE = 422
"""Status of a video that a decoder refuses; the decoder itself is sound."""


class Decoded(NamedTuple):
    """The clips of a video.

    Attributes:
        clips: uint8 `(num_clips, T, H, W, C)`, in the order of time.
        windows: int64 `(num_clips, T)`, their steps, see `p3d.data.track.Track`.
        length: Steps of the video.
        times: Start and end of each clip in seconds.
        num_frames: Frames of the video.
        fps: Its frames per second; 0 if unknown.
        seconds: Its length.
    """

    clips: Tensor
    windows: NDArray[np.int64]
    length: int
    times: list[tuple[float, float]]
    num_frames: int
    fps: float
    seconds: float


class DecoderPool:
    """Processes that decode videos, each replaced when it dies.

    Args:
        settings: What they read.
        count: Number of processes.

    Attributes:
        failures: Number of processes that died or were killed.
    """

    def __init__(self, settings: DecoderSettings, count: int) -> None:
        self._context, self._settings, self._count = process_context(), settings, count
        self._threads = ThreadPoolExecutor(count, "p3d-decode")
        self._idle: queue.SimpleQueue[Decoder] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self.failures = 0
        for _ in range(count):
            self._idle.put(self._start_first())

    def _start_first(self) -> Decoder:
        """Start a process before there are requests.

        Raises:
            UserError: The path of the folder for temporary files is too long for a socket.
        """
        try:
            return self._start()
        except OSError as error:
            if "AF_UNIX" not in str(error):
                raise
            raise UserError(
                f"{tempfile.gettempdir()}: this path is too long for the sockets between "
                "processes; set TMPDIR to a shorter one"
            ) from error

    def _start(self) -> Decoder:
        with self._lock:  # the start of processes from several threads is not safe everywhere
            return Decoder(self._context, self._settings)

    def wait_until_ready(self) -> None:
        """Wait for all processes to start.

        Raises:
            UserError: One did not.
        """
        deadline = time.monotonic() + _START_SECONDS
        for _ in range(self._count):
            decoder = self._idle.get()
            self._idle.put(decoder)
            try:
                decoder.wait_until_ready(deadline)
            except (EOFError, OSError) as error:  # TimeoutError is an OSError
                raise UserError(
                    "a process that decodes did not start; use fewer --decoders, or give the "
                    "machine more memory"
                ) from error

    def submit(self, path: Path, name: str, deadline: float) -> Future[Decoded]:
        """Read the uniformly spaced clips of a video.

        Args:
            path: The file or folder.
            name: What to call it in messages.
            deadline: Value of `time.monotonic` at which to give up.

        Returns:
            The future clips. Raises Problem: the video cannot be read (422), exceeds a limit (422),
            killed its decoder (502), or takes too long (504).
        """
        return self._threads.submit(self._read_clips, path, name, deadline)

    def submit_clip(
        self, path: Path, name: str, seconds: float | None, deadline: float
    ) -> Future[tuple[dict[str, Any], Tensor]]:
        """Read the clip around a time of a video (None: its middle), see `submit`.

        Returns:
            `span`, start and end in seconds, `box`, the part of the frame as fractions (left, top,
            width, height), and the clip, uint8 `(1, T, H, W, C)`.
        """
        request = {"read": "clip", "time": seconds}
        return self._threads.submit(self._read_one, request, path, name, deadline)

    def _read_clips(self, path: Path, name: str, deadline: float) -> Decoded:
        reply, clips = self._read_one({"read": "clips"}, path, name, deadline)
        return Decoded(
            clips,
            np.asarray(reply["windows"], np.int64),
            reply["length"],
            [(start, end) for start, end in reply["times"]],
            reply["frames"],
            reply["fps"],
            reply["seconds"],
        )

    def _read_one(
        self, request: dict[str, Any], path: Path, name: str, deadline: float
    ) -> tuple[dict[str, Any], Tensor]:
        if time.monotonic() >= deadline:
            raise Problem(504, f"{name}: the time was over before it could be decoded")
        decoder = self._idle.get()
        try:
            with self._reporting(name):
                ((reply, clips),) = decoder.ask(
                    {**request, "path": str(path), "name": name}, deadline
                )
                _check_reply(reply)
        except BaseException as error:
            is_sound = isinstance(error, Problem) and error.status == _UNREADABLE
            if not is_sound:
                decoder.kill()
                decoder = self._start()
            raise
        finally:
            self._idle.put(decoder)
        assert clips is not None, "the only reply to such a request has clips"
        return reply, clips

    def windows(
        self, request: dict[str, Any], path: Path, name: str, deadline: float
    ) -> DecoderStream:
        """Start to read the sliding windows of a video, in a process of its own.

        Args:
            request: `window` and `stride` in seconds, or None, and `batch`, windows in a reply.
            path: The file or folder.
            name: What to call it in messages.
            deadline: Value of `time.monotonic` at which to give up.
        """
        request = {**request, "read": "windows", "path": str(path), "name": name}
        return DecoderStream(self, self._start(), request, deadline)

    @contextmanager
    def _reporting(self, name: str) -> Iterator[None]:
        """Raise errors of a decoder as problems."""
        try:
            yield
        except TimeoutError:
            self.failures += 1
            raise Problem(504, f"{name}: decoding takes too long; send a shorter video") from None
        except _FailedError as error:
            raise self._died(name, str(error)) from None
        except (EOFError, OSError, ValueError):
            raise self._died(name, "killed") from None

    def _died(self, name: str, reason: str) -> Problem:
        self.failures += 1
        if reason == "out of memory":
            limit = self._settings.limits.decoder_memory
            reason += f" at {limit:,} MiB, the limit"
        problem = Problem(
            502, f"{name}: the process that decoded it died ({reason}); convert the video first"
        )
        print_warning(str(problem))
        return problem

    def close(self) -> None:
        """End all processes."""
        self._threads.shutdown(cancel_futures=True)
        with suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()


class _FailedError(Exception):
    """A decoder says that it fails, and why."""


def _check_reply(reply: Mapping[str, Any]) -> None:
    """Raise what a reply says is wrong."""
    if "failed" in reply:
        raise _FailedError(reply["failed"])
    if text := reply.get("error") or reply.get("limit"):
        raise Problem(_UNREADABLE, text)


class DecoderStream:
    """The replies of a process that decodes one long video; use it in a `with` block.

    Args:
        pool: Where failures are counted.
        decoder: The process, which ends with the block.
        request: What to read.
        deadline: Value of `time.monotonic` at which to give up.
    """

    def __init__(
        self, pool: DecoderPool, decoder: Decoder, request: dict[str, Any], deadline: float
    ) -> None:
        self._pool, self._decoder, self._request = pool, decoder, request
        self._deadline, self._is_interrupted = deadline, False

    def __enter__(self) -> DecoderStream:
        return self

    def __exit__(self, *_: object) -> None:
        self._decoder.kill()

    def interrupt(self) -> None:
        """Let the thread that reads get a problem; called by another one."""
        self._is_interrupted = True
        self._decoder.interrupt()

    def __iter__(self) -> Iterator[Reply]:
        """Yield the replies.

        Raises:
            Problem: As `DecoderPool.submit`.
        """
        name = self._request["name"]
        replies = self._decoder.ask(self._request, self._deadline)
        while True:
            with self._pool._reporting(name):
                found = self._next(replies)
                if found is not None:
                    _check_reply(found[0])
            if found is None:
                return
            yield found

    def _next(self, replies: Iterator[Reply]) -> Reply | None:
        try:
            return next(replies, None)
        except (EOFError, OSError, ValueError):
            if self._is_interrupted:
                raise Problem(409, f"{self._request['name']}: canceled") from None
            raise
