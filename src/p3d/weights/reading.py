"""Reading weight files. The format is recognized by the content, never by the file's name."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from p3d.errors import UserError
from p3d.weights.caffe import read_caffemodel
from p3d.weights.keys import add_counters
from p3d.weights.metadata import VERSION_KEY
from p3d.weights.port import from_port, is_port
from p3d.weights.resnet import is_resnet

Format = Literal["p3d", "checkpoint", "port", "caffe", "resnet"]

CHECKPOINT_FORMAT = "p3d-checkpoint"
"""Value of "format" in a training checkpoint."""


@dataclass(frozen=True)
class Contents:
    """The tensors of a weight file, and its format.

    Attributes:
        format: "p3d" (our safetensors), "checkpoint", "port", "caffe" or "resnet".
        state: Tensors under our names; those of "resnet" under their own.
        metadata: The metadata of "checkpoint" and of most "p3d" files, else empty.
    """

    format: Format
    state: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)


@contextmanager
def prefix_errors(path: Path) -> Iterator[None]:
    """Put a file's path in front of the messages of the `UserError`s raised inside."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def recognize(state: Mapping[str, Any]) -> Contents:
    """Recognize tensors of the port, of a 2-D ResNet, or under our names.

    Args:
        state: A state dict, with or without the prefix "module." in its keys.

    Raises:
        UserError: It is none of these.
    """
    tensors = {
        str(key).removeprefix("module."): value
        for key, value in state.items()
        if isinstance(value, Tensor)
    }
    if is_port(tensors):
        return Contents("port", add_counters(from_port(tensors)))
    if is_resnet(tensors):
        return Contents("resnet", tensors)
    if "stem.conv.weight" in tensors:
        return Contents("p3d", add_counters(tensors))
    first = ", ".join([*list(tensors)[:3], "..."]) if tensors else "none"
    raise UserError(
        f"its tensors ({first}) are not those of a P3D, the public port or a 2-D "
        "ResNet-50/101/152; give the weights of one of these"
    )


def _read_safetensors(path: Path) -> Contents:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"it is damaged or incomplete ({error}); download it again") from error
    if VERSION_KEY in metadata:
        return Contents("p3d", state, metadata)
    return recognize(state)


class _Ignored:
    """Replaces a value that is not needed; accepts and discards any arguments and state."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


_NUMPY_SCALARS: list[Any] = [
    type(name, (_Ignored,), {"__module__": module})
    for module, name in (
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy", "dtype"),
    )
]
"""Many training scripts save the accuracy as a NumPy scalar, which PyTorch's restricted unpickler
refuses. It is given these classes under NumPy's names, so the file can be read and no code of
NumPy's runs."""


def _torch_load(path: Path, *, mapped: bool) -> Any:
    """Load the tensors and plain values of a PyTorch file; NumPy scalars are ignored."""
    # PyTorch 2.4 lacks safe_globals and refuses files with NumPy scalars.
    allowing = getattr(torch.serialization, "safe_globals", lambda _: nullcontext())
    try:
        with allowing(_NUMPY_SCALARS):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except OSError:
        raise
    # Damaged bytes can raise almost any exception.
    except Exception as error:
        message = str(error)
        if isinstance(error, pickle.UnpicklingError) and "global" in message.lower():
            raise UserError(
                "it contains Python objects other than tensors, which could run code and are not "
                "loaded; save model.state_dict() alone, where the file was made"
            ) from error
        reason = (message.splitlines() or [type(error).__name__])[0][:100]
        raise UserError(f"it is damaged or incomplete ({reason}); download it again") from error


def _read_torch(path: Path, head: bytes) -> Contents:
    # Only zip archives can be memory-mapped, which reads only the tensors that are used.
    loaded = _torch_load(path, mapped=head[:2] == b"PK")
    if not isinstance(loaded, Mapping):
        raise UserError(f"it contains a {type(loaded).__name__}; give a file with a state dict")
    if loaded.get("format") == CHECKPOINT_FORMAT:
        if not isinstance(loaded.get("model"), Mapping) or "metadata" not in loaded:
            raise UserError("it is a training checkpoint without a network; give another one")
        return Contents("checkpoint", dict(loaded["model"]), dict(loaded["metadata"]))
    wrapped = loaded.get("state_dict", loaded)
    return recognize(wrapped if isinstance(wrapped, Mapping) else loaded)


def _is_torch(head: bytes) -> bool:
    """Return whether it is a zip archive, a pickle (PyTorch < 1.6) or a tar archive (< 0.2)."""
    return head[:4] == b"PK\x03\x04" or head[:1] == b"\x80" or head[257:262] == b"ustar"


def read_contents(path: Path) -> Contents:
    """Read a weight file of any known format.

    Raises:
        UserError: It cannot be read, or its format is unknown; the message starts with the path.
    """
    with prefix_errors(path):
        try:
            return _read(path)
        except OSError as error:
            raise UserError(
                f"cannot be read ({error.strerror or error}); check the path"
            ) from error


def _read(path: Path) -> Contents:
    if path.is_dir():
        raise UserError("it is a folder; give the file inside it (such as model.safetensors)")
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise UserError("it is empty; download it again")
    if head.lstrip()[:1] == b"<":
        raise UserError("it is a web page: the download failed; download it again")
    if head[8:9] == b"{":
        return _read_safetensors(path)
    if _is_torch(head):
        return _read_torch(path, head)
    return Contents("caffe", add_counters(read_caffemodel(path)))
