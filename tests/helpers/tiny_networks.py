"""Networks of four blocks, which are trained, exported and compiled in seconds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from helpers.narrow_sizes import BLOCKS as FEW_BLOCKS
from helpers.narrow_sizes import PLANES
from p3d.model import blocks, config, network, plain
from p3d.model.config import BLOCKS
from p3d.model.network import P3D, create_model
from p3d.preprocessing import AUTHORS, AUTHORS_FLOW
from p3d.training import step
from p3d.weights import describe

CLASSES = ("clap", "walk", "wave")
FRAMES, SIZE = 4, 32


def make_blocks_few(patch: pytest.MonkeyPatch) -> None:
    """Let P3D-63 have one block a stage, also where a file's metadata rebuilds it."""
    patch.setitem(BLOCKS, "p3d63", FEW_BLOCKS)


def make_networks_narrow(patch: pytest.MonkeyPatch) -> None:
    """Let P3D-63 also have an eighth of the channels: its files take 2% of the room and time."""
    make_blocks_few(patch)
    make_channels_few(patch)


def make_channels_few(patch: pytest.MonkeyPatch) -> None:
    """Let all networks have an eighth of the channels, at their full depth."""
    for module in (config, blocks, network, plain):
        patch.setattr(module, "PLANES", PLANES)
    for module in (config, network, plain, step, describe):
        patch.setattr(module, "FEATURES", PLANES[-1] * config.EXPANSION)


def tiny_network(
    *,
    wiring: str = "author",
    modality: str = "rgb",
    variant: str = "ABC",
    classes: tuple[str, ...] = CLASSES,
) -> P3D:
    """Return a network whose logits differ from clip to clip; call `make_blocks_few` first."""
    torch.manual_seed(0)
    model = create_model(
        "p3d63", num_classes=len(classes), wiring=wiring, modality=modality, variant=variant
    )
    torch.nn.init.normal_(model.fc.weight)
    prep = AUTHORS if modality == "rgb" else AUTHORS_FLOW
    std = (64.0,) * len(prep.mean)
    model.preprocessing = replace(
        prep, num_frames=FRAMES, crop=SIZE, resize=(SIZE + 4, SIZE + 8), std=std
    )
    model.class_names = classes
    return model.eval()
