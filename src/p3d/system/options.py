"""Command-line options that several commands share."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from p3d.errors import UserError
from p3d.system.device import DeviceName, Precision
from p3d.system.markers import First, Heading


@dataclass(frozen=True)
class DeviceOptions:
    """Where a network runs, and in which arithmetic."""

    device: Annotated[First[DeviceName], Heading("device")] = "auto"
    """Device to run on; auto takes CUDA, then MLU, then the CPU."""
    precision: First[Precision] = "fp32"
    """Arithmetic: fp32 (IEEE, no TF32), tf32, bf16 or fp16. Training in bf16 or fp16 is mixed
    precision."""
    compile: bool = False
    """Compile the network first: slow to start, then faster. Training on a CPU compiles only
    batch normalization."""
    threads: int | None = None
    """CPU threads of each process; by default PyTorch's choice, usually one per core. Results are
    equal bit for bit only with the same number."""


def check_least(least: int, **values: int | str | None) -> None:
    """Check numbers of options, by the names of their fields; words and None pass.

    Raises:
        UserError: A number is smaller; the message has its option and the number.
    """
    for name, value in values.items():
        if isinstance(value, int) and value < least:
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag} is {value}; give {least} or more")


def plain_options(options: Any) -> dict[str, Any]:
    """Return a command's options as plain values, the form of `config.json`.

    Options of the device are at the top level; other groups of options are dicts of their own.

    Args:
        options: A dataclass whose field `compute` holds `DeviceOptions`.
    """
    values = asdict(options)
    compute: dict[str, Any] = values.pop("compute")
    return values | compute


def option_flag(field_name: str) -> str:
    """Return the command-line option of a field."""
    return f"--{field_name.replace('_', '-')}"


def option_arguments(values: Mapping[str, Any], *, drop: Collection[str] = ()) -> list[str]:
    """Convert options in the form of `plain_options` to command-line arguments.

    Args:
        values: The options; groups are flattened.
        drop: Names of fields to leave out.
    """
    return [
        argument
        for name, value in leaves(values)
        if name not in drop
        for argument in _arguments(option_flag(name), value)
    ]


def leaves(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield names and values of nested options; all names differ."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value)
        else:
            yield name, value


def _arguments(flag: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    if isinstance(value, list):
        return [flag, *map(str, value)]
    return [f"{flag}={value}"]
