"""Saving networks: safetensors with the record that rebuilds them, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file

from p3d.errors import UserError
from p3d.files import replacing
from p3d.model import P3D
from p3d.weights.metadata import metadata_of


def save_model(
    model: P3D,
    path: Path | str,
    *,
    class_names: Sequence[str] | None = None,
    source: str | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> None:
    """Save a network as safetensors, with all that rebuilds it and its input in the header.

    The file appears whole or not at all; one that stood there before survives a failure.

    Args:
        model: The network, on any device.
        path: Where to; the folder must exist.
        class_names: One name a class; the model's own by default.
        source: Where the weights come from, in words.
        recipe: How they were trained; anything that JSON can hold.

    Raises:
        UserError: The number of class names is wrong, or the file cannot be written.
    """
    path = Path(path)
    metadata = metadata_of(model, class_names=class_names, source=source, recipe=recipe)
    tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
    if path.is_dir():
        raise UserError(
            f"{path} is a folder; name a file in it, such as {path / 'p3d.safetensors'}"
        )
    try:
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path}: cannot be written ({error}); check that the folder exists, "
            "that it may be written to, and that its disk has room"
        ) from error
