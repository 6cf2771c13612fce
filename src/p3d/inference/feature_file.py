"""Files of features: one `.npz` for a data set, or a folder with one `.npy` a video."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p3d.errors import UserError, printable
from p3d.system.files import replacing, write_json
from p3d.system.npz_file import NOT_AN_NPZ, NpzFormat

FORMAT = NpzFormat("p3d features", 1, "p3d features writes such files")
INDEX_FILE = "features.json"
"""Names, classes and protocol of the videos in a folder of features."""

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


def read_features(path: Path) -> FeatureSet:
    """Read features, from a `.npz` file or a folder that `p3d features` wrote.

    Raises:
        UserError: There are none, they are incomplete or damaged, or of a newer version.
    """
    if path.is_dir():
        return FeatureFolder(path).read()
    header, arrays = FORMAT.read(path)
    try:
        return _checked(arrays["features"], index_from(header))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FORMAT.damaged(path) from error


def read_index(path: Path) -> FeatureIndex:
    """Read what a `.npz` file states about its features.

    Raises:
        UserError: As `read_features`.
    """
    try:
        return index_from(FORMAT.read_header(path))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FORMAT.damaged(path) from error


def _checked(values: NDArray[Any], index: FeatureIndex) -> FeatureSet:
    if values.dtype != np.float32 or values.ndim < 2 or len(values) != len(index.paths):
        raise ValueError(f"features are {values.dtype} {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("features are not finite")
    return FeatureSet(values, index)


def write_features(path: Path, values: NDArray[np.float32], index: FeatureIndex) -> None:
    """Write a `.npz` file with the arrays `features`, `labels` and `header` (JSON as bytes).

    Raises:
        UserError: It cannot be written.
    """
    labels = np.array(index.labels, np.int64)
    FORMAT.write(path, index.header(), {"features": values, "labels": labels})


def names_below(paths: Sequence[Path], root: Path, suffix: str = ".npy") -> list[str]:
    """Return a name for the file of each video's results: its path below a folder, with a suffix.

    Raises:
        UserError: Two videos would have the same name.
    """
    names: dict[str, Path] = {}
    for path in paths:
        inside = path.relative_to(root) if path.is_relative_to(root) else PurePath(path)
        parts = [part for part in inside.parts if part not in (inside.anchor, "..")]
        other = names.setdefault("/".join(parts) + suffix, path)
        if other is not path:
            raise UserError(f"{path} and {other}: their files would have the same name")
    return list(names)


class FeatureFolder:
    """A folder with one `.npy` a video and `features.json`; the videos may be added in any order.

    Args:
        path: The folder, which need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def prepare(self, index: FeatureIndex, files: Sequence[str]) -> list[int]:
        """Start or continue a folder; return the positions of the videos without features.

        Args:
            index: The videos.
            files: Name of each video's features below the folder.

        Raises:
            UserError: The folder holds features of another kind, or cannot be written.
        """
        kept: dict[str, str] = {}
        if (self.path / INDEX_FILE).exists():
            old, old_files = self._read_index()
            if difference := old.difference(index):
                raise UserError(
                    f"{self.path}: holds other features ({difference}); delete it, or choose "
                    "another --out"
                )
            kept = dict(zip(old_files, old.paths, strict=True))
        missing = []
        for position, (file, video) in enumerate(zip(files, index.paths, strict=True)):
            if kept.get(file) != video or not _is_array(self.path / file):
                (self.path / file).unlink(missing_ok=True)
                missing.append(position)
        self.write_index(index, files)
        return missing

    def write_index(self, index: FeatureIndex, files: Sequence[str]) -> None:
        """Write `features.json`."""
        head = {"format": FORMAT.name, "version": FORMAT.version}
        write_json(self.path / INDEX_FILE, {**head, **index.header(), "files": list(files)})

    def forget_if_empty(self) -> None:
        """Remove `features.json` unless a video has features, which it describes."""
        if not any(self.path.rglob("*.npy")):
            (self.path / INDEX_FILE).unlink(missing_ok=True)

    def add(self, file: str, values: NDArray[np.float32]) -> None:
        """Write the features of a video.

        Raises:
            UserError: They cannot be written.
        """
        path = self.path / file
        content = BytesIO()  # since NumPy's own writing does not say why it fails
        np.save(content, values, allow_pickle=False)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_bytes(content.getbuffer())
        except OSError as error:
            raise UserError(
                f"{path}: cannot be written ({error.strerror}); fix that, then the same command "
                "goes on"
            ) from error

    def read(self, into: Path | None = None) -> FeatureSet:
        """Return all features.

        Args:
            into: A `.npy` file to collect them in, so that they need not fit into memory.

        Raises:
            UserError: Some are missing, damaged or of different shapes.
        """
        index, files = self._read_index()
        absent = [file for file in files if not self.has(file)]
        if absent:
            raise UserError(
                f"{self.path}: {len(absent)} of {len(files)} videos have no features "
                f"({printable(absent[0])}); run the same p3d features again, which goes on"
            )
        first = self._load(files[0])
        shape = (len(files), *first.shape)
        values: NDArray[np.float32] = (
            np.empty(shape, np.float32)
            if into is None
            else np.lib.format.open_memmap(into, "w+", np.float32, shape)
        )
        for position, file in enumerate(files):
            video = self._load(file)
            if video.shape != first.shape:
                raise UserError(
                    f"{self.path / file}: has the shape {video.shape}, {files[0]} has "
                    f"{first.shape}; delete it, and run p3d features again"
                )
            values[position] = video
        return FeatureSet(values, index)

    def has(self, file: str) -> bool:
        """Return whether the features of a video are there."""
        return (self.path / file).is_file()

    def shape(self) -> tuple[int, ...]:
        """Return the shape of the features of the first video."""
        _, files = self._read_index()
        return self._load(files[0]).shape

    def _load(self, file: str) -> NDArray[Any]:
        path = self.path / file
        try:
            values: NDArray[Any] = np.load(path, allow_pickle=False)
            if values.dtype != np.float32 or not np.isfinite(values).all():
                raise ValueError(f"{values.dtype}")
        except NOT_AN_NPZ as error:
            raise UserError(f"{path}: is damaged; delete it, and run p3d features again") from error
        return values

    def _read_index(self) -> tuple[FeatureIndex, tuple[str, ...]]:
        """Return the index and the names of the files."""
        path = self.path / INDEX_FILE
        try:
            header = json.loads(path.read_text(encoding="utf-8"))
            FORMAT.check(path, header)
            index, files = index_from(header), tuple(map(str, header["files"]))
            if len(files) != len(index.paths):
                raise ValueError("files and paths")
        except FileNotFoundError as error:
            raise UserError(f"{self.path}: holds no {INDEX_FILE}; {FORMAT.remedy}") from error
        except NOT_AN_NPZ as error:
            raise FORMAT.damaged(path) from error
        return index, files


def _is_array(path: Path) -> bool:
    """Return whether a file is there and has the header of an array."""
    try:
        np.load(path, mmap_mode="r", allow_pickle=False)
    except NOT_AN_NPZ:
        return False
    return True
