"""Reading `.caffemodel` files, the format in which the paper's authors released their networks.

A `.caffemodel` is a protobuf message `NetParameter`. The few fields needed are declared below, so
Caffe itself is not required. Values are declared as `bytes` instead of `repeated float`, since
packed floats are encoded as little-endian bytes: they become an array without millions of Python
floats in between.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from p3d.errors import UserError
from p3d.weights.port import flatten_kernel

# message: (field name, number, type or message, is repeated)
_SCHEMA: dict[str, list[tuple[str, int, str, bool]]] = {
    "Shape": [("dim", 1, "int64", True)],
    "Blob": [
        ("num", 1, "int32", False),
        ("channels", 2, "int32", False),
        ("height", 3, "int32", False),
        ("width", 4, "int32", False),
        ("data", 5, "bytes", True),
        ("shape", 7, "Shape", False),
        ("double_data", 8, "bytes", True),
    ],
    "Layer": [
        ("name", 1, "string", False),
        ("type", 2, "string", False),
        ("blobs", 7, "Blob", True),
    ],
    "Net": [("name", 1, "string", False), ("layer", 100, "Layer", True)],
}

_MAX_FILE_BYTES = 2**31 - 1  # protobuf's own limit
_MAX_FIELDS, _MAX_LENGTH = 100_000, 256
"""Upper limits of the fields of a file, and of the bytes of a name or shape. The file of P3D-199
has 700 layers of some ten fields."""

_LAYER = re.compile(r"(res|bn)([2-5])(?:([a-z])|b(\d+))_branch(1|2a|2b|2b_t|2c)")
_PARTS = {"1": "shortcut", "2a": "reduce", "2b": "spatial", "2b_t": "temporal", "2c": "expand"}
_NORM_LEAVES = ("weight", "bias", "running_mean", "running_var")


@cache
def _net_message() -> Any:
    """Return the class of `NetParameter`, built from the schema.

    Raises:
        UserError: protobuf is not installed.
    """
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError as error:
        raise UserError(
            "a .caffemodel needs protobuf, which is not installed; run: pip install 'p3d[caffe]'"
        ) from error
    types = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="p3d/caffe.proto", package="p3d.caffe", syntax="proto2"
    )
    for message, fields in _SCHEMA.items():
        declared = file.message_type.add(name=message)
        for name, number, kind, repeated in fields:
            label = types.LABEL_REPEATED if repeated else types.LABEL_OPTIONAL
            field = declared.field.add(name=name, number=number, label=label)
            if kind in _SCHEMA:
                field.type, field.type_name = types.TYPE_MESSAGE, f".p3d.caffe.{kind}"
            else:
                field.type = types.Type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("p3d.caffe.Net"))


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Return the number at an index, and the index after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number of more than ten bytes")


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield number and payload of a message's fields; the payload of numbers is empty.

    Raises:
        ValueError, IndexError: It is not a whole message.
    """
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        start, wire_type = at, tag & 7
        if wire_type == 0:
            _, at = _varint(data, at)
            start = at
        elif wire_type == 2:
            length, start = _varint(data, at)
            at = start + length
        elif wire_type in (1, 5):
            at += 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"a field of type {wire_type}")
        if at > len(data):
            raise ValueError("a field is cut")
        yield tag >> 3, data[start:at]


def _check_wire(
    data: memoryview, message: str = "Net", budget: Iterator[int] | None = None
) -> None:
    """Check the structure of a message before it is decoded.

    protobuf takes many times the space of the data for messages without contents.

    Args:
        data: The message.
        message: Its name in the schema.
        budget: An iterator over as many values as the message may have fields.

    Raises:
        ValueError, IndexError: It is cut, or has too many fields, or too long names.
    """
    budget = iter(range(_MAX_FIELDS)) if budget is None else budget
    known = {number: (name, kind) for name, number, kind, _ in _SCHEMA[message]}
    for number, payload in _fields(data):
        if next(budget, None) is None:
            raise ValueError("too many fields")
        name, kind = known.get(number, ("", ""))
        if kind in _SCHEMA:
            _check_wire(payload, kind, budget)
        elif kind in ("string", "int64"):
            if len(payload) > _MAX_LENGTH:
                raise ValueError(f"{message} has a {name} of {len(payload)} bytes")
            if kind == "string":
                bytes(payload).decode()


