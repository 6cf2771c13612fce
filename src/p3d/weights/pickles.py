"""Reading the pickles in PyTorch files without calling anything that they name.

A pickle is a program for a stack machine. Python's unpickler, and PyTorch's with `weights_only`,
call the functions that it names; even harmless ones allocate whatever memory they are asked for.
This reader interprets the few instructions that `torch.save` writes, and `pickle_values` says what
their names stand for. Memory and time are proportional to the size of the pickle.
"""

from __future__ import annotations

import pickletools
from typing import Any, BinaryIO

from p3d.errors import UserError
from p3d.weights.pickle_values import (
    DTYPES,
    Global,
    Ignored,
    Storage,
    View,
    as_counts,
    call,
    damaged,
    find_global,
    set_items,
)

MAX_PICKLE_BYTES = 2**24
"""Upper limit of a pickle's size. That of a P3D-199 with its optimizer has 0.3 MB."""
_MAX_INSTRUCTIONS = 1_000_000
"""Upper limit of a pickle's instructions. That of a P3D-199 with its optimizer has 80,000."""
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
            stack.append(find_global(arg))
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif name in ("REDUCE", "NEWOBJ"):
            args, function = stack.pop(), stack.pop()
            stack.append(call(function, args))
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
            if not isinstance(stack[-1], (list, Ignored)):
                raise ValueError("items of something else than a list")
            if isinstance(stack[-1], list):
                stack[-1].extend(items)
        else:
            items = self._pop(self._marks.pop() if name == "SETITEMS" else len(stack) - 2)
            set_items(stack[-1], items)

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
        if kind != "storage" or not isinstance(storage_type, Global) or not isinstance(key, str):
            raise ValueError("a storage has no type or no name")
        dtype = DTYPES[storage_type.name.split()[1].removesuffix("Storage")]
        (numel,) = as_counts((numel,))
        storage = Storage(key, dtype, numel)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"two storages are called {key}")
        if not view or view[0] is None:
            return storage
        (offset,) = as_counts((view[0][1],))
        return View(storage, offset)


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
