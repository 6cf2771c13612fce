"""Identifying weight files: the network that a file contains, and the pixels that it expects."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from p3d.errors import UserError
from p3d.model.config import CHANNELS, FEATURES, P3DConfig
from p3d.preprocessing import AUTHORS, AUTHORS_FLOW, IMAGENET, Preprocessing
from p3d.weights.calibration import read_calibration
from p3d.weights.class_names import KINETICS_NOTE, is_authors_kinetics, kinetics400
from p3d.weights.entries import (
    check_class_names,
    read_metadata,
    read_rates,
    read_recipe,
    read_trained_on,
)
from p3d.weights.evidence import UNIT_FLOW, infer_origin
from p3d.weights.keys import add_counters, check_fit, config_from
from p3d.weights.metadata import skeleton
from p3d.weights.reading import Contents, Format, prefix_errors, read_contents
from p3d.weights.resnet import inflate

PreprocessingName = Literal["authors", "imagenet"]


@dataclass(frozen=True)
class Overrides:
    """Values that replace those of a weight file; None keeps the file's.

    Attributes:
        wiring: "author" or "port".
        variant: Kinds of block, which only files without metadata leave open.
        modality: "flow" to start a flow network from a 2-D ResNet.
        dropout: Probability of dropping a feature before the classifier.
        num_classes: If it differs from the file's, the classifier is a new, untrained one.
        class_names: One name per class.
        preprocessing: The expected pixels: "authors", "imagenet" or a `Preprocessing`.
    """

    wiring: str | None = None
    variant: str | None = None
    modality: str | None = None
    dropout: float | None = None
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None
    preprocessing: PreprocessingName | Preprocessing | None = None


@dataclass(frozen=True)
class WeightFile:
    """Description of a weight file.

    Attributes:
        path: The file.
        format: "p3d" (our safetensors), "checkpoint", "port", "caffe" or "resnet".
        config: The network.
        preprocessing: The pixels that it expects.
        class_names: One name per class, if known.
        source: Where the weights come from, if known.
        recipe: How they were trained, if known.
        trained_on: Digests of the videos that they were trained on; empty if unknown.
        rates: Lowest and highest frame rate of these videos; None if unknown.
        calibration: Values that `p3d calibrate` has fitted; empty if it was not run.
        notes: What was inferred or changed, one line each.
    """

    path: Path
    format: Format
    config: P3DConfig
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None
    source: str | None
    recipe: dict[str, Any] | None
    trained_on: frozenset[bytes]
    rates: tuple[float, float] | None
    calibration: dict[str, float]
    notes: tuple[str, ...]


def _resolve_preprocessing(
    preprocessing: PreprocessingName | Preprocessing, modality: str
) -> Preprocessing:
    if isinstance(preprocessing, Preprocessing):
        if (preprocessing.channels == "flow") != (modality == "flow"):
            raise UserError(
                f"a preprocessing for {preprocessing.channels} does not fit a {modality} network; "
                f"give one for {modality}"
            )
        return preprocessing
    named = {
        ("authors", "rgb"): AUTHORS,
        ("authors", "flow"): AUTHORS_FLOW,
        ("imagenet", "rgb"): IMAGENET,
        ("imagenet", "flow"): UNIT_FLOW,
    }.get((preprocessing, modality))
    if named is None:
        raise UserError(
            f"no preprocessing is called {preprocessing!r}; choose one of: authors, imagenet"
        )
    return named


def _infer(
    contents: Contents, overrides: Overrides
) -> tuple[dict[str, Tensor], P3DConfig, PreprocessingName, str]:
    """Infer what a file without metadata contains.

    Returns:
        Tensors under our names, configuration, preprocessing, and a note on how they were inferred.
    """
    state, variant = contents.state, overrides.variant
    if contents.format == "resnet":
        wiring, modality = overrides.wiring or "author", overrides.modality or "rgb"
        state = add_counters(
            inflate(state, wiring=wiring, variant=variant or "ABC", modality=modality)
        )
        config = config_from(state, wiring=wiring, variant=variant)
        note = (
            f"a 2-D ResNet, inflated to {config.name} ({config.wiring} wiring, {config.variant}); "
            "ImageNet's preprocessing is assumed"
        )
        return state, config, "imagenet", note
    config = config_from(state, wiring="author", variant=variant)
    check_fit(skeleton(config), state)
    if contents.format == "caffe":
        note = "a .caffemodel: author wiring and the authors' preprocessing"
        return state, config, "authors", note
    wiring, preprocessing, reason = infer_origin(state, config, port=contents.format == "port")
    note = f"{reason}: {wiring} wiring, {preprocessing} preprocessing"
    return state, replace(config, wiring=wiring), preprocessing, note


def _override_config(config: P3DConfig, overrides: Overrides, notes: list[str]) -> P3DConfig:
    """Apply the overrides to a configuration, and note them."""
    if overrides.modality not in (None, config.modality):
        raise UserError(
            f"its stem takes {CHANNELS[config.modality]} channels: the network is for "
            f"{config.modality}, not {overrides.modality}; omit the modality"
        )
    changes = {
        name: value
        for name in ("wiring", "variant", "dropout", "num_classes")
        if (value := getattr(overrides, name)) not in (None, getattr(config, name))
    }
    notes += [
        f"{name} is {value} as requested; the file's is {getattr(config, name)}"
        for name, value in changes.items()
        if name != "num_classes"
    ]
    return replace(config, **changes)


def _renew_classifier(state: dict[str, Tensor], old: int, new: int) -> str:
    """Put an untrained classifier of other classes into a state, and return a note about it."""
    state["fc.weight"] = torch.empty(new, FEATURES).normal_(std=0.01)  # as in a new network
    state["fc.bias"] = torch.zeros(new)
    return f"the file's classifier of {old} classes is replaced by a new, untrained one of {new}"


def _known_names(
    config: P3DConfig, pixels: Preprocessing, source: str | None, notes: list[str]
) -> tuple[str, ...] | None:
    """Return the class names of a network of the authors, and note it; else None."""
    if not is_authors_kinetics(config, pixels, source or ""):
        return None
    notes.append(KINETICS_NOTE)
    return kinetics400()


def interpret(
    path: Path, contents: Contents, overrides: Overrides
) -> tuple[dict[str, Tensor], WeightFile]:
    """Return the tensors and the description of a file that `read_contents` has read.

    Raises:
        UserError: As `load_model`, without the path in the message.
    """
    metadata, notes = contents.metadata, list[str]()
    preprocessing: PreprocessingName | Preprocessing
    if metadata:
        state, source = contents.state, metadata.get("source")
        stored, preprocessing, class_names = read_metadata(metadata)
    else:
        state, stored, preprocessing, note = _infer(contents, overrides)
        class_names, source = None, f"{contents.format} file {path.name}"
        notes.append(note)
    config = _override_config(stored, overrides, notes)
    calibration = read_calibration(metadata)
    if config.num_classes != stored.num_classes:
        notes.append(_renew_classifier(state, stored.num_classes, config.num_classes))
        class_names, calibration = None, {}
    elif contents.format == "resnet":
        notes.append(
            f"the 2-D network's classifier of {config.num_classes} classes is kept; "
            "give num_classes for a new one"
        )
    if overrides.class_names is not None:
        class_names = check_class_names(overrides.class_names, config.num_classes)
    if overrides.preprocessing is not None:
        preprocessing = overrides.preprocessing
    pixels = _resolve_preprocessing(preprocessing, config.modality)
    if class_names is None and config.num_classes == stored.num_classes:
        class_names = _known_names(config, pixels, source, notes)
    return state, WeightFile(
        path,
        contents.format,
        config,
        pixels,
        class_names,
        source,
        read_recipe(metadata),
        read_trained_on(metadata),
        read_rates(metadata),
        calibration,
        tuple(notes),
    )


def read_weights(
    path: Path | str, overrides: Overrides = Overrides()
) -> tuple[dict[str, Tensor], WeightFile]:
    """Read a weight file; return its tensors under our names, and its description.

    Raises:
        UserError: As `load_model`.
    """
    path = Path(path)
    contents = read_contents(path)
    with prefix_errors(path):
        return interpret(path, contents, overrides)


def describe_file(path: Path | str) -> WeightFile:
    """Return the description of a weight file, after checking that it is complete.

    Raises:
        UserError: As `load_model`.
    """
    state, file = read_weights(path)
    with prefix_errors(file.path):
        check_fit(skeleton(file.config), state)
    return file
