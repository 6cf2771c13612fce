"""Opening a weight file of whatever format, judged by its content and never by its name."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from p3d.errors import UserError
from p3d.weights.caffe import read_caffemodel
from p3d.weights.keys import complete_counters
from p3d.weights.metadata import VERSION_KEY
from p3d.weights.port import from_port, is_port
from p3d.weights.resnet import is_resnet

Format = Literal["p3d", "checkpoint", "port", "caffe", "resnet"]

CHECKPOINT_FORMAT = "p3d-checkpoint"
"""Value of "format" in a training checkpoint."""


@dataclass(frozen=True)
class Contents:
    """Tensors of a file and the format they came in.

    Attributes:
        format: Which of the formats it is.
        state: Our tensors; for "resnet" still under the 2-D network's names.
        metadata: What our own formats say of themselves; empty for the others.
    """

    format: Format
    state: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)


def recognise(state: Mapping[str, Any]) -> Contents:
    """Tell port, 2-D ResNet and our own tensors apart by their keys.

    Args:
        state: A state dict; its keys may all carry the prefix "module.".

    Raises:
        UserError: It is none of these.
    """
    tensors = {
        str(key).removeprefix("module."): value
        for key, value in state.items()
        if isinstance(value, Tensor)
    }
    if is_port(tensors):
        return Contents("port", complete_counters(from_port(tensors)))
    if is_resnet(tensors):
        return Contents("resnet", tensors)
    if "stem.conv.weight" in tensors:
        return Contents("p3d", complete_counters(tensors))
    first = ", ".join(list(tensors)[:3]) or "none at all"
    raise UserError(
        f"its tensors ({first} ...) are neither a P3D's, nor the public port's, nor a 2-D "
        "ResNet-50/101/152's; give weights of one of these"
    )


def _read_safetensors(path: Path) -> Contents:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"it is damaged or cut short ({error}); fetch it again") from error
    if VERSION_KEY in metadata:
        return Contents("p3d", state, metadata)
    return recognise(state)


class _Unread:
    """Stands in for what a file holds besides weights; whatever it is made from, it drops."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


_NUMPY_SCALARS: list[Any] = [
    type(name, (_Unread,), {"__module__": module})
    for module, name in (
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy", "dtype"),
    )
]
"""Training scripts like to save an accuracy as a NumPy scalar. PyTorch's restricted unpickler finds
these classes under NumPy's names, so that such a file is read and nothing of NumPy's is run."""


def _torch_load(path: Path, *, mapped: bool) -> Any:
    """Load a PyTorch file: tensors and plain values; NumPy scalars are passed over."""
    # PyTorch 2.4 has no such thing, and refuses these files.
    allowing = getattr(torch.serialization, "safe_globals", lambda _: nullcontext())
    try:
        with allowing(_NUMPY_SCALARS):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except OSError:
        raise
    # What damaged bytes make the loader raise is anybody's guess.
    except Exception as error:
        said = str(error)
        if isinstance(error, pickle.UnpicklingError) and ("GLOBAL" in said or "lobal" in said):
            raise UserError(
                "it holds Python objects besides tensors, which could run code and are not "
                "loaded; where it was made, save model.state_dict() alone"
            ) from error
        reason = (said.splitlines() or [type(error).__name__])[0][:100]
        raise UserError(f"it is damaged or cut short ({reason}); fetch it again") from error


def _read_torch(path: Path, head: bytes) -> Contents:
    # Only a zip archive can be mapped, which reads what is used and nothing else.
    loaded = _torch_load(path, mapped=head[:2] == b"PK")
    if not isinstance(loaded, Mapping):
        raise UserError(f"it holds a {type(loaded).__name__}, not a state dict; give weights")
    if loaded.get("format") == CHECKPOINT_FORMAT:
        if not isinstance(loaded.get("model"), Mapping) or "metadata" not in loaded:
            raise UserError("it is a training checkpoint without a network; take another one")
        return Contents("checkpoint", dict(loaded["model"]), dict(loaded["metadata"]))
    wrapped = loaded.get("state_dict", loaded)
    return recognise(wrapped if isinstance(wrapped, Mapping) else loaded)


def _is_torch(head: bytes) -> bool:
    """A zip archive, a bare pickle (PyTorch before 1.6), or a tar archive (before 0.2)."""
    return head[:4] == b"PK\x03\x04" or head[:1] == b"\x80" or head[257:262] == b"ustar"


def read_contents(path: Path) -> Contents:
    """Read a weight file of any known format.

    Raises:
        UserError: It cannot be read or is of no known format; one line with its path.
    """
    try:
        if path.is_dir():
            raise UserError("it is a folder; give the file inside it (such as model.safetensors)")
        with path.open("rb") as file:
            head = file.read(512)
        if not head:
            raise UserError("it is empty; fetch it again")
        if head.lstrip()[:1] == b"<":
            raise UserError("it is a web page, not weights: the download failed; fetch it again")
        if head[8:9] == b"{":
            return _read_safetensors(path)
        if _is_torch(head):
            return _read_torch(path, head)
        return Contents("caffe", complete_counters(read_caffemodel(path)))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}); check the path"
        ) from error
