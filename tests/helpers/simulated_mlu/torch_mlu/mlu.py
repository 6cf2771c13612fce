"""The module `torch.mlu`: the part of torch_mlu's interface that programs use."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import torch

from torch_mlu import build

DEVICES = 8
TOTAL_MEMORY = 24 * 2**30

_device = build.load()
_is_in_bad_fork = _device.in_bad_fork
_Device = torch.device | str | int | None


def _visible_devices() -> int:
    listed = os.environ.get("MLU_VISIBLE_DEVICES")
    if listed is None:
        return DEVICES
    return min(DEVICES, len([index for index in listed.split(",") if index.strip()]))


_DEVICE_COUNT = _visible_devices()
_device.set_device_count(_DEVICE_COUNT)


def _index(device: _Device) -> int:
    """Return the index of a device; without one, that of the current device."""
    if isinstance(device, int):
        return device
    index = None if device is None else torch.device(device).index
    return current_device() if index is None else index


def is_available() -> bool:
    return _DEVICE_COUNT > 0


def device_count() -> int:
    return _DEVICE_COUNT


def current_device() -> int:
    return _device.current_device()


def set_device(device: _Device) -> None:
    _device.set_device(_index(device))


class device:
    """A context in which a card is the current one."""

    def __init__(self, device: _Device) -> None:
        self._index = _index(device)
        self._previous = -1

    def __enter__(self) -> None:
        self._previous = current_device()
        set_device(self._index)

    def __exit__(self, *_: object) -> None:
        set_device(self._previous)


def synchronize(device: _Device = None) -> None:
    """Do nothing, since every call is synchronous."""
    get_device_properties(device)


def get_device_properties(device: _Device = None) -> Any:
    if not 0 <= _index(device) < _DEVICE_COUNT:
        raise AssertionError("Invalid device id")
    return SimpleNamespace(name="Simulated MLU", major=5, minor=0, total_memory=TOTAL_MEMORY)


def get_device_name(device: _Device = None) -> str:
    return get_device_properties(device).name


def is_bf16_supported() -> bool:
    return get_device_properties().major >= 5


def get_amp_supported_dtype() -> list[torch.dtype]:
    return [torch.float16, torch.bfloat16]


def manual_seed(seed: int) -> None:
    _device.manual_seed(seed % 2**64, current_device())


def manual_seed_all(seed: int) -> None:
    for index in range(_DEVICE_COUNT):
        _device.manual_seed(seed % 2**64, index)


def get_rng_state(device: _Device = None) -> torch.Tensor:
    return _device.rng_state(_index(device))


def set_rng_state(state: torch.Tensor, device: _Device = None) -> None:
    _device.set_rng_state(state, _index(device))


def memory_allocated(device: _Device = None) -> int:
    return _device.memory_allocated(_index(device))


def max_memory_allocated(device: _Device = None) -> int:
    return _device.max_memory_allocated(_index(device))


def reset_peak_memory_stats(device: _Device = None) -> None:
    _device.reset_peak(_index(device))


def empty_cache() -> None:
    """Do nothing, since no memory is cached."""


def mem_get_info(device: _Device = None) -> tuple[int, int]:
    return TOTAL_MEMORY - memory_allocated(device), TOTAL_MEMORY


def make_cncl(gloo: Any) -> Any:
    """Return the process group `cncl`, which communicates by `gloo`."""
    return _device.make_cncl(gloo)
