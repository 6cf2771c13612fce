"""Reading the files of `torch.save`: zip archives, and the pickles of PyTorch before 1.6.

Nothing is allocated before the file was found to be as large as it claims. Tensors of zip archives
are parts of the mapped file, so that only those that are used are read.
"""

from __future__ import annotations

import io
import mmap
import sys
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from p3d.errors import UserError
from p3d.weights.pickle_values import Storage, StoredTensor, damaged
from p3d.weights.pickles import MAX_PICKLE_BYTES, read_pickle

_MAGIC = 0x1950A86A20F9469CFC6C
_END_BYTES, _END64_BYTES, _LOCATOR_BYTES, _LOCAL_BYTES = 22, 56, 20, 30
_MAX_DIRECTORY_BYTES = 2**24
"""Upper limit of a zip archive's directory. That of a P3D-199 with its optimizer has 0.2 MB."""


@dataclass(frozen=True)
class _Record:
    """A part of the file, and its CRC-32 if known."""

    start: int
    size: int
    crc: int | None = None


@dataclass(frozen=True)
class TorchFile:
    """An open file of `torch.save`.

    Attributes:
        contents: Plain values and containers, with `StoredTensor` in place of tensors.
    """

    contents: Any
    _data: mmap.mmap
    _records: Mapping[str, _Record]
    _swapped: bool = False
    _arrays: dict[str, Tensor] = field(default_factory=dict)

    def tensors(self, values: Mapping[Any, Any]) -> dict[str, Tensor]:
        """Return the tensors among the values of a dict, on the CPU.

        Raises:
            UserError: One of them is damaged or incomplete.
        """
        return {
            str(key): torch.as_strided(
                self._array(value.storage), value.shape, value.stride, value.offset
            )
            for key, value in values.items()
            if isinstance(value, StoredTensor)
        }

    def _array(self, storage: Storage) -> Tensor:
        """Return the values of a storage, after checking their number and their CRC."""
        if storage.key in self._arrays:
            return self._arrays[storage.key]
        record, size = self._records.get(storage.key), storage.numel * storage.dtype.itemsize
        if record is None or record.size != size:
            raise damaged(f"storage {storage.key[:40]} is missing or has another size")
        _check_crc(self._data, record)
        if not size:
            array = torch.empty(0, dtype=storage.dtype)
        elif record.start % storage.dtype.itemsize:
            copy = bytearray(self._data[record.start : record.start + size])
            array = torch.frombuffer(copy, dtype=storage.dtype)
        else:
            array = torch.frombuffer(
                self._data, dtype=storage.dtype, count=storage.numel, offset=record.start
            )
        if self._swapped:
            array = array.clone()
            array.untyped_storage().byteswap(storage.dtype)
        self._arrays[storage.key] = array
        return array


def _check_crc(data: mmap.mmap, record: _Record) -> None:
    if record.crc is None:
        return
    with memoryview(data) as whole, whole[record.start : record.start + record.size] as part:
        if zlib.crc32(part) != record.crc:
            raise damaged("its CRC-32 is wrong")


def _directory_bytes(data: mmap.mmap) -> int:
    """Return the size of a zip archive's directory, as its last record states."""
    end = data[-_END_BYTES:]
    if len(end) < _END_BYTES or end[:4] != b"PK\x05\x06":
        raise damaged("the end of the zip archive is missing")
    before = data[-_END_BYTES - _LOCATOR_BYTES - _END64_BYTES : -_END_BYTES - _LOCATOR_BYTES]
    if before[:4] == b"PK\x06\x06" and len(before) == _END64_BYTES:
        return int.from_bytes(before[40:48], "little")
    return int.from_bytes(end[12:16], "little")


