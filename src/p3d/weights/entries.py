"""Entries of a network's metadata, read from files that nobody has checked."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from p3d.data.digests import DIGEST_BYTES
from p3d.errors import UserError
from p3d.model.config import P3DConfig
from p3d.preprocessing import Preprocessing
from p3d.weights.keys import check_class_count

VERSION_KEY = "p3d_format"
VERSION = "1"
_MAX_NAME_LENGTH = 1000
MAX_TRAINED_ON = 2_000_000
"""Most videos that a file remembers; their digests take 13 MB of its header."""
MAX_ENTRY_LENGTH = 100
"""Upper limit of the characters of an entry with one word or number."""


def parse_entry(metadata: Mapping[str, str], key: str, subject: str) -> Any:
    """Return the value of an entry in JSON, or None if the entry is missing.

    Args:
        metadata: All entries.
        key: Key of the entry.
        subject: Start of the error message, such as "its recipe is".

    Raises:
        UserError: It is not JSON.
    """
    try:
        return _read_json(metadata, key)
    except ValueError as error:
        raise UserError(f"{subject} damaged ({error}); save the model again") from error


def _read_json(metadata: Mapping[str, str], key: str) -> Any:
    try:
        return json.loads(metadata[key]) if key in metadata else None
    except RecursionError as error:
        raise ValueError(f"{key} is nested too deep") from error


def check_class_names(names: Sequence[str], num_classes: int) -> tuple[str, ...]:
    """Return the names as a tuple.

    Raises:
        UserError: Their number is not the number of classes, or one is empty or no text.
    """
    if isinstance(names, str) or len(names) != num_classes:
        raise UserError(
            f"{len(names)} class names were given for {num_classes} classes; "
            "give a sequence with one name per class, in the order of the logits"
        )
    for index, name in enumerate(names):
        if not isinstance(name, str) or not 1 <= len(name) <= _MAX_NAME_LENGTH:
            raise UserError(
                f"class name {index} is {str(name)[:20]!r}; "
                f"give text of 1 to {_MAX_NAME_LENGTH} characters"
            )
    return tuple(names)


def _read_config(metadata: Mapping[str, str]) -> P3DConfig:
    keys = ("name", "modality", "wiring", "variant", "num_classes", "dropout")
    words = {key: metadata[key] for key in keys}
    for key, word in words.items():
        if len(word) > MAX_ENTRY_LENGTH:
            raise ValueError(f"{key} has {len(word)} characters")
    num_classes, dropout = int(words.pop("num_classes")), float(words.pop("dropout"))
    check_class_count(num_classes)
    return P3DConfig(**words, num_classes=num_classes, dropout=dropout)  # type: ignore[arg-type]


def read_metadata(
    metadata: Mapping[str, str],
) -> tuple[P3DConfig, Preprocessing, tuple[str, ...] | None]:
    """Return the configuration, preprocessing and class names in metadata.

    Raises:
        UserError: An entry is missing or invalid, or the format is newer.
    """
    if not all(isinstance(value, str) for value in metadata.values()):
        raise UserError("its metadata contains something else than text; save the model again")
    version = metadata.get(VERSION_KEY)
    if version != VERSION:
        raise UserError(
            f"its format version is {str(version)[:20]}, this p3d reads version {VERSION}; "
            "upgrade p3d"
        )
    try:
        config = _read_config(metadata)
        preprocessing = Preprocessing.from_dict(_read_json(metadata, "preprocessing"))
        names = _read_json(metadata, "class_names")
        if names is not None and not isinstance(names, list):
            raise ValueError("class_names is no list")
    except (KeyError, ValueError) as error:
        raise UserError(f"its metadata is damaged ({error!r}); save the model again") from error
    if (preprocessing.channels == "flow") != (config.modality == "flow"):
        raise UserError(
            f"its metadata is damaged ({preprocessing.channels} input for a {config.modality} "
            "network); save the model again"
        )
    class_names = None if names is None else check_class_names(names, config.num_classes)
    return config, preprocessing, class_names


def read_recipe(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the training recipe in metadata, or None.

    Raises:
        UserError: It is invalid.
    """
    recipe = parse_entry(metadata, "recipe", "its recipe is")
    if recipe is not None and not isinstance(recipe, dict):
        raise UserError("its recipe is damaged (no dictionary); save the model again")
    return recipe


def read_trained_on(metadata: Mapping[str, str]) -> frozenset[bytes]:
    """Return the digests of the videos that a network was trained on; none if unknown.

    Raises:
        UserError: They are invalid.
    """
    text = metadata.get("trained_on", "")
    try:
        if len(text) > -(-MAX_TRAINED_ON * DIGEST_BYTES // 3) * 4:
            raise ValueError(f"more than {MAX_TRAINED_ON} videos")
        digests = base64.b64decode(text, validate=True)
        if len(digests) % DIGEST_BYTES:
            raise ValueError(f"{len(digests)} bytes")
    except ValueError as error:
        raise UserError(
            f"its list of training videos is damaged ({error}); save the model again"
        ) from error
    starts = range(0, len(digests), DIGEST_BYTES)
    return frozenset(digests[start : start + DIGEST_BYTES] for start in starts)


def read_rates(metadata: Mapping[str, str]) -> tuple[float, float] | None:
    """Return the lowest and highest frame rate that a network was trained on; None if unknown.

    Raises:
        UserError: They are invalid.
    """
    rates = parse_entry(metadata, "rates", "its frame rates are")
    if rates is None:
        return None
    is_pair = isinstance(rates, list) and len(rates) == 2
    if not is_pair or not all(type(rate) in (int, float) for rate in rates):
        raise UserError("its frame rates are damaged (no two numbers); save the model again")
    low, high = map(float, rates)
    if not 0 < low <= high < math.inf:
        raise UserError(f"its frame rates are damaged ({low}, {high}); save the model again")
    return low, high