def _blob(layer: str, blob: Any) -> Tensor:
    """Return a blob as a float32 tensor."""
    shape = list(blob.shape.dim) or [blob.num, blob.channels, blob.height, blob.width]
    packed, dtype = (blob.data, "<f4") if blob.data else (blob.double_data, "<f8")
    size, rest = divmod(sum(map(len, packed)), int(dtype[-1]))
    if rest or min(shape) < 1 or math.prod(shape) != size:
        raise UserError(
            f"layer {layer} has {size} packed values for a blob of shape {shape}; "
            "save it again with Caffe, which packs all values"
        )
    values = np.frombuffer(bytearray().join(packed), dtype).astype(np.float32, copy=False)
    return torch.from_numpy(values).reshape(shape)


def our_layer(name: str) -> str | None:
    """Return our name of a Caffe layer: "res3.7.temporal.conv" for "res3b7_branch2b_t".

    Blocks of a stage are called a, b, c, ... or a, b1, b2, ... Return None for an unknown name.
    """
    if name in ("conv1", "bn_conv1"):
        return "stem.conv" if name == "conv1" else "stem.bn"
    if match := _LAYER.fullmatch(name):
        kind, stage, letter, number, branch = match.groups()
        index = int(number) if number else ord(letter) - ord("a")
        return f"res{stage}.{index}.{_PARTS[branch]}.{'conv' if kind == 'res' else 'bn'}"
    return None


def _tensors(name: str, kind: str, blobs: list[Tensor]) -> dict[str, Tensor]:
    """Return a layer's blobs under our keys and in our shapes."""
    if kind == "InnerProduct" or name.startswith("fc"):
        if len(blobs) != 2:
            raise UserError(f"layer {name} has {len(blobs)} blobs; a classifier has 2")
        weight = blobs[0].reshape(-1, blobs[0].shape[-1])
        return {"fc.weight": weight, "fc.bias": blobs[1].reshape(-1)}
    ours = our_layer(name)
    if ours is None:
        raise UserError(
            f"layer {name} ({kind}) is not a P3D's: this is another network; give a P3D's file"
        )
    count = 4 if ours.endswith(".bn") else 1
    if len(blobs) != count:
        raise UserError(f"layer {name} has {len(blobs)} blobs; a P3D's has {count}")
    if count == 4:
        leaves = zip(_NORM_LEAVES, blobs, strict=True)
        return {f"{ours}.{leaf}": blob.reshape(-1) for leaf, blob in leaves}
    key = f"{ours}.weight"
    return {key: flatten_kernel(key, blobs[0])}


def _not_whole() -> UserError:
    return UserError(
        "it is neither a PyTorch file, nor safetensors, nor a complete .caffemodel; "
        "it may be damaged or incomplete: download it again"
    )


def read_caffemodel(path: Path) -> dict[str, Tensor]:
    """Read a `.caffemodel` of any depth, modality and class count.

    Args:
        path: A binary `NetParameter`.

    Returns:
        float32 tensors under our names and in our shapes.

    Raises:
        UserError: The file is damaged, not a `.caffemodel`, or another network's; or protobuf is
            not installed.
    """
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise ValueError("too large")
        data = path.read_bytes()
        _check_wire(memoryview(data))
    except (ValueError, IndexError) as error:
        raise _not_whole() from error
    message = _net_message()
    try:
        net = message.FromString(data)
    except Exception as error:  # protobuf's DecodeError, or what its other implementations raise
        raise _not_whole() from error
    state: dict[str, Tensor] = {}
    for layer in net.layer:
        if not layer.blobs:
            continue
        tensors = _tensors(layer.name, layer.type, [_blob(layer.name, b) for b in layer.blobs])
        if repeated := state.keys() & tensors.keys():
            raise UserError(f"layer {layer.name} contains {min(repeated)} a second time")
        state |= tensors
    if not state:
        raise UserError("it has no layers with weights; give the .caffemodel of a P3D network")
    return state
