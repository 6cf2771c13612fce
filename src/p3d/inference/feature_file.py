"""Files of features: one `.npz` for a data set, or a folder with one `.npy` a video."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p3d.inference.feature_folder import FeatureFolder
from p3d.inference.feature_index import FORMAT, FeatureIndex, FeatureSet, index_from


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
