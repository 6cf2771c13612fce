"""Loading networks: strictly, and saying aloud what was concluded or changed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from torch import Tensor

from p3d.errors import UserError
from p3d.model.network import P3D, Modality, Variant, Wiring
from p3d.preprocessing import Preprocessing
from p3d.weights.describe import Overrides, PreprocessingName, WeightFile, read_weights
from p3d.weights.keys import check_fit, complete_counters
from p3d.weights.metadata import build
from p3d.weights.reading import recognise
from p3d.weights.resnet import inflate

_log = logging.getLogger("p3d.weights")


def build_model(state: Mapping[str, Tensor], file: WeightFile) -> P3D:
    """Build the network of a file that `read_weights` has read, in evaluation mode.

    Raises:
        UserError: Keys or shapes do not fit.
    """
    try:
        return build(file.config, state, file.preprocessing, file.class_names)
    except UserError as error:
        raise UserError(f"{file.path}: {error}") from error


def load_model(
    path: Path | str,
    *,
    wiring: str | None = None,
    variant: str | None = None,
    modality: str | None = None,
    dropout: float | None = None,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    preprocessing: PreprocessingName | Preprocessing | None = None,
) -> P3D:
    """Load a network from any known weight file, told by its content.

    Read are our safetensors and training checkpoints, the public PyTorch port's pickles (with or
    without "module." and a surrounding dict), the authors' `.caffemodel`s, and 2-D ResNet-50, -101
    and -152 weights (inflated). Foreign files do not say how they are wired or what pixels they
    saw; what is concluded from their contents goes to the logger "p3d.weights", and can be
    overridden.

    Args:
        path: The file.
        wiring: "author" or "port", in place of what the file says or suggests.
        variant: "ABC", "A", "B", "C" or "2d", for foreign files.
        modality: "flow" to start a flow network from a 2-D RGB ResNet.
        dropout: Probability before the classifier.
        num_classes: Another number than the file's makes a new, untrained classifier.
        class_names: One name a class, in the order of the logits.
        preprocessing: "authors" (BGR, 0-255, mean subtracted), "imagenet" (unit scale), or in full.

    Returns:
        The network, float32, on the CPU, in evaluation mode.

    Raises:
        UserError: The file cannot be read, is damaged or of no known format, or its tensors are not
            exactly the network's; one line with the path, the fault and the remedy.

    Example:
        >>> model = load_model("p3d_rgb_199.checkpoint.pth.tar")  # doctest: +SKIP
        >>> model.config.wiring, model.preprocessing.channels  # doctest: +SKIP
        ('author', 'bgr')
    """
    overrides = Overrides(
        cast("Wiring | None", wiring),
        cast("Variant | None", variant),
        cast("Modality | None", modality),
        dropout,
        num_classes,
        None if class_names is None else tuple(class_names),
        preprocessing,
    )
    state, file = read_weights(path, overrides)
    for note in file.notes:
        _log.warning("%s: %s", file.path, note)
    return build_model(state, file)


def convert_state_dict(
    state_dict: Mapping[str, Tensor],
    *,
    wiring: str = "author",
    variant: str = "ABC",
    modality: str = "rgb",
) -> dict[str, Tensor]:
    """Bring the public port's or a 2-D ResNet's tensors under our names and into our shapes.

    The network that takes them all has the same depth, input channels and number of classes; the
    keyword arguments matter only for a 2-D ResNet, which is inflated (see `p3d.weights.resnet`).

    Args:
        state_dict: Tensors by name; all names may carry the prefix "module.". Ours pass unchanged.
        wiring: Wiring of the network that a 2-D ResNet is to start.
        variant: Its kinds of block: "ABC", "A", "B", "C" or "2d".
        modality: "rgb" or "flow".

    Returns:
        A new dict; tensors are shared with the given one where they are the same numbers.

    Raises:
        UserError: The tensors are of no known network.

    Example:
        >>> model = create_model("p3d63", num_classes=1000)  # doctest: +SKIP
        >>> model.load_state_dict(convert_state_dict(resnet50_weights))  # doctest: +SKIP
    """
    contents = recognise(state_dict)
    if contents.format == "resnet":
        return complete_counters(
            inflate(contents.state, wiring=wiring, variant=variant, modality=modality)
        )
    return contents.state


def _disagreements(model: P3D, file: WeightFile) -> list[str]:
    """What the file's network is and the model is not, in words."""
    return [
        f"{name} is {theirs} in the file and {ours} in the model"
        for name in ("name", "modality", "wiring", "variant")
        if (theirs := getattr(file.config, name)) != (ours := getattr(model.config, name))
    ]


def _drops_head(model: P3D, file: WeightFile) -> bool:
    """Whether the file's classifier is for other classes than the model's."""
    if file.format == "resnet" or file.config.num_classes != model.config.num_classes:
        return True
    known = file.class_names is not None and model.class_names is not None
    return known and file.class_names != model.class_names


def load_pretrained(model: P3D, path: Path | str) -> tuple[str, ...]:
    """Start an existing network from a weight file, in place.

    A 2-D ResNet is inflated for the model's wiring and variant. A classifier for other classes than
    the model's is left out. The model takes over the file's channel order, mean and deviation
    (they belong to the weights), and keeps its own clip and frame sizes (they belong to the run).

    Args:
        model: The network to fill; its configuration must be the file's but for the classes.
        path: Any file that `load_model` reads.

    Returns:
        What was concluded or changed, one line each.

    Raises:
        UserError: As `load_model`; or the file's network is another one than the model.
    """
    config = model.config
    state, file = read_weights(path)
    if file.format == "resnet":
        overrides = Overrides(config.wiring, config.variant, config.modality)
        state, file = read_weights(path, overrides)
    if faults := _disagreements(model, file):
        raise UserError(
            f"{path}: {'; '.join(faults)}; build the model to match, or, if the file is not what "
            "it was taken for, say so once with `p3d convert`"
        )
    notes = [note for note in file.notes if "classifier" not in note]
    if _drops_head(model, file):
        own = model.state_dict()
        state |= {key: own[key] for key in ("fc.weight", "fc.bias")}
        notes.append(
            f"the file's classifier of {file.config.num_classes} classes is left out; "
            f"the model's own of {config.num_classes} is kept"
        )
    elif model.class_names is None:
        model.class_names = file.class_names
    try:
        check_fit(model, state)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    model.load_state_dict(state)
    theirs = file.preprocessing
    model.preprocessing = replace(
        model.preprocessing, channels=theirs.channels, mean=theirs.mean, std=theirs.std
    )
    return tuple(notes)
