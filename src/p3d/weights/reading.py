"""Reading weight files. The format is recognized by the content, never by the file's name."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from p3d.errors import UserError, printable
from p3d.system.spelling import describe_unread
from p3d.weights.caffe import read_caffemodel
from p3d.weights.entries import VERSION_KEY
from p3d.weights.keys import add_counters, shorten
from p3d.weights.pickle_values import StoredTensor
from p3d.weights.port import from_port, is_port
from p3d.weights.resnet import is_resnet
from p3d.weights.safetensors_files import read_safetensors
from p3d.weights.sources import where_to_get
from p3d.weights.torch_files import open_torch_file

Format = Literal["p3d", "checkpoint", "port", "caffe", "resnet"]

CHECKPOINT_FORMAT = "p3d-checkpoint"
"""Value of "format" in a training checkpoint."""

_PREFIX = re.compile(r"^(?:(?:module|model|net|network|backbone)\.)+")
"""Prefixes of DataParallel, of Lightning and of other modules around the network. The prefix of
`torch.compile`, "_orig_mod.", can be anywhere in a key."""
_AVERAGED = "n_averaged"
"""The counter of `torch.optim.swa_utils.AveragedModel`."""
_WRAPPERS = (
    *("state_dict", "model_state_dict", "model_state", "model"),
    *("net", "network", "weights", "module"),
)
"""Keys under which training scripts save the state dict, the first of them first."""
_MAX_WRAPPERS = 4


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
        raise UserError(f"{printable(path)}: {printable(error)}") from error


def _without_prefix(key: str) -> str:
    """Return a key without what wrappers of the network have put into it."""
    return _PREFIX.sub("", key.replace("_orig_mod.", ""))


def recognize(state: Mapping[str, Any]) -> Contents:
    """Recognize tensors of the port, of a 2-D ResNet, or under our names.

    Args:
        state: A state dict, with or without prefixes of wrappers ("module.") in its keys.

    Raises:
        UserError: It is none of these.
    """
    tensors: dict[str, Tensor] = {}
    for key, value in state.items():
        name = _without_prefix(str(key))
        if not isinstance(value, Tensor) or name == _AVERAGED:
            continue
        if name in tensors:
            raise UserError(
                f"it contains {shorten(name)} more than once, with different prefixes; "
                "give the state dict of one network"
            )
        tensors[name] = value
    if is_port(tensors):
        return Contents("port", add_counters(from_port(tensors)))
    if is_resnet(tensors):
        return Contents("resnet", tensors)
    if "stem.conv.weight" in tensors:
        return Contents("p3d", add_counters(tensors))
    first = ", ".join([*map(shorten, list(tensors)[:3]), "..."]) if tensors else "none"
    raise UserError(
        f"its tensors ({first}) are not those of a P3D, the public port or a 2-D "
        "ResNet-50/101/152; give the weights of one of these"
    )


def _find_state(contents: dict[Any, Any]) -> dict[Any, Any]:
    """Return the state dict inside the dicts that training scripts put around it."""
    for _ in range(_MAX_WRAPPERS):
        wrapped = (contents.get(name) for name in _WRAPPERS)
        inner = next((value for value in wrapped if isinstance(value, dict) and value), None)
        if inner is None:
            break
        contents = inner
    return contents


def _read_torch(path: Path) -> Contents:
    file = open_torch_file(path)
    loaded = file.contents
    if not isinstance(loaded, dict):
        raise UserError(f"it contains a {_name(loaded)}; give a file with a state dict")
    if loaded.get("format") != CHECKPOINT_FORMAT:
        return recognize(file.tensors(_find_state(loaded)))
    # Of a run that averages weights, these are its result.
    model, metadata = loaded.get("average") or loaded.get("model"), loaded.get("metadata")
    if not isinstance(model, dict) or not isinstance(metadata, dict):
        raise UserError("it is a training checkpoint without a network; give another one")
    return Contents("checkpoint", file.tensors(model), metadata)


def _name(value: object) -> str:
    """Return what a value in a PyTorch file is."""
    if isinstance(value, StoredTensor):
        return "tensor"
    return type(value).__name__ if isinstance(value, (list, tuple, str, int)) else "single value"


def _is_torch(head: bytes) -> bool:
    """Return whether it is a zip archive, a pickle (PyTorch < 1.6) or a tar archive (< 0.2)."""
    return head[:4] == b"PK\x03\x04" or head[:1] == b"\x80" or head[257:262] == b"ustar"


def check_readable(path: Path) -> None:
    """Check that a weight file is there and can be opened, before other work begins.

    Raises:
        UserError: It cannot; the message starts with the path.
    """
    with _explained(path):
        _check_kind(path)
        path.open("rb").close()


def read_contents(path: Path) -> Contents:
    """Read a weight file of any known format.

    Raises:
        UserError: It cannot be read, or its format is unknown; the message starts with the path.
    """
    with _explained(path):
        return _read(path)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn errors of the system into UserErrors, with the path in front of all."""
    with prefix_errors(path):
        try:
            yield
        except OSError as error:
            remedy = where_to_get(path) if isinstance(error, FileNotFoundError) else None
            raise UserError(
                describe_unread(path, error)
                if remedy is None
                else f"cannot be read ({error.strerror}); {remedy}"
            ) from error


def _check_kind(path: Path) -> None:
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise UserError("it is a folder; give the file inside it, or a run's folder")
    if not stat.S_ISREG(mode):
        raise UserError("it is a pipe or a device; give a file")


def _read(path: Path) -> Contents:
    _check_kind(path)
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise UserError("it is empty; download it again")
    if head[7:9] == b"\0{":  # the end of the header's size, and the header
        state, metadata = read_safetensors(path)
        return Contents("p3d", state, metadata) if VERSION_KEY in metadata else recognize(state)
    if path.suffix.lower() in (".onnx", ".pt2", ".xml"):
        raise UserError("is an exported file; give it to p3d.Predictor or p3d predict")
    if head.lstrip()[:1] == b"<":
        raise UserError("it is a web page: the download failed; download it again")
    if _is_torch(head):
        return _read_torch(path)
    return Contents("caffe", add_counters(read_caffemodel(path)))
