"""A process that decodes videos, as its parent sees it: started, asked, ended."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from multiprocessing.context import BaseContext
from typing import Any

import numpy as np
import torch

from p3d.serve.decoder import DecoderSettings, Reply, decode_videos

_MOST_BYTES = 2**31 - 1
_LAST = frozenset(("end", "error", "limit", "failed"))
"""Keys of the last reply to a request."""


def process_context() -> BaseContext:
    """Return how processes are started: forked from one that has imported what they need.

    So a new one takes milliseconds, and shares most of its memory with the others.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")  # Windows
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["p3d.serve.decoder"])
    return context


class Decoder:
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

    def ask(self, request: Mapping[str, Any], deadline: float) -> Iterator[Reply]:
        """Yield the replies to a request, see `decode_videos`.

        Raises:
            EOFError, OSError: The process died.
            TimeoutError: The time is over; the process is to be killed.
        """
        self.wait_until_ready(deadline)
        self._connection.send_bytes(json.dumps(request).encode())
        is_last = False
        while not is_last:
            reply = json.loads(self._receive(deadline))
            clips = None
            if "shape" in reply:
                data = np.frombuffer(bytearray(self._receive(deadline)), np.uint8)
                clips = torch.from_numpy(data).reshape(reply["shape"])
            is_last = not _LAST.isdisjoint(reply)
            yield reply, clips

    def _receive(self, deadline: float) -> bytes:
        """Return what the process sends next; it may be anything."""
        if not self._connection.poll(max(0.0, deadline - time.monotonic())):
            raise TimeoutError
        return self._connection.recv_bytes(_MOST_BYTES)

    def interrupt(self) -> None:
        """Kill the process; whoever waits for a reply gets an error. For other threads."""
        with suppress(ValueError):  # it is closed already
            self._process.kill()

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
