"""Folders of features: one `.npy` a video, and an index."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p3d.errors import UserError, printable
from p3d.inference.feature_index import FORMAT, FeatureIndex, FeatureSet, index_from
from p3d.system.files import GOES_ON, replacing, write_json, writing
from p3d.system.npz_file import NOT_AN_NPZ

INDEX_FILE = "features.json"
"""Names, classes and protocol of the videos in a folder of features."""


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
        with writing(path, GOES_ON):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_bytes(content.getbuffer())

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
