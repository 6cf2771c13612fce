"""A worker as a Ray actor: threads read items, and one thread computes."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from p3d.archive.work import AHEAD, Stages, Unreadable, Work, start_worker
from p3d.errors import BadVideoError, UserError
from p3d.system.device import DeviceName, count_devices, resolve_device
from p3d.system.extras import load_extra
from p3d.system.machine import installed_version
from p3d.system.threads import readers


class Place(NamedTuple):
    """Where an actor runs.

    Attributes:
        node: Ray's identifier of its node.
        address: Address of the node, for messages.
        version: The version of p3d that is installed there.
    """

    node: str
    address: str
    version: str


class Refused(NamedTuple):
    """Why the run cannot go on."""

    reason: str


class Missing(NamedTuple):
    """A video that is no file on the actor's node."""

    path: Path
    reason: str


class Actor:
    """An actor. Ray makes one, and makes it again after its death; `start` is called after that."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        # Always the same thread computes, since PyTorch's threads belong to the one that calls.
        self._computer = ThreadPoolExecutor(1, "p3d-compute")

    async def place(self) -> Place:
        """Return where the actor runs."""
        ray = load_extra("ray", "ray")
        node = ray.get_runtime_context().get_node_id()
        return Place(node, ray.util.get_node_ip_address(), installed_version())

    async def start(self, work: Work, device: DeviceName) -> int | Refused:
        """Prepare for items; return how many the actor is to have."""
        started: int | Refused = await self._compute(self._start, work, device)
        return started

    async def do(self, source: Any) -> Any:
        """Return the result of an item, or why there is none.

        Reading starts at once, computing when the items before it are done.
        """
        get = self._submit(self._stages.read, source)
        return await self._compute(self._finish, source, get)

    def _compute(self, call: Callable[..., Any], *arguments: object) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().run_in_executor(self._computer, call, *arguments)

    def _start(self, work: Work, device: DeviceName) -> int | Refused:
        try:
            number = self._stack.enter_context(_claimed_card()) if device == "mlu" else 0
            self._stages: Stages = start_worker(work, number)
        except UserError as error:
            return Refused(str(error))
        self._submit = self._stack.enter_context(readers(self._stages.threads))
        return self._stages.threads + AHEAD

    def _finish(self, source: Any, get: Callable[[], Any]) -> Any:
        try:
            return self._stages.compute(source, get())
        except BadVideoError as error:
            is_there = os.path.lexists(error.path)
            return Unreadable(error.reason) if is_there else Missing(error.path, error.reason)
        except UserError as error:
            return Refused(str(error))


@contextmanager
def _claimed_card() -> Iterator[int]:
    """Claim an MLU of this node that no other worker has, until the process ends.

    Ray counts the cards as a resource of any name and does not say which one a worker gets.
    """
    count = count_devices(resolve_device("mlu"))
    for number in range(count):
        lock = FileLock(Path(tempfile.gettempdir()) / f"p3d-mlu-{number}.lock")
        with suppress(Timeout), lock.acquire(timeout=0):
            yield number
            return
    raise UserError(
        f'all {count} MLUs are taken; start this node with --resources={{"MLU": {count}}}'
    )
