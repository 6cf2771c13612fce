"""Pseudo-3D residual networks for video action recognition in PyTorch.

Names are imported when first used, so that `import p3d` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from p3d.data.decode import open_video as open_video
    from p3d.data.decode import read_clip as read_clip
    from p3d.data.manifest import DataOptions as DataOptions
    from p3d.data.manifest import SplitRule as SplitRule
    from p3d.data.manifest import VideoDataset as VideoDataset
    from p3d.data.manifest import VideoRecord as VideoRecord
    from p3d.data.manifest import read_dataset as read_dataset
    from p3d.errors import BadVideoError as BadVideoError
    from p3d.errors import UserError as UserError
    from p3d.model import P3D as P3D
    from p3d.model import create_model as create_model
    from p3d.predict import Prediction as Prediction
    from p3d.predict import Predictor as Predictor
    from p3d.preprocessing import Preprocessing as Preprocessing
    from p3d.preprocessing import normalize as normalize
    from p3d.weights import convert_state_dict as convert_state_dict
    from p3d.weights import load_model as load_model
    from p3d.weights import save_model as save_model

__version__ = "0.1.0"

_HOMES = {
    "BadVideoError": "errors",
    "DataOptions": "data.manifest",
    "P3D": "model",
    "Prediction": "predict",
    "Predictor": "predict",
    "Preprocessing": "preprocessing",
    "SplitRule": "data.manifest",
    "UserError": "errors",
    "VideoDataset": "data.manifest",
    "VideoRecord": "data.manifest",
    "convert_state_dict": "weights",
    "create_model": "model",
    "load_model": "weights",
    "normalize": "preprocessing",
    "open_video": "data.decode",
    "read_clip": "data.decode",
    "read_dataset": "data.manifest",
    "save_model": "weights",
}

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'p3d' has no attribute {name!r}")
    return getattr(importlib.import_module(f"p3d.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
