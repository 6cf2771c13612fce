"""Finding out what a weight file is: which network it makes, and what pixels that expects."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from p3d.errors import UserError
from p3d.model.network import CHANNELS, FEATURES, Modality, P3DConfig, Variant, Wiring
from p3d.preprocessing import AUTHORS, AUTHORS_FLOW, IMAGENET, Preprocessing
from p3d.weights.evidence import UNIT_FLOW, judge
from p3d.weights.keys import check_fit, complete_counters, config_from
from p3d.weights.metadata import check_class_names, read_metadata, read_recipe, skeleton
from p3d.weights.reading import Contents, Format, read_contents
from p3d.weights.resnet import inflate

PreprocessingName = Literal["authors", "imagenet"]


@dataclass(frozen=True)
class Overrides:
    """What the caller knows better than the file; None leaves it to the file.

    Attributes:
        wiring: Wiring to compute with.
        variant: Kinds of block; only foreign files with T convolutions leave it open.
        modality: "flow" to start a flow network from a 2-D ResNet.
        dropout: Probability before the classifier.
        num_classes: Another number than the file's makes a new, untrained classifier.
        class_names: One name a class.
        preprocessing: The pixels the network expects, by name or in full.
    """

    wiring: Wiring | None = None
    variant: Variant | None = None
    modality: Modality | None = None
    dropout: float | None = None
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None
    preprocessing: PreprocessingName | Preprocessing | None = None


@dataclass(frozen=True)
class WeightFile:
    """What a weight file turned out to be.

    Attributes:
        path: The file.
        format: "p3d" (our safetensors), "checkpoint", "port", "caffe" or "resnet".
        config: The network that it makes.
        preprocessing: The pixels that this network expects.
        class_names: One name a class, where known.
        source: Where the weights come from, in words.
        recipe: How they were trained, where the file says so.
        notes: What was concluded rather than read, and what was changed: one line each.
    """

    path: Path
    format: Format
    config: P3DConfig
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None
    source: str | None
    recipe: dict[str, Any] | None
    notes: tuple[str, ...]


def named_preprocessing(name: PreprocessingName, modality: str) -> Preprocessing:
    """The authors' or ImageNet's preprocessing for a modality.

    Raises:
        UserError: No preprocessing has this name.
    """
    table = {
        ("authors", "rgb"): AUTHORS,
        ("authors", "flow"): AUTHORS_FLOW,
        ("imagenet", "rgb"): IMAGENET,
        ("imagenet", "flow"): UNIT_FLOW,
    }
    if (name, modality) not in table:
        raise UserError(f"no preprocessing is called {name!r}; choose one of: authors, imagenet")
    return table[name, modality]


def _interpret_foreign(
    contents: Contents, overrides: Overrides
) -> tuple[dict[str, Tensor], P3DConfig, Preprocessing, list[str]]:
    """Tensors, network, preprocessing and notes of a file that says nothing of itself."""
    variant, wiring = overrides.variant, overrides.wiring
    if contents.format == "resnet":
        wiring, modality = wiring or "author", overrides.modality or "rgb"
        state = complete_counters(
            inflate(contents.state, wiring=wiring, variant=variant or "ABC", modality=modality)
        )
        config = config_from(state, wiring=wiring, variant=variant)
        notes = [
            f"a 2-D ResNet, inflated to {config.name} ({config.wiring} wiring, {config.variant}); "
            "its preprocessing is taken to be ImageNet's"
        ]
        return state, config, named_preprocessing("imagenet", modality), notes
    state = dict(contents.state)
    config = config_from(state, wiring="author", variant=variant)
    if contents.format == "caffe":
        notes = ["a .caffemodel: author wiring and the authors' preprocessing"]
        return state, config, named_preprocessing("authors", config.modality), notes
    judged, prep_name, why = judge(state, config, port=contents.format == "port")
    notes = [f"{why}: {judged} wiring, {prep_name} preprocessing"]
    config = replace(config, wiring=judged)
    return state, config, named_preprocessing(prep_name, config.modality), notes


def _new_head(state: dict[str, Tensor], num_classes: int) -> None:
    """Put an untrained classifier in (drawn as in a new network)."""
    state["fc.weight"] = torch.empty(num_classes, FEATURES).normal_(std=0.01)
    state["fc.bias"] = torch.zeros(num_classes)


def _overridden_config(config: P3DConfig, overrides: Overrides, notes: list[str]) -> P3DConfig:
    """The configuration as the caller wants it; departures from the file's are noted."""
    if overrides.modality not in (None, config.modality):
        raise UserError(
            f"its stem takes {CHANNELS[config.modality]} channels, so that it is a "
            f"{config.modality} network, not {overrides.modality}; leave modality out"
        )
    fields = ("wiring", "variant", "dropout", "num_classes")
    changes = {
        name: value
        for name in fields
        if (value := getattr(overrides, name)) not in (None, getattr(config, name))
    }
    notes += [
        f"{name} is {value} as asked; the file's is {getattr(config, name)}"
        for name, value in changes.items()
        if name != "num_classes"
    ]
    return replace(config, **changes)


def _interpret(
    path: Path, contents: Contents, overrides: Overrides
) -> tuple[dict[str, Tensor], WeightFile]:
    """Decide what a file's contents make, under the caller's overrides."""
    notes: list[str] = []
    class_names: tuple[str, ...] | None = None
    metadata = contents.metadata
    if metadata:
        state = dict(contents.state)
        config, preprocessing, class_names = read_metadata(metadata)
    else:
        state, config, preprocessing, notes = _interpret_foreign(contents, overrides)
    found, config = config, _overridden_config(config, overrides, notes)
    if config.num_classes != found.num_classes:
        _new_head(state, config.num_classes)
        class_names = None
        notes.append(
            f"the file's classifier of {found.num_classes} classes is dropped; "
            f"the one of {config.num_classes} is new and untrained"
        )
    elif contents.format == "resnet":
        notes.append(
            f"the 2-D network's classifier of {config.num_classes} classes is kept; "
            "give num_classes for a new one"
        )
    if overrides.class_names is not None:
        class_names = check_class_names(overrides.class_names, config.num_classes)
    if isinstance(overrides.preprocessing, str):
        preprocessing = named_preprocessing(overrides.preprocessing, config.modality)
    elif overrides.preprocessing is not None:
        preprocessing = overrides.preprocessing
    if (preprocessing.channels == "flow") != (config.modality == "flow"):
        raise UserError(
            f"a preprocessing for {preprocessing.channels} does not fit a {config.modality} network"
        )
    source = metadata.get("source") if metadata else f"{contents.format} file {path.name}"
    return state, WeightFile(
        path,
        contents.format,
        config,
        preprocessing,
        class_names,
        source,
        read_recipe(metadata),
        tuple(notes),
    )


def read_weights(
    path: Path | str, overrides: Overrides = Overrides()
) -> tuple[dict[str, Tensor], WeightFile]:
    """Read a weight file: our tensors, and what they are.

    Raises:
        UserError: As `load_model`.
    """
    path = Path(path)
    contents = read_contents(path)
    try:
        return _interpret(path, contents, overrides)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def describe_file(path: Path | str) -> WeightFile:
    """Find out what a weight file is, and check that it is whole.

    Raises:
        UserError: As `load_model`.
    """
    state, file = read_weights(path)
    try:
        check_fit(skeleton(file.config), state)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return file
