"""Where workers run: on this machine, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from p3d.archive.processes import ProcessPool
from p3d.archive.work import Pool, Work
from p3d.errors import UserError
from p3d.system.device import DeviceName, count_devices, resolve_device
from p3d.system.machine import num_cores


class Machine(Protocol):
    """What workers run on.

    Attributes:
        device: Kind of device of every worker: cpu, cuda or mlu.
        threads: CPU threads of each worker; None for PyTorch's choice.
        is_cluster: Whether workers may run on other machines than this one.
    """

    device: DeviceName
    threads: int | None
    is_cluster: bool

    def pool(self, work: Work, most: int) -> AbstractContextManager[Pool]:
        """Return workers, to be started by a `with` block.

        Args:
            work: What they do.
            most: Number of items; there are no more workers.
        """


@contextmanager
def open_machine(
    ray: str | None, processes: int | None, device: DeviceName, threads: int | None
) -> Iterator[Machine]:
    """Find devices, on the Ray cluster if one is asked for, for a `with` block.

    Args:
        ray: What `ClusterOptions` say; None for this machine.
        processes: What `PoolOptions` say.
        device: Kind of device; auto takes what is there.
        threads: CPU threads of each worker; None for what suits.

    Raises:
        UserError: A number is out of range, or there is no such device, no Ray, or no such cluster.
    """
    if processes is not None and processes < 1:
        raise UserError(f"--processes is {processes}; give 1 or more")
    if ray is None:
        yield ThisMachine(processes, device, threads)
        return
    from p3d.archive.ray_cluster import connect  # only where Ray is asked for

    with connect(ray, processes, device, threads) as cluster:
        yield cluster


class ThisMachine:
    """See `Machine`.

    Processes that compute on the CPU share its cores: two processes of one thread are faster than
    one of two, above all for small networks.

    Args:
        processes: Number of processes; None for one on each device, and on a CPU for as many as its
            cores have room for.
        device: Kind of device.
        threads: CPU threads of each process; None for what suits, on a CPU one if there are as many
            processes as cores.

    Attributes:
        processes: Number of processes.
    """

    is_cluster = False

    def __init__(self, processes: int | None, device: DeviceName, threads: int | None) -> None:
        found = resolve_device(device)
        self.device: DeviceName = "cpu" if found.type == "cpu" else _name(found.type)
        if found.type == "cpu":
            self.processes = processes or max(1, num_cores() // (threads or 1))
            self.threads: int | None = threads or max(1, num_cores() // self.processes)
        else:
            self.processes, self.threads = processes or count_devices(found), threads

    def pool(self, work: Work, most: int) -> AbstractContextManager[Pool]:
        """See `Machine`."""
        return ProcessPool(work, min(self.processes, most))


def _name(kind: str) -> DeviceName:
    return "cuda" if kind == "cuda" else "mlu"
