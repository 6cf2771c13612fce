"""Pseudo-3D residual networks for video action recognition in PyTorch.

Public names are imported on first use, which keeps `import p3d` fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from p3d.data.clip_dataset import EvalClipDataset as EvalClipDataset
    from p3d.data.clip_dataset import TrainClipDataset as TrainClipDataset
    from p3d.data.dataset import VideoDataset as VideoDataset
    from p3d.data.dataset import VideoRecord as VideoRecord
    from p3d.data.layouts import DataOptions as DataOptions
    from p3d.data.layouts import read_dataset as read_dataset
    from p3d.data.splits import SplitRule as SplitRule
    from p3d.errors import BadVideoError as BadVideoError
    from p3d.errors import UserError as UserError
    from p3d.inference.prediction import Prediction as Prediction
    from p3d.inference.predictor import Predictor as Predictor
    from p3d.inference.timeline.cut_options import CutOptions as CutOptions
    from p3d.inference.timeline.timeline import Timeline as Timeline
    from p3d.model.network import P3D as P3D
    from p3d.model.network import create_model as create_model
    from p3d.preprocessing import Preprocessing as Preprocessing
    from p3d.preprocessing import normalize as normalize
    from p3d.video.decode import open_video as open_video
    from p3d.video.decode import read_clip as read_clip
    from p3d.weights.loading import convert_state_dict as convert_state_dict
    from p3d.weights.loading import load_model as load_model
    from p3d.weights.metadata import save_model as save_model

__version__ = "0.1.0"

_MODULES = {
    "BadVideoError": "errors",
    "CutOptions": "inference.timeline.cut_options",
    "DataOptions": "data.layouts",
    "EvalClipDataset": "data.clip_dataset",
    "P3D": "model.network",
    "Prediction": "inference.prediction",
    "Predictor": "inference.predictor",
    "Preprocessing": "preprocessing",
    "SplitRule": "data.splits",
    "Timeline": "inference.timeline.timeline",
    "TrainClipDataset": "data.clip_dataset",
    "UserError": "errors",
    "VideoDataset": "data.dataset",
    "VideoRecord": "data.dataset",
    "convert_state_dict": "weights.loading",
    "create_model": "model.network",
    "load_model": "weights.loading",
    "normalize": "preprocessing",
    "open_video": "video.decode",
    "read_clip": "video.decode",
    "read_dataset": "data.layouts",
    "save_model": "weights.metadata",
}

__all__ = sorted([*_MODULES, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'p3d' has no attribute {name!r}")
    return getattr(importlib.import_module(f"p3d.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
