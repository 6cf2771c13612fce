"""Decoder processes, as the service sees them: started, asked, killed and replaced."""

from __future__ import annotations

import json
import multiprocessing
import queue
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from p3d.errors import UserError
from p3d.serve.decoder import DecoderSettings, decode_videos
from p3d.serve.problems import Problem
from p3d.system.files import print_warning

_START_SECONDS = 120.0


class Decoded(NamedTuple):
    """The clips of a video.

    Attributes:
        clips: uint8 `(num_clips, T, H, W, C)`, in the order of time.
        windows: int64 `(num_clips, T)`, their frames.
        num_frames: Frames of the video.
        fps: Its frames per second; 0 if unknown.
        size: Height and width of its frames in pixels.
    """

    clips: Tensor
    windows: NDArray[np.int64]
    num_frames: int
    fps: float
    size: tuple[int, int]


def _context() -> BaseContext:
    """Return how processes are started: forked from one that has imported what they need.

    So a new one takes milliseconds, and shares most of its memory with the others.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")  # Windows
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["p3d.serve.decoder"])
    return context


class _Decoder:
    """A process that decodes one video at a time."""

    def __init__(self, context: BaseContext, settings: DecoderSettings) -> None:
        self._connection, theirs = context.Pipe()
        # Not in BaseContext's stub, though each context has it.
        process: Any = getattr(context, "Process")  # noqa: B009
        self._process = process(target=decode_videos, args=(theirs, settings), daemon=True)
        self._process.start()
        theirs.close()
        self._is_ready = False

    def wait_until_ready(self, deadline: float) -> None:
        """Wait for the process to start.

        Raises:
            EOFError: It died.
            TimeoutError: It takes too long.
        """
        if not self._is_ready:
            self._receive(deadline)
            self._is_ready = True

    def ask(self, path: Path, name: str, deadline: float) -> tuple[dict[str, Any], Tensor | None]:
        """Return the reply, and clips if there are any.

        Raises:
            EOFError, OSError: The process died.
            TimeoutError: The time is over; the process is to be killed.
        """
        self.wait_until_ready(deadline)
        self._connection.send_bytes(json.dumps({"path": str(path), "name": name}).encode())
        reply = json.loads(self._receive(deadline))
        if "shape" not in reply:
            return reply, None
        data = np.frombuffer(bytearray(self._receive(deadline)), np.uint8)
        return reply, torch.from_numpy(data).reshape(reply["shape"])

    def _receive(self, deadline: float) -> bytes:
        if not self._connection.poll(max(0.0, deadline - time.monotonic())):
            raise TimeoutError
        return self._connection.recv_bytes()

    def kill(self) -> int | None:
        """Kill the process and return its exit code."""
        self._process.kill()
        return self.close()

    def close(self) -> int | None:
        """End the process, which may finish what it does, and return its exit code."""
        self._connection.close()
        self._process.join(2)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        code: int | None = self._process.exitcode
        self._process.close()
        return code


class DecoderPool:
    """Processes that decode videos, each replaced when it dies.

    Args:
        settings: What they read.
        count: Number of processes.

    Attributes:
        failures: Number of processes that died or were killed.
    """

    def __init__(self, settings: DecoderSettings, count: int) -> None:
        self._context, self._settings, self._count = _context(), settings, count
        self._threads = ThreadPoolExecutor(count, "p3d-decode")
        self._idle: queue.SimpleQueue[_Decoder] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self.failures = 0
        for _ in range(count):
            self._idle.put(self._start())

    def _start(self) -> _Decoder:
        with self._lock:  # the start of processes from several threads is not safe everywhere
            return _Decoder(self._context, self._settings)

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
        """Decode a video.

        Args:
            path: The file or folder.
            name: What to call it in messages.
            deadline: Value of `time.monotonic` at which to give up.

        Returns:
            The future clips. Raises Problem: the video cannot be read (422), exceeds a limit (422),
            killed its decoder (502), or takes too long (504).
        """
        return self._threads.submit(self._decode, path, name, deadline)

    def _decode(self, path: Path, name: str, deadline: float) -> Decoded:
        if time.monotonic() >= deadline:
            raise Problem(504, f"{name}: the time was over before it could be decoded")
        decoder = self._idle.get()
        try:
            reply, clips = decoder.ask(path, name, deadline)
        except TimeoutError:
            self._replace(decoder)
            raise Problem(504, f"{name}: decoding takes too long; send a shorter video") from None
        except (EOFError, OSError, ValueError):
            code = self._replace(decoder)
            raise self._died(name, f"exit code {code}") from None
        if "failed" in reply:
            self._replace(decoder)
            raise self._died(name, reply["failed"])
        self._idle.put(decoder)
        if clips is None:
            raise Problem(422, reply.get("error") or reply["limit"])
        windows = np.asarray(reply["windows"], np.int64)
        return Decoded(clips, windows, reply["frames"], reply["fps"], tuple(reply["size"]))

    def _died(self, name: str, reason: str) -> Problem:
        if reason == "out of memory":
            limit = self._settings.limits.decoder_memory
            reason += f" at {limit:,} MiB, the limit"
        problem = Problem(
            502, f"{name}: the process that decoded it died ({reason}); convert the video first"
        )
        print_warning(str(problem))
        return problem

    def _replace(self, decoder: _Decoder) -> int | None:
        self.failures += 1
        code = decoder.kill()
        self._idle.put(self._start())
        return code

    def close(self) -> None:
        """End all processes."""
        self._threads.shutdown(cancel_futures=True)
        with suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()
