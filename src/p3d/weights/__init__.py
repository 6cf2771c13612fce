"""Weights of any origin: reading, recognising, converting, checking and saving them."""

from p3d.weights.describe import (
    Overrides,
    WeightFile,
    describe_file,
    named_preprocessing,
    read_weights,
)
from p3d.weights.loading import build_model, convert_state_dict, load_model, load_pretrained
from p3d.weights.metadata import metadata_of, model_from, skeleton
from p3d.weights.port import to_port as to_port_state_dict
from p3d.weights.reading import CHECKPOINT_FORMAT
from p3d.weights.saving import save_model

__all__ = [
    "CHECKPOINT_FORMAT",
    "Overrides",
    "WeightFile",
    "build_model",
    "convert_state_dict",
    "describe_file",
    "load_model",
    "load_pretrained",
    "metadata_of",
    "model_from",
    "named_preprocessing",
    "read_weights",
    "save_model",
    "skeleton",
    "to_port_state_dict",
]
