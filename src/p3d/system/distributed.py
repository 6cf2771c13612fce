"""Processes that train or evaluate together, each on a device of its own.

`torchrun` starts them. Gradients are added up by PyTorch's DistributedDataParallel; what else they
must agree on (counts, losses, whether to stop) are a few plain values, which travel between the
hosts by gloo. So a process that is lost is noticed by the others at once, on every kind of device,
in their next exchange.
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
    """The processes of a run; each calls the same methods in the same order.

    Args:
        rank: This process's number.
        world_size: How many there are.
        hosts: The process group that plain values travel by; None where there is one process.
    """

    def __init__(
        self, rank: int = 0, world_size: int = 1, hosts: dist.ProcessGroup | None = None
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self._hosts = hosts

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that prints and writes."""
        return self.rank == 0

    def total(self, values: Sequence[float]) -> list[float]:
        """The sum of each value over all processes, the same on all."""
        if self._hosts is None:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums, group=self._hosts)
        return [float(value) for value in sums.tolist()]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any process."""
        return self.total([float(flag)])[0] > 0

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank."""
        if self._hosts is None:
            return [value]
        values: list[T | None] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self._hosts)
        return values  # type: ignore[return-value]

    def share_buffers(self, model: nn.Module) -> None:
        """Give every process the main one's buffers, as the statistics of batch normalisation."""
        if self._hosts is None:
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
"""A process that nothing was started beside."""


@contextmanager
def join(device: torch.device, launch: Launch) -> Iterator[Group]:
    """Meet the other processes of a run, and part from them at the end.

    Raises:
        UserError: Another process was lost on the way.
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
            f"process {launch.rank} ends because another process of this run did; the message "
            "above, or that process's own, says why"
        ) from error
    dist.destroy_process_group()


@dataclass(frozen=True)
class Launch:
    """This process's place among those that torchrun started; alone by default.

    Attributes:
        rank: Its number over all machines.
        world_size: Processes in all.
        local_rank: Its number on this machine, which is that of its device.
        launched: Whether torchrun started it.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    launched: bool = False


def read_launch() -> Launch:
    """What torchrun says in the environment of the processes that it starts."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if any(name not in os.environ for name in (*names, "MASTER_ADDR")):
        return Launch()
    rank, world_size, local_rank = (int(os.environ[name]) for name in names)
    return Launch(rank, world_size, local_rank, launched=True)
