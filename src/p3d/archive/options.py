"""Options of commands that work through many videos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from p3d.system.markers import First, Heading


@dataclass(frozen=True)
class PoolOptions:
    """The workers of an archive."""

    processes: Annotated[int | None, Heading("processes")] = None
    """Processes that work; by default one for each GPU or MLU, and on a CPU one for each core, or
    for each --threads cores. With --ray, the most of them; by default as many as the cluster has
    room for."""


@dataclass(frozen=True)
class ClusterOptions:
    """Where the workers are, if not on this machine."""

    ray: Annotated[First[str | None], Heading("cluster")] = None
    """Work on a Ray cluster: auto takes the one that this machine belongs to, an address such as
    10.0.0.1:6379 another one, and local starts Ray here."""
