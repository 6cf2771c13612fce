"""Saving networks with the metadata that rebuilds them, and building them from it.

Metadata is a flat dict of strings, as the header of a safetensors file requires. Training
checkpoints contain the same dict.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from p3d.errors import UserError, printable
from p3d.model.config import P3DConfig
from p3d.model.network import P3D
from p3d.preprocessing import Preprocessing
from p3d.system.files import reason_of, replacing
from p3d.weights.calibration import check_calibration, read_calibration
from p3d.weights.entries import (
    MAX_TRAINED_ON,
    VERSION,
    VERSION_KEY,
    check_class_names,
    read_metadata,
    read_rates,
    read_trained_on,
)
from p3d.weights.keys import check_fit
from p3d.weights.safetensors_files import CHECKSUM_KEY, checksum


def metadata_of(
    model: P3D,
    *,
    class_names: Sequence[str] | None = None,
    source: str | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Return the metadata from which `model_from` rebuilds a network; arguments as `save_model`.

    Raises:
        UserError: The number of class names is wrong, or a value of the calibration.
    """
    config = model.config
    metadata = {
        "format": "pt",
        VERSION_KEY: VERSION,
        "name": config.name,
        "num_classes": str(config.num_classes),
        "modality": config.modality,
        "wiring": config.wiring,
        "variant": config.variant,
        "dropout": repr(config.dropout),
        "preprocessing": json.dumps(model.preprocessing.to_dict()),
    }
    names = model.class_names if class_names is None else class_names
    if names is not None:
        checked = check_class_names(names, config.num_classes)
        text = json.dumps(checked, ensure_ascii=False)
        # Bytes of folder names that are not UTF-8 become JSON escapes, such as \udcff.
        metadata["class_names"] = text.encode("utf-8", "backslashreplace").decode()
    if model.trained_on:
        digests = b"".join(sorted(model.trained_on)[:MAX_TRAINED_ON])
        metadata["trained_on"] = base64.b64encode(digests).decode()
    if model.rates:
        metadata["rates"] = json.dumps(model.rates)
    if model.calibration:
        metadata["calibration"] = json.dumps(check_calibration(model.calibration))
    if source is not None:
        metadata["source"] = source
    if recipe is not None:
        metadata["recipe"] = json.dumps(recipe, ensure_ascii=False)
    return metadata


def save_model(
    model: P3D,
    path: Path | str,
    *,
    class_names: Sequence[str] | None = None,
    source: str | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> None:
    """Save a network with its configuration, preprocessing and checksum as a safetensors file.

    The file is written completely or not at all: an error leaves an existing file as it was.

    Args:
        model: The network, on any device.
        path: The file to write; its folder must exist.
        class_names: One name per class, by default the model's.
        source: Where the weights come from, as text.
        recipe: How they were trained; any JSON-serializable values.

    Raises:
        UserError: The number of class names is wrong, the network's layers do not fit its
            configuration, or the file cannot be written.
    """
    path = Path(path)
    _check_unchanged(model)
    metadata = metadata_of(model, class_names=class_names, source=source, recipe=recipe)
    tensors = {key: value.cpu().contiguous() for key, value in model.state_dict().items()}
    metadata[CHECKSUM_KEY] = checksum(tensors)
    if path.is_dir():
        raise UserError(
            f"{printable(path)} is a folder; give a file in it, such as p3d.safetensors"
        )
    try:
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{printable(path)}: cannot be written ({reason_of(error)}); check that the folder "
            "exists and is writable, and that its disk has room"
        ) from error


def _check_unchanged(model: P3D) -> None:
    """Raise UserError if layers were replaced, since the file could not be loaded."""
    outputs, classes = getattr(model.fc, "out_features", None), model.config.num_classes
    if outputs not in (None, classes):
        raise UserError(
            f"model.fc has {outputs} outputs, but model.config says {classes} classes; set "
            f"model.config = dataclasses.replace(model.config, num_classes={outputs}) and "
            "model.class_names, then save"
        )
    shapes, expected = (
        {key: value.shape for key, value in network.state_dict().items()}
        for network in (model, skeleton(model.config))
    )
    changed = [key for key in expected if shapes.get(key) != expected[key]]
    changed += [key for key in shapes if key not in expected]
    if changed:
        raise UserError(
            f"the layers of this network were changed ({changed[0]}), so p3d could not load its "
            "file; save it with torch.save(model.state_dict(), path)"
        )


class _SkipInit(TorchFunctionMode):
    """Skips `torch.nn.init`, for networks whose values are replaced or not needed.

    Drawing the values of the deepest network takes a second. On the meta device it takes several,
    since it loads PyTorch's compiler.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call `func`, unless it draws initial values."""
        kwargs = kwargs or {}
        if func is Tensor.normal_ or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def skeleton(config: P3DConfig) -> P3D:
    """Build a network on the "meta" device: shapes without values."""
    with torch.device("meta"), _SkipInit():
        return P3D(config)


def build(
    config: P3DConfig,
    state: Mapping[str, Tensor],
    preprocessing: Preprocessing,
    class_names: tuple[str, ...] | None,
    trained_on: frozenset[bytes],
    rates: tuple[float, float] | None,
    calibration: Mapping[str, float],
) -> P3D:
    """Build a network with copies of the given tensors, in evaluation mode.

    Raises:
        UserError: Keys or shapes do not fit.
    """
    model = skeleton(config)
    check_fit(model, state)  # before any memory is allocated
    model.to_empty(device="cpu")
    model.load_state_dict(dict(state))
    model.preprocessing, model.class_names = preprocessing, class_names
    model.trained_on, model.rates, model.calibration = trained_on, rates, dict(calibration)
    return model.eval()


def model_from(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> P3D:
    """Build the network that `metadata_of` described.

    Args:
        state: Its tensors.
        metadata: The result of `metadata_of`.

    Returns:
        The network, float32, on the CPU, in evaluation mode.

    Raises:
        UserError: The metadata is invalid, or the tensors do not fit it.
    """
    config, preprocessing, class_names = read_metadata(metadata)
    return build(
        config,
        state,
        preprocessing,
        class_names,
        read_trained_on(metadata),
        read_rates(metadata),
        read_calibration(metadata),
    )
