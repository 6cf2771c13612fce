"""ONNX files, by ONNX Runtime."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from p3d.errors import UserError
from p3d.system.extras import load_extra

_METADATA_FIELD = 14
"""Field of a ModelProto: repeated pairs of strings."""
_MAX_ENTRY = 2**24


def write_onnx(
    program: ExportedProgram, path: Path, metadata: Mapping[str, str], opset: int, output: str
) -> None:
    """Write a program as an ONNX file.

    Raises:
        UserError: A package is missing.
    """
    for name in ("onnx", "onnxscript"):
        load_extra(name, "onnx")
    exported = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=opset,
        input_names=["clips"],
        output_names=[output],
        verbose=False,
    )
    assert exported is not None
    exported.model.metadata_props.update(metadata)
    exported.save(path, external_data=False)


def _varint(file: BinaryIO) -> int:
    value = shift = 0
    while byte := file.read(1):
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
        shift += 7
        if shift > 63:
            break
    raise ValueError("number")


def _entries(file: BinaryIO, end: int, wanted: int) -> Iterator[bytes]:
    """Yield the values of a field of bytes in a protobuf message, and skip all others."""
    while file.tell() < end:
        key = _varint(file)
        if key & 7 == 0:
            _varint(file)
        elif key & 7 == 2:
            size = _varint(file)
            if file.tell() + size > end or (key >> 3 == wanted and size > _MAX_ENTRY):
                raise ValueError("size")
            if key >> 3 == wanted:
                yield file.read(size)
            else:
                file.seek(size, 1)
        else:
            raise ValueError("type")


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of an ONNX file, whose weights are not read.

    Raises:
        UserError: It is no ONNX file, or damaged.
    """
    metadata = {}
    try:
        with path.open("rb") as file:
            for pair in _entries(file, path.stat().st_size, _METADATA_FIELD):
                key, value = (
                    next(_entries(io.BytesIO(pair), len(pair), number), b"").decode()
                    for number in (1, 2)
                )
                metadata[key] = value
    except ValueError as error:
        raise UserError(f"it is no ONNX file, or damaged ({error}); export it again") from error
    return metadata


def open_onnx(path: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return the network of an ONNX file.

    Raises:
        UserError: ONNX Runtime is missing, refuses the file, or has no support for the device.
    """
    runtime = load_extra("onnxruntime", "onnx")
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(device.type)
    if provider not in runtime.get_available_providers():
        raise UserError(
            f"this ONNX Runtime has no {device.type}; use --device cpu"
            + (", or install onnxruntime-gpu" if device.type == "cuda" else "")
        )
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:  # its exceptions have no common class
        reason = str(error).splitlines()[0][:120]
        raise UserError(f"ONNX Runtime refuses it ({reason}); export it again") from error
    name = session.get_inputs()[0].name

    def call(clips: Tensor) -> Tensor:
        (outputs,) = session.run(None, {name: np.ascontiguousarray(clips.cpu().numpy())})
        return torch.from_numpy(outputs)

    return call
