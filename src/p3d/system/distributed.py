"""Processes that train or evaluate together, each on its own device, started by torchrun.

DistributedDataParallel exchanges the gradients. Counts, losses and whether to stop are exchanged by
gloo on the CPU, where the loss of a process is an error in the next exchange, on any device.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

from p3d.errors import UserError
from p3d.system.device import collective_backend

T = TypeVar("T")

_LOST = re.compile(r"connection (was )?(closed|reset)|broken pipe|timed out|remote process", re.I)


class Group:
    """The processes of a run. All must call the same methods in the same order.

    Args:
        rank: Rank of this process.
        world_size: Number of processes.
        cpu_group: The process group for values on the CPU; None for a single process.
    """

    def __init__(
        self, rank: int = 0, world_size: int = 1, cpu_group: dist.ProcessGroup | None = None
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self._cpu_group = cpu_group

    @property
    def is_main(self) -> bool:
        """Whether this process prints and writes files."""
        return self.rank == 0

    def total(self, values: Sequence[float]) -> list[float]:
        """Return the sum of each value over all processes."""
        if self._cpu_group is None:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums, group=self._cpu_group)
        return [float(value) for value in sums.tolist()]

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any process."""
        return self.total([float(flag)])[0] > 0

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, in order of rank."""
        if self._cpu_group is None:
            return [value]
        values: list[T | None] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self._cpu_group)
        return values  # type: ignore[return-value]

    def share_buffers(self, model: nn.Module) -> None:
        """Copy the main process's floating-point buffers (batch statistics) to all processes."""
        if self._cpu_group is None:
            return
        buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        if not buffers:
            return
        flat = torch.cat([buffer.flatten() for buffer in buffers])
        dist.broadcast(flat, 0)
        sizes = [buffer.numel() for buffer in buffers]
        for buffer, part in zip(buffers, flat.split(sizes), strict=True):
            buffer.copy_(part.view_as(buffer))


ALONE = Group()
"""The group of a single process."""


@contextmanager
def join(device: torch.device, launch: Launch) -> Iterator[Group]:
    """Join the process group of a run, and leave it at the end.

    Raises:
        UserError: Another process was lost.
    """
    if launch.world_size == 1:
        yield ALONE
        return
    try:
        dist.init_process_group(
            collective_backend(device), rank=launch.rank, world_size=launch.world_size
        )
        yield Group(launch.rank, launch.world_size, dist.new_group(backend="gloo"))
    except RuntimeError as error:
        if _LOST.search(str(error)) is None:
            raise
        raise UserError(
            f"process {launch.rank} stops because another process of this run ended; see the "
            "message above, or the other process's output, for the reason"
        ) from error
    dist.destroy_process_group()


@dataclass(frozen=True)
class Launch:
    """This process's position among those that torchrun started; a single process by default.

    Attributes:
        rank: Rank over all machines.
        world_size: Number of processes.
        local_rank: Rank on this machine, and index of the device to use.
        launched: Whether torchrun started this process.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    launched: bool = False


def read_launch() -> Launch:
    """Read the environment variables that torchrun sets."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if any(name not in os.environ for name in (*names, "MASTER_ADDR")):
        return Launch()
    rank, world_size, local_rank = (int(os.environ[name]) for name in names)
    return Launch(rank, world_size, local_rank, launched=True)


def launch_alone(local_rank: int) -> None:
    """Set the variables of `read_launch` for a single process on the device of this index.

    For a process that another one started, which sends it signals: as under torchrun, only the
    first one counts.
    """
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": str(local_rank)}
    os.environ.setdefault("MASTER_ADDR", "localhost")
