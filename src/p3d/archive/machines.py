"""Where workers run: on this machine, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch

from p3d.archive.processes import ProcessPool
from p3d.archive.work import Pool, Work
from p3d.errors import UserError
from p3d.system.device import DeviceName, count_devices, resolve_device


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
        threads: CPU threads of each worker; None for what suits: several processes that compute on
            the CPU share its cores.

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

    Args:
        processes: Number of processes; None for one on each device.
        device: Kind of device.
        threads: CPU threads of each process; None for what suits.
    """

    is_cluster = False

    def __init__(self, processes: int | None, device: DeviceName, threads: int | None) -> None:
        found = resolve_device(device)
        self.device: DeviceName = "cpu" if found.type == "cpu" else _name(found.type)
        self._processes = processes or count_devices(found)
        self.threads = threads
        if threads is None and found.type == "cpu" and self._processes > 1:
            self.threads = max(1, torch.get_num_threads() // self._processes)

    def pool(self, work: Work, most: int) -> AbstractContextManager[Pool]:
        """See `Machine`."""
        return ProcessPool(work, min(self._processes, most))


def _name(kind: str) -> DeviceName:
    return "cuda" if kind == "cuda" else "mlu"
