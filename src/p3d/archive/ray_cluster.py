"""Connecting to Ray, and what its cluster has."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from p3d.archive.ray_pool import RayPool
from p3d.archive.work import Work
from p3d.errors import UserError
from p3d.system.device import DeviceName, count_devices, resolve_device
from p3d.system.extras import load_extra
from p3d.system.files import reason_of
from p3d.system.machine import environment, set_environment

_THREADS = 4
"""CPU threads of a worker without a GPU or MLU, if the user asks for no number."""

_RESOURCES: dict[DeviceName, str] = {"cpu": "CPU", "cuda": "GPU", "mlu": "MLU"}
"""Ray's names; MLU is a custom resource, which nodes are started with."""

_LOCAL_STORE_BYTES = 100 * 2**20  # rows are small and never in the store

_CONNECT_SECONDS = 10.0

_NO_CLUSTER = (
    "--ray {}: no Ray answers ({}); start it (ray start --head), or give its address, such as "
    "10.0.0.1:6379, or local"
)


@contextmanager
def connect(
    address: str, processes: int | None, device: DeviceName, threads: int | None
) -> Iterator[RayCluster]:
    """Connect to a Ray cluster for a `with` block.

    Args:
        address: Where it is; auto for the one of this machine, local to start one.
        processes: The most workers; None for as many as it has room for.
        device: Kind of device; auto takes what the cluster has.
        threads: CPU threads of each worker; None for what suits.

    Raises:
        UserError: Ray is not installed, there is no cluster, or it has no such device.
    """
    ray = _load()
    _init(ray, address, device)
    try:
        yield RayCluster(ray, processes, device, threads)
    finally:
        ray.shutdown()


def _load() -> Any:
    """Import Ray, and let it print nothing of its own; its logs have everything."""
    set_environment("RAY_USAGE_STATS_ENABLED", "0")
    set_environment("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray = load_extra("ray", "ray")
    # Ray writes news of nodes and tasks to stdout, which has no option.
    load_extra("ray._private.worker", "ray")._worker_logs_enabled = False
    return ray


def _init(ray: Any, address: str, device: DeviceName) -> None:
    if address != "local":
        address = _answering(address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address == "local":
        options |= {"include_dashboard": False, "object_store_memory": _LOCAL_STORE_BYTES}
        found = resolve_device(device)
        if found.type == "mlu":
            options["resources"] = {_RESOURCES["mlu"]: count_devices(found)}
    try:
        ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise UserError(_NO_CLUSTER.format(address, _first_line(error))) from error


def _answering(address: str) -> str:
    """Return the address of a cluster, after a look whether anything answers there.

    Ray itself tries for minutes, and prints why.
    """
    given = address
    if address == "auto":
        find = load_extra("ray._private.services", "ray").canonicalize_bootstrap_address
        try:
            address = environment("RAY_ADDRESS", "") or find("auto")
        except ConnectionError as error:
            reason = "no Ray runs on this machine"
            raise UserError(_NO_CLUSTER.format(given, reason)) from error
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdecimal()):
        raise UserError(_NO_CLUSTER.format(given, "an address ends with a port"))
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(_NO_CLUSTER.format(given, f"{address}: {reason_of(error)}")) from error
    return address


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


class RayCluster:
    """See `p3d.archive.machines.Machine`."""

    is_cluster = True

    def __init__(
        self, ray: Any, processes: int | None, device: DeviceName, threads: int | None
    ) -> None:
        self._ray, self._processes = ray, processes
        has = ray.cluster_resources()
        self.device = _kind(has) if device == "auto" else device
        cores = max((int(node["Resources"].get("CPU", 0)) for node in ray.nodes()), default=0)
        self.threads = threads
        if threads is None and self.device == "cpu":
            self.threads = max(1, min(_THREADS, cores))
        name = _RESOURCES[self.device]
        self._need = {name: float(self.threads or 1) if self.device == "cpu" else 1.0}
        self._fitting = int(has.get(name, 0.0) // self._need[name])

    def pool(self, work: Work, most: int) -> RayPool:
        """See `Machine`."""
        most = min(most, self._processes or most)
        return RayPool(self._ray, work, self.device, self._need, self._fitting, most)


def _kind(has: dict[str, float]) -> DeviceName:
    return "cuda" if has.get("GPU") else "mlu" if has.get("MLU") else "cpu"
