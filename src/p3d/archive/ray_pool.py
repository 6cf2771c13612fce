"""Workers as Ray actors, on as many nodes as the cluster has.

Ray places the actors, restarts those that die, and moves them away from lost nodes. Some actors
wait for a place all the time, which lets an autoscaling cluster grow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, NamedTuple

from p3d.archive.ray_actor import Actor, Missing, Place, Refused
from p3d.archive.ray_head import Head
from p3d.archive.work import Died, Event, Lost, Unreadable, Work
from p3d.errors import UserError
from p3d.system.device import DeviceName
from p3d.system.machine import installed_version
from p3d.system.messages import print_note


class _Step(Enum):
    """What a worker is asked, and what it is therefore doing."""

    PLACE = auto()  # waits for a place in the cluster
    START = auto()
    DO = auto()  # ready for items
    CHECK = auto()  # it died; its node is asked whether it is alive


class _Call(NamedTuple):
    """A call of an actor, or of its node."""

    worker: int
    step: _Step
    video: str = ""


@dataclass
class _Worker:
    actor: Any
    step: _Step = _Step.PLACE
    place: Place | None = None
    has_started: bool = False
    reason: str = ""
    verdict: Died | Lost | None = None


class RayPool:
    """Ray actors that work on items; a context that ends them.

    Args:
        ray: The module, connected to a cluster.
        work: What they do.
        device: Kind of device of each actor.
        need: Resources of each actor, by Ray's names.
        fitting: Actors that the cluster has room for now.
        most: The most actors.
    """

    def __init__(
        self,
        ray: Any,
        work: Work,
        device: DeviceName,
        need: Mapping[str, float],
        fitting: int,
        most: int,
    ) -> None:
        self.depth = 1
        self._ray, self._work, self._device, self._most = ray, work, device, most
        self._workers: list[_Worker] = []
        self._calls: dict[Any, _Call] = {}
        self._lost: set[str] = set()
        self._head = Head(ray.get_runtime_context().gcs_address)
        self._fitting = fitting
        resources = dict(need)
        self._actor = ray.remote(Actor).options(
            num_cpus=resources.pop("CPU", 0),
            num_gpus=resources.pop("GPU", 0),
            resources=resources,
            max_restarts=-1,
        )
        self._check = ray.remote(_is_alive)

    @property
    def size(self) -> int:
        """Number of actors so far."""
        return len(self._workers)

    def __enter__(self) -> RayPool:
        self._grow()
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self._workers:
            self._ray.kill(worker.actor)

    def is_ready(self, worker: int) -> bool:
        """See `Pool`."""
        return self._workers[worker].step is _Step.DO

    def send(self, worker: int, video: str, source: Any) -> None:
        """See `Pool`."""
        reference = self._workers[worker].actor.do.remote(source)
        self._calls[reference] = _Call(worker, _Step.DO, video)

    def wait(self, seconds: float) -> list[Event]:
        """See `Pool`."""
        self._head.check()
        calls = list(self._calls)
        if self._ray.wait(calls, num_returns=1, timeout=seconds)[0]:
            ready, _ = self._ray.wait(calls, num_returns=len(calls), timeout=0)
            events = [event for reference in ready for event in self._receive(reference)]
            self._grow()
            return events
        return []

    def _grow(self) -> None:
        """Keep as many actors waiting as have started, and all that have room at the beginning."""
        steps = Counter(worker.step for worker in self._workers)
        waiting = steps[_Step.PLACE]
        wanted = max(1, len(self._workers) - waiting)
        if not self._workers:
            wanted = self._fitting + 1
        for _ in range(min(wanted - waiting, self._most - len(self._workers))):
            self._workers.append(_Worker(self._actor.remote()))
            self._ask_place(len(self._workers) - 1)

    def _ask_place(self, number: int) -> None:
        """Ask a worker where it is; Ray keeps the question until the actor runs (again)."""
        worker = self._workers[number]
        worker.step = _Step.PLACE
        # Without retries, Ray refuses calls of an actor that is being restarted.
        reference = worker.actor.place.options(max_task_retries=-1).remote()
        self._calls[reference] = _Call(number, _Step.PLACE)

    def _receive(self, reference: Any) -> Iterator[Event]:
        """Take the answer of a call."""
        call = self._calls.pop(reference)
        worker = self._workers[call.worker]
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            yield from self._failed(call, worker, error)
        else:
            yield from self._answered(call, worker, answer)
        if worker.verdict is not None and not self._has_items(call.worker):
            yield Event(call.worker, None, worker.verdict)
            worker.verdict = None
            self._ask_place(call.worker)

    def _has_items(self, number: int) -> bool:
        return any(call.worker == number and call.step is _Step.DO for call in self._calls.values())

    def _answered(self, call: _Call, worker: _Worker, answer: Any) -> Iterator[Event]:
        if isinstance(answer, Refused):
            raise UserError(f"{_node(worker)}: {answer.reason}")
        if call.step is _Step.PLACE:
            worker.place = _checked(answer)
            worker.step = _Step.START
            reference = worker.actor.start.remote(self._work, self._device)
            self._calls[reference] = _Call(call.worker, _Step.START)
        elif call.step is _Step.START:
            worker.step, worker.has_started = _Step.DO, True
            self.depth = max(self.depth, answer)
        elif call.step is _Step.CHECK:
            if not worker.has_started:
                raise UserError(
                    f"{_node(worker)}: a worker died at its start ({worker.reason}); see Ray's logs"
                )
            worker.verdict = Died(worker.reason)
        else:
            yield Event(call.worker, call.video, _outcome(worker, answer))

    def _failed(self, call: _Call, worker: _Worker, error: Exception) -> Iterator[Event]:
        errors = self._ray.exceptions
        if call.step is _Step.CHECK:
            worker.verdict = Lost()
            self._say_lost(worker)
        elif isinstance(error, errors.RayTaskError):  # p3d itself is at fault
            if call.step is not _Step.DO:
                raise UserError(f"{_node(worker)}: a worker cannot start ({_last_line(error)})")
            yield Event(call.worker, call.video, Died(_last_line(error)))
        elif call.step is _Step.PLACE:
            raise UserError(
                f"a Ray worker cannot start ({_last_line(error)}); install the same p3d and Python "
                "on every node"
            )
        elif worker.step is not _Step.CHECK:
            self._ask_node(call.worker, error)

    def _say_lost(self, worker: _Worker) -> None:
        """Print that the node of a worker is gone, once for all of its workers."""
        assert worker.place is not None
        if worker.place.node not in self._lost:
            self._lost.add(worker.place.node)
            print_note(f"{_node(worker)}: was lost; its videos are done again elsewhere")

    def _ask_node(self, number: int, error: Exception) -> None:
        """Ask the node of a worker that died whether it is alive: else, no item is to blame."""
        worker = self._workers[number]
        assert worker.place is not None
        is_memory = isinstance(error, self._ray.exceptions.OutOfMemoryError)
        hint = "memory was short" if is_memory else "was memory short?"
        worker.reason = f"died on {worker.place.address}; {hint}"
        worker.step = _Step.CHECK
        here = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            worker.place.node, soft=False
        )
        check = self._check.options(num_cpus=0, max_retries=0, scheduling_strategy=here)
        reference = check.remote()
        self._calls[reference] = _Call(number, _Step.CHECK)


def _is_alive() -> None:
    """Run on a node to show that it is alive."""


def _checked(place: Place) -> Place:
    here = installed_version()
    if place.version != here:
        raise UserError(
            f"node {place.address}: has p3d {place.version}, and this machine {here}; install the "
            "same on every node"
        )
    return place


def _outcome(worker: _Worker, answer: Any) -> Any:
    if not isinstance(answer, Missing):
        return answer
    if answer.path.exists():
        raise UserError(
            f"{_node(worker)}: {answer.path} is not there ({answer.reason}), but it is on this "
            "machine; let every node have the videos at the same path"
        )
    return Unreadable(answer.reason)


def _node(worker: _Worker) -> str:
    return "node ?" if worker.place is None else f"node {worker.place.address}"


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()
