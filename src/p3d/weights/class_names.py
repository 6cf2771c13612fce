"""Class names that files of the authors' networks do not contain, and comparison of class names."""

from __future__ import annotations

import re
from importlib import resources

from p3d.model.config import P3DConfig
from p3d.preprocessing import AUTHORS, AUTHORS_FLOW, Preprocessing

KINETICS_NOTE = "class names: Kinetics-400, alphabetical, as the authors' networks are ordered"

_KINETICS_CLASSES = 400


def kinetics400() -> tuple[str, ...]:
    """Return the class names of Kinetics-400 in alphabetical order (that of ASCII)."""
    text = resources.files("p3d.weights").joinpath("kinetics400.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def is_authors_kinetics(config: P3DConfig, preprocessing: Preprocessing, source: str) -> bool:
    """Return whether weights without class names are those that the authors trained on Kinetics.

    They are if they come from a file of Caffe or the port, have 400 classes and the authors'
    wiring, and take pixels as the authors scaled them; `p3d.weights.evidence` infers the last two.

    Args:
        config: The network.
        preprocessing: The pixels that it was trained on.
        source: Where the weights come from, "caffe file NAME" for example.
    """
    scales = [(known.channels, known.mean, known.std) for known in (AUTHORS, AUTHORS_FLOW)]
    return (
        source.startswith(("caffe file ", "port file "))
        and config.num_classes == _KINETICS_CLASSES
        and config.wiring == "author"
        and (preprocessing.channels, preprocessing.mean, preprocessing.std) in scales
    )


def same_class(first: str, second: str) -> bool:
    """Return whether two names are those of one class, spelled alike or as names of folders.

    Case, spaces, underscores, hyphens, apostrophes and parentheses are ignored: folders of
    Kinetics are called `hurling_(sport)`, `hurling -sport-` and so on.
    """
    return _spelling(first) == _spelling(second)


def _spelling(name: str) -> str:
    return re.sub(r"[\s_()'-]", "", name.casefold()) or name