def _members(path: Path, data: mmap.mmap) -> list[zipfile.ZipInfo]:
    """Return the directory of a zip archive without compression, duplicates or overlaps."""
    if _directory_bytes(data) > _MAX_DIRECTORY_BYTES:
        raise damaged("the directory of the zip archive is too large")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except OSError:
        raise
    except Exception as error:  # Damaged bytes can raise almost any exception.
        raise damaged("the directory of the zip archive is damaged") from error
    if any(m.compress_type or m.flag_bits & 1 or m.file_size != m.compress_size for m in members):
        raise UserError(
            "its zip archive is compressed or encrypted, which PyTorch's are not; "
            "save the weights again with torch.save"
        )
    if len({m.filename for m in members}) < len(members):
        raise damaged("the zip archive contains a file twice")
    if sum(m.file_size for m in members) > len(data):
        raise damaged("files in the zip archive overlap")
    return members


def _record(data: mmap.mmap, member: zipfile.ZipInfo) -> _Record:
    """Return where a member's bytes are: after its local header."""
    at = member.header_offset
    header = data[at : at + _LOCAL_BYTES] if at >= 0 else b""
    if header[:4] != b"PK\x03\x04" or len(header) < _LOCAL_BYTES:
        raise damaged("a file in the zip archive is missing")
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    start = at + _LOCAL_BYTES + lengths
    if start + member.file_size > len(data):
        raise damaged("a file in the zip archive is cut")
    # Zero: `torch.serialization.set_crc32_options(False)`.
    return _Record(start, member.file_size, member.CRC or None)


def _open_zip(path: Path, data: mmap.mmap) -> TorchFile:
    records = {member.filename: _record(data, member) for member in _members(path, data)}
    root = next(iter(records), "").partition("/")[0]
    if f"{root}/constants.pkl" in records:
        raise UserError("it contains a program (TorchScript); save model.state_dict() instead")
    pickle, order = records.get(f"{root}/data.pkl"), records.get(f"{root}/byteorder")
    if pickle is None:
        raise damaged("the zip archive contains no data.pkl")
    if pickle.size > MAX_PICKLE_BYTES:
        raise damaged("its pickle is too large")
    _check_crc(data, pickle)
    swapped = False
    if order is not None and order.size <= 8:
        name = data[order.start : order.start + order.size]
        swapped = name in (b"little", b"big") and name.decode() != sys.byteorder
    contents, _ = read_pickle(io.BytesIO(data[pickle.start : pickle.start + pickle.size]))
    prefix = f"{root}/data/"
    arrays = {
        name.removeprefix(prefix): record
        for name, record in records.items()
        if name.startswith(prefix)
    }
    return TorchFile(contents, data, arrays, swapped)


def _open_pickle(data: mmap.mmap) -> TorchFile:
    """Open a file of PyTorch before 1.6: five pickles, then the storages one after another."""
    head = io.BytesIO(data[:MAX_PICKLE_BYTES])
    magic, _ = read_pickle(head)
    if magic != _MAGIC:
        raise UserError("it is a pickle, but PyTorch did not write it; give a file of torch.save")
    for _ in ("version of the format", "properties of the system"):
        read_pickle(head)
    contents, storages = read_pickle(head)
    keys, _ = read_pickle(head)
    records: dict[str, _Record] = {}
    at = head.tell()
    for key in keys if isinstance(keys, list) else ():
        storage = storages.get(key) if isinstance(key, str) else None
        if storage is None:
            raise damaged("a storage is described nowhere")
        start, size = at + 8, storage.numel * storage.dtype.itemsize
        if int.from_bytes(data[at:start], "little") != storage.numel or start + size > len(data):
            raise damaged(f"storage {key[:40]} is cut")
        records[key] = _Record(start, size)
        at = start + size
    return TorchFile(contents, data, records)


def open_torch_file(path: Path) -> TorchFile:
    """Open a file of `torch.save` without running anything that it contains.

    Raises:
        UserError: It is damaged or incomplete, or contains other objects than tensors and plain
            values.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        # A private copy of what is written to, since PyTorch has no read-only tensors.
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    if data[:4] == b"PK\x03\x04":
        return _open_zip(path, data)
    if data[257:262] == b"ustar":
        raise UserError("it was written by PyTorch before 0.2; save it again with a newer one")
    return _open_pickle(data)
