"""The record that travels with our weights: what rebuilds the network, and where it comes from.

It is a flat dict of strings, because that is what a safetensors header holds; a training
checkpoint keeps the same dict.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from p3d.errors import UserError
from p3d.model.network import P3D, Modality, Name, P3DConfig, Variant, Wiring
from p3d.preprocessing import Preprocessing
from p3d.system.files import replacing
from p3d.weights.keys import check_fit

VERSION_KEY = "p3d_format"

VERSION = "1"


def check_class_names(names: Sequence[str], num_classes: int) -> tuple[str, ...]:
    """Return the names as a tuple.

    Raises:
        UserError: There is not exactly one name a class.
    """
    if isinstance(names, str) or len(names) != num_classes:
        raise UserError(
            f"{len(names)} class names were given for {num_classes} classes; "
            "give a sequence with one name a class, in the order of the logits"
        )
    return tuple(names)


def metadata_of(
    model: P3D,
    *,
    class_names: Sequence[str] | None = None,
    source: str | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Describe a model by strings, so that `model_from` can build it again.

    Args:
        model: The network.
        class_names: One name a class; the model's own by default.
        source: Where the weights come from, in words.
        recipe: How they were trained; anything that JSON can hold.

    Returns:
        Format version, configuration, preprocessing and class names, as strings.

    Raises:
        UserError: The number of class names is wrong.
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
        metadata["class_names"] = json.dumps(
            check_class_names(names, config.num_classes), ensure_ascii=False
        )
    if source is not None:
        metadata["source"] = source
    if recipe is not None:
        metadata["recipe"] = json.dumps(recipe, ensure_ascii=False)
    return metadata


def read_metadata(
    metadata: Mapping[str, str],
) -> tuple[P3DConfig, Preprocessing, tuple[str, ...] | None]:
    """Undo `metadata_of`: configuration, preprocessing, class names.

    Raises:
        UserError: An entry is missing or unreadable, or of a newer format.
    """
    version = metadata.get(VERSION_KEY)
    if version != VERSION:
        raise UserError(
            f"its format version is {version}, this p3d reads version {VERSION}: upgrade p3d"
        )
    try:
        config = P3DConfig(
            cast(Name, metadata["name"]),
            int(metadata["num_classes"]),
            cast(Modality, metadata["modality"]),
            cast(Wiring, metadata["wiring"]),
            cast(Variant, metadata["variant"]),
            float(metadata["dropout"]),
        )
        preprocessing = Preprocessing.from_dict(json.loads(metadata["preprocessing"]))
        names = json.loads(metadata["class_names"]) if "class_names" in metadata else None
        class_names = None if names is None else check_class_names(names, config.num_classes)
    except UserError:
        raise
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"its metadata is damaged ({error!r}); save the model again") from error
    return config, preprocessing, class_names


def read_recipe(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The training recipe that the metadata carries, if any.

    Raises:
        UserError: It is unreadable.
    """
    if "recipe" not in metadata:
        return None
    try:
        return dict(json.loads(metadata["recipe"]))
    except (ValueError, TypeError) as error:
        raise UserError(f"its recipe is damaged ({error}); save the model again") from error


class _Uninitialised(TorchFunctionMode):
    """Leave out initial values that nobody will see.

    Drawing them takes a second for the deepest network, and seconds on the meta device, which loads
    PyTorch's whole compiler for it.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run everything but `torch.nn.init` as it is."""
        kwargs = kwargs or {}
        if func is Tensor.normal_ or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def skeleton(config: P3DConfig) -> P3D:
    """Build a network without numbers, on the "meta" device: shapes only, at no cost."""
    with torch.device("meta"), _Uninitialised():
        return P3D(config)


def build(
    config: P3DConfig,
    state: Mapping[str, Tensor],
    preprocessing: Preprocessing,
    class_names: tuple[str, ...] | None,
) -> P3D:
    """Build a network around given tensors (copied), in evaluation mode.

    Raises:
        UserError: Keys or shapes do not fit.
    """
    with _Uninitialised():
        model = P3D(config)
    check_fit(model, state)
    model.load_state_dict(dict(state))
    model.preprocessing, model.class_names = preprocessing, class_names
    return model.eval()


def model_from(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> P3D:
    """Build the network that `metadata_of` described, with these weights.

    Args:
        state: Our tensors.
        metadata: The strings of `metadata_of`.

    Returns:
        The network, float32, on the CPU, in evaluation mode.

    Raises:
        UserError: The metadata is unreadable, or keys or shapes do not fit it.
    """
    config, preprocessing, class_names = read_metadata(metadata)
    return build(config, state, preprocessing, class_names)


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
