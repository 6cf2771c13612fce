"""Reading the pickles in PyTorch files without calling anything that they name.

A pickle is a program for a stack machine. Python's unpickler, and PyTorch's with `weights_only`,
call the functions that it names; even harmless ones allocate whatever memory they are asked for.
This reader interprets the few instructions that `torch.save` writes. Tensors become descriptions,
harmless objects become `IGNORED`, and any other name is refused. Memory and time are proportional
to the size of the pickle.
"""

from __future__ import annotations

import math
import pickletools
import re
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch

from p3d.errors import UserError

MAX_PICKLE_BYTES = 2**24
"""Upper limit of a pickle's size. That of a P3D-199 with its optimizer has 0.3 MB."""
_MAX_INSTRUCTIONS = 1_000_000
"""Upper limit of a pickle's instructions. That of a P3D-199 with its optimizer has 80,000."""
_MAX_DIMENSIONS = 8

_DTYPES = {
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

_LITERALS = {
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "BINFLOAT",
    "BINUNICODE",
    "BINSTRING",
    "SHORT_BINSTRING",
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_OTHERS = {
    *("PROTO", "STOP", "MARK", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT", "EMPTY_LIST"),
    *("BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "APPEND", "APPENDS", "SETITEM", "SETITEMS"),
    *("GLOBAL", "BINPERSID", "REDUCE", "NEWOBJ", "BUILD"),
}
_INSTRUCTIONS = {
    opcode.code.encode("latin-1"): opcode
    for opcode in pickletools.opcodes
    if opcode.name in {*_LITERALS, *_CONSTANTS, *_OTHERS}
}


class _Ignored:
    """Type of `IGNORED`."""


IGNORED = _Ignored()
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
class _Global:
    name: str  # module and name, with a space between them


@dataclass(frozen=True)
class _View:
    """A part of a storage, as PyTorch before 0.4 saved it."""

    storage: Storage
    offset: int


def damaged(reason: object) -> UserError:
    """Return the error for a damaged file."""
    return UserError(f"it is damaged or incomplete ({reason}); download it again")


def _counts(values: Any) -> tuple[int, ...]:
    """Return values as a tuple, if they are a shape or strides."""
    if not isinstance(values, (tuple, list)) or len(values) > _MAX_DIMENSIONS:
        raise ValueError("a shape is no short list")
    if not all(isinstance(value, int) and 0 <= value < 2**48 for value in values):
        raise ValueError("a shape contains something else than sizes")
    return tuple(values)


def _global(name: str) -> _Global:
    if not _KNOWN.fullmatch(name):
        raise UserError(
            f"it contains Python objects other than tensors ({name.replace(' ', '.')[:80]}), which "
            "could run code and are not loaded; save model.state_dict() alone, where the file was "
            "made"
        )
    return _Global(name)


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: object) -> StoredTensor:
    """Return the description of a tensor that does not exceed its storage."""
    if isinstance(storage, _View):
        storage, offset = storage.storage, storage.offset + offset
    if not isinstance(storage, Storage):
        raise ValueError("a tensor has no storage")
    (offset,), shape, stride = _counts((offset,)), _counts(shape), _counts(stride)
    if len(shape) != len(stride):
        raise ValueError("a tensor has other strides than axes")
    numel = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if numel > storage.numel or (numel and last >= storage.numel):
        raise ValueError(f"a tensor of shape {shape} has a storage of {storage.numel} values")
    return StoredTensor(storage, offset, shape, stride)


def _set_items(target: Any, items: list[Any]) -> None:
    """Set alternating keys and values; those with other keys than plain values are ignored."""
    if isinstance(target, _Ignored):
        return
    if not isinstance(target, dict) or len(items) % 2:
        raise ValueError("items of something else than a dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Computing the hash of nested tuples can take forever.
        if isinstance(key, (str, int, float)):
            target[key] = value


def _call(function: Any, args: Any) -> Any:
    """Return what a function of PyTorch would describe."""
    if not isinstance(function, _Global) or not isinstance(args, tuple):
        raise ValueError("a call of something else than a function")
    if function.name == "torch._tensor _rebuild_from_type_v2":
        return _call(args[0], args[2])
    if function.name in _REBUILD_TENSOR:
        return _tensor(*args)
    if function.name in _REBUILD_PARAMETER and args:
        return args[0]
    if function.name == "torch Size" and args:
        return args[0]
    if function.name == "collections OrderedDict":
        found: dict[Any, Any] = {}
        for item in args[0] if args else ():
            _set_items(found, list(item))
        return found
    return IGNORED


class _Machine:
    """The stack machine that a pickle is a program for."""

    def __init__(self) -> None:
        self.storages: dict[str, Storage] = {}
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self, file: BinaryIO) -> Any:
        """Interpret one pickle; the file is at its end afterwards."""
        for _ in range(_MAX_INSTRUCTIONS):
            code = file.read(1)
            opcode = _INSTRUCTIONS.get(code)
            if not code:
                raise ValueError("its pickle is cut")
            if opcode is None:
                raise UserError(
                    f"its pickle has the instruction {code!r}, which torch.save does not write; "
                    "it is damaged, or was saved with another pickle_protocol: use the default"
                )
            arg = None if opcode.arg is None else opcode.arg.reader(file)
            if opcode.name == "STOP":
                return self._stack.pop()
            self._step(opcode.name, arg)
        raise ValueError("its pickle has too many instructions")

    def _step(self, name: str, arg: Any) -> None:
        stack = self._stack
        if name in _LITERALS:
            stack.append(arg)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[arg] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[arg])
        elif name.startswith(("TUPLE", "EMPTY", "APPEND", "SETITEM")) or name == "MARK":
            self._collect(name)
        elif name == "GLOBAL":
            stack.append(_global(arg))
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif name in ("REDUCE", "NEWOBJ"):
            args, function = stack.pop(), stack.pop()
            stack.append(_call(function, args))
        elif name == "BUILD":  # attributes: the versions of a state dict's modules
            stack.pop()

    def _collect(self, name: str) -> None:
        """Make or extend a tuple, list or dict."""
        stack = self._stack
        if name == "MARK":
            self._marks.append(len(stack))
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "TUPLE":
            stack.append(tuple(self._pop(self._marks.pop())))
        elif name.startswith("TUPLE"):
            stack.append(tuple(self._pop(len(stack) - int(name[-1]))))
        elif name.startswith("APPEND"):
            items = self._pop(self._marks.pop() if name == "APPENDS" else len(stack) - 1)
            if not isinstance(stack[-1], (list, _Ignored)):
                raise ValueError("items of something else than a list")
            if isinstance(stack[-1], list):
                stack[-1].extend(items)
        else:
            items = self._pop(self._marks.pop() if name == "SETITEMS" else len(stack) - 2)
            _set_items(stack[-1], items)

    def _pop(self, start: int) -> list[Any]:
        """Remove the values from an index on, and return them."""
        if not 0 <= start <= len(self._stack):
            raise ValueError("its pickle takes more values than there are")
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _storage(self, reference: Any) -> Any:
        """Return the storage that `("storage", type, key, device, numel, view)` describes."""
        kind, storage_type, key, _, numel, *view = reference
        if kind != "storage" or not isinstance(storage_type, _Global) or not isinstance(key, str):
            raise ValueError("a storage has no type or no name")
        dtype = _DTYPES[storage_type.name.split()[1].removesuffix("Storage")]
        (numel,) = _counts((numel,))
        storage = Storage(key, dtype, numel)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"two storages are called {key}")
        if not view or view[0] is None:
            return storage
        (offset,) = _counts((view[0][1],))
        return _View(storage, offset)


def read_pickle(file: BinaryIO) -> tuple[Any, dict[str, Storage]]:
    """Interpret one pickle.

    Args:
        file: A file of at most `MAX_PICKLE_BYTES`, at the start of the pickle.

    Returns:
        Plain values, dicts, lists and tuples, with `StoredTensor` in place of tensors and `IGNORED`
        in place of other objects; and the storages by name.

    Raises:
        UserError: It contains instructions or names that do not belong into a weight file, or is
            damaged.
    """
    machine = _Machine()
    try:
        return machine.run(file), machine.storages
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, RecursionError) as error:
        raise damaged(str(error)[:100]) from error
