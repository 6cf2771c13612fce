"""Features of videos in memory, and what is known about the videos."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p3d.system.npz_file import NpzFormat

FORMAT = NpzFormat("p3d features", 1, "p3d features writes such files")

_TEXTS = ("class_names", "paths", "groups", "splits", "bad")


@dataclass(frozen=True)
class FeatureIndex:
    """What is known about V videos with features, apart from the features.

    Attributes:
        labels: Index of each video's class.
        class_names: Class names by index.
        paths: Paths of the videos, each once.
        groups: What each video shares with others, see `VideoRecord.group`; "" if unknown.
        splits: The split of each video: "train", "validation", "test" or "" if undivided.
        seen: Whether the network was trained on a video; all False if that is not known.
        bad: Paths of the videos that could not be read.
        protocol: How the features were computed, as plain values.
        weights_sha256: SHA-256 of the weight file.
    """

    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    paths: tuple[str, ...]
    groups: tuple[str, ...]
    splits: tuple[str, ...]
    seen: tuple[bool, ...]
    bad: tuple[str, ...]
    protocol: Mapping[str, Any]
    weights_sha256: str

    def without(self, bad: Sequence[str]) -> FeatureIndex:
        """Return the index without the videos of these paths, which become `bad`."""
        kept = [row for row, path in enumerate(self.paths) if path not in set(bad)]
        columns = ("labels", "paths", "groups", "splits", "seen")
        changes: dict[str, Any] = {
            name: tuple(getattr(self, name)[row] for row in kept) for name in columns
        }
        return replace(self, bad=tuple(bad), **changes)

    def difference(self, other: FeatureIndex) -> str | None:
        """Return what these features are, unlike others, in a phrase; None if of the same kind."""
        if self.weights_sha256 != other.weights_sha256:
            return "of other weights"
        for key in sorted(self.protocol.keys() | other.protocol.keys()):
            ours, theirs = self.protocol.get(key), other.protocol.get(key)
            if ours != theirs:
                return f"another {key}" if isinstance(ours, dict) else f"{key} {ours}, not {theirs}"
        return None if self.class_names == other.class_names else "of other classes"

    def header(self) -> dict[str, Any]:
        """Return the values as JSON can hold them."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        return values


def index_from(header: Mapping[str, Any]) -> FeatureIndex:
    """Return the index in the header of a file.

    Raises:
        KeyError: A value is missing.
        TypeError: A value has another type.
        ValueError: The columns have different lengths, or a label is not that of a class.
    """
    index = FeatureIndex(
        labels=tuple(map(int, header["labels"])),
        seen=tuple(map(bool, header["seen"])),
        protocol=dict(header["protocol"]),
        weights_sha256=str(header["weights_sha256"]),
        **{name: tuple(map(str, header[name])) for name in _TEXTS},
    )
    columns = (index.labels, index.paths, index.groups, index.splits, index.seen)
    if len({len(column) for column in columns}) != 1 or not index.paths:
        raise ValueError("columns of different lengths, or none")
    if not all(0 <= label < len(index.class_names) for label in index.labels):
        raise ValueError("a label without a class")
    return index


@dataclass(frozen=True)
class FeatureSet:
    """Features of V videos.

    Attributes:
        values: float32 `(V, ...)`, or `(V, num_clips, ...)` if the protocol says `per_clip`.
        index: What is known about the videos.
    """

    values: NDArray[np.float32]
    index: FeatureIndex
