"""What the names and calls in the pickles of PyTorch files stand for, without importing any.

Tensors become descriptions, harmless objects become `IGNORED`, and any other name is refused.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import torch

from p3d.errors import UserError

_MAX_DIMENSIONS = 8

DTYPES = {
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Float": torch.float32,
    "Double": torch.float64,
    "Byte": torch.uint8,
    "Char": torch.int8,
    "Short": torch.int16,
    "Int": torch.int32,
    "Long": torch.int64,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
    "QInt8": torch.int8,
    "QUInt8": torch.uint8,
    "QInt32": torch.int32,
    "Untyped": torch.uint8,
}
"""Types of values by the names of PyTorch's storages."""

_REBUILD_TENSOR = {"torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2"}
_REBUILD_PARAMETER = {
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_parameter_with_state",
    "torch.nn.parameter Parameter",
}
# What PyTorch's `weights_only` admits, except bytearray, which is used only to allocate memory.
# NumPy's names: many training scripts save the accuracy as a NumPy scalar.
_KNOWN = re.compile(
    r"collections (OrderedDict|Counter)|_codecs encode|(builtins|__builtin__) (set|complex)"
    r"|torch (\w+Storage|\w*Tensor|Size|device|u?int\d+|bool|b?float\w+|complex\d+|q\w+|per_\w+)"
    r"|torch\.cuda (\w+Storage|\w+Tensor)|torch\.storage (Typed|Untyped)Storage"
    r"|torch\.nn\.parameter Parameter|torch\.serialization _get_layout"
    r"|torch\._utils _rebuild_\w+|torch\._tensor _rebuild_from_type_v2"
    r"|numpy\._?core\.multiarray scalar|numpy dtype"
)


class Ignored:
    """Type of `IGNORED`."""


IGNORED = Ignored()
"""Stands for every object that is neither a tensor nor a plain value."""


@dataclass(frozen=True)
class Storage:
    """A one-dimensional array in the file.

    Attributes:
        key: Its name in the file.
        dtype: Type of its values.
        numel: Number of values.
    """

    key: str
    dtype: torch.dtype
    numel: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor whose values are in the file.

    Attributes:
        storage: The array that contains its values.
        offset: Index of its first value in the storage.
        shape: Its shape.
        stride: Distance between neighbors along each axis, in values.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class Global:
    """A function or class that the pickle names.

    Attributes:
        name: Module and name, with a space between them.
    """

    name: str


@dataclass(frozen=True)
class View:
    """A part of a storage, as PyTorch before 0.4 saved it."""

    storage: Storage
    offset: int


def damaged(reason: object) -> UserError:
    """Return the error for a damaged file."""
    return UserError(f"it is damaged or incomplete ({reason}); download it again")


def as_counts(values: Any) -> tuple[int, ...]:
    """Return values as a tuple, if they are a shape or strides."""
    if not isinstance(values, (tuple, list)) or len(values) > _MAX_DIMENSIONS:
        raise ValueError("a shape is no short list")
    if not all(isinstance(value, int) and 0 <= value < 2**48 for value in values):
        raise ValueError("a shape contains something else than sizes")
    return tuple(values)


def find_global(name: str) -> Global:
    """Return a name of the pickle, or raise `UserError` if no weight file needs it."""
    if not _KNOWN.fullmatch(name):
        raise UserError(
            f"it contains Python objects other than tensors ({name.replace(' ', '.')[:80]}), which "
            "could run code and are not loaded; save model.state_dict() alone, where the file was "
            "made"
        )
    return Global(name)


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: object) -> StoredTensor:
    """Return the description of a tensor that does not exceed its storage."""
    if isinstance(storage, View):
        storage, offset = storage.storage, storage.offset + offset
    if not isinstance(storage, Storage):
        raise ValueError("a tensor has no storage")
    (offset,), shape, stride = as_counts((offset,)), as_counts(shape), as_counts(stride)
    if len(shape) != len(stride):
        raise ValueError("a tensor has other strides than axes")
    numel = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if numel > storage.numel or (numel and last >= storage.numel):
        raise ValueError(f"a tensor of shape {shape} has a storage of {storage.numel} values")
    return StoredTensor(storage, offset, shape, stride)


def set_items(target: Any, items: list[Any]) -> None:
    """Set alternating keys and values; those with other keys than plain values are ignored."""
    if isinstance(target, Ignored):
        return
    if not isinstance(target, dict) or len(items) % 2:
        raise ValueError("items of something else than a dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Computing the hash of nested tuples can take forever.
        if isinstance(key, (str, int, float)):
            target[key] = value


def call(function: Any, args: Any) -> Any:
    """Return what a function of PyTorch would describe."""
    if not isinstance(function, Global) or not isinstance(args, tuple):
        raise ValueError("a call of something else than a function")
    if function.name == "torch._tensor _rebuild_from_type_v2":
        return call(args[0], args[2])
    if function.name in _REBUILD_TENSOR:
        return _tensor(*args)
    if function.name in _REBUILD_PARAMETER and args:
        return args[0]
    if function.name == "torch Size" and args:
        return args[0]
    if function.name == "collections OrderedDict":
        found: dict[Any, Any] = {}
        for item in args[0] if args else ():
            set_items(found, list(item))
        return found
    return IGNORED
