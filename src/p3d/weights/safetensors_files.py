"""Reading safetensors files, with their header checked before any tensor is created."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load
from torch import Tensor

from p3d.weights.pickle_values import damaged

CHECKSUM_KEY = "checksum"
"""Entry of the metadata in our own files. The format itself has none."""
_MAX_HEADER_BYTES = 2**24
"""Upper limit of a header. That of a P3D-199 with 400 class names has 0.1 MB."""
_MAX_TENSORS, _MAX_DIMENSIONS = 100_000, 8
_ITEM_BYTES = (
    dict.fromkeys(("BOOL", "U8", "I8"), 1)
    | dict.fromkeys(("I16", "U16", "F16", "BF16"), 2)
    | dict.fromkeys(("I32", "U32", "F32"), 4)
    | dict.fromkeys(("I64", "U64", "F64"), 8)
)


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the header of a file, and the number of bytes that follow it."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > _MAX_HEADER_BYTES:
            raise damaged("its header is too large")
        header = file.read(size)
    if len(header) < size:
        raise damaged("its header is cut")
    try:
        values = json.loads(header.decode())
    except (ValueError, RecursionError) as error:
        raise damaged("its header is not JSON") from error
    return values, path.stat().st_size - 8 - size


def _span(entry: Any) -> tuple[int, int]:
    """Return start and end of a tensor's bytes, if type, shape and span agree.

    Raises:
        ValueError, TypeError, KeyError: They do not.
    """
    shape, (start, end) = entry["shape"], entry["data_offsets"]
    counts = (*shape, start, end)
    if len(shape) > _MAX_DIMENSIONS or any(type(n) is not int or n < 0 for n in counts):
        raise ValueError("sizes")
    if math.prod(shape) * _ITEM_BYTES[entry["dtype"]] != end - start:
        raise ValueError("size of the data")
    return start, end


def _check_header(header: Any, data_bytes: int) -> dict[str, str]:
    """Check that the tensors fill the file without gaps; return the metadata."""
    if not isinstance(header, dict) or len(header) > _MAX_TENSORS:
        raise damaged("its header lists no tensors")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise damaged("its metadata is no text")
    spans = []
    for name, entry in header.items():
        try:
            spans.append(_span(entry))
        except (ValueError, TypeError, KeyError) as error:
            raise damaged(f"type, shape or size of {name[:80]} is wrong") from error
    expected = 0
    for start, end in sorted(spans):
        if start != expected:
            raise damaged("tensors overlap or leave a gap")
        expected = end
    if expected != data_bytes:
        raise damaged(f"it has {data_bytes} bytes of data, its header states {expected}")
    return metadata


def checksum(state: Mapping[str, Tensor]) -> str:
    """Return a checksum of tensors on the CPU: BLAKE2b of names, types, shapes and values."""
    digest = hashlib.blake2b(digest_size=32)
    for name in sorted(state):
        tensor = state[name].detach().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return f"blake2b:{digest.hexdigest()}"


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        str(path).encode()
    except UnicodeEncodeError:  # `safe_open` refuses a path that is not UTF-8
        return load(path.read_bytes())
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file.

    Raises:
        UserError: It is damaged or incomplete, or its tensors do not have the checksum in its
            metadata.
        OSError: It cannot be read.
    """
    metadata = _check_header(*_read_header(path))
    try:
        state = _read_tensors(path)
    except OSError:
        raise
    except Exception as error:  # A type that this PyTorch does not have is an AttributeError.
        raise damaged(str(error)[:100]) from error
    if CHECKSUM_KEY in metadata and metadata[CHECKSUM_KEY] != checksum(state):
        raise damaged("its tensors do not have the checksum in its header")
    return state, metadata
