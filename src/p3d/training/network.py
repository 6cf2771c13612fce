"""The network of a training run: new, from weights, or from a checkpoint."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from p3d.errors import UserError
from p3d.model.config import Modality, Variant, Wiring
from p3d.model.fused_norm import fuse_norms
from p3d.model.network import P3D, create_model, zero_init_residuals
from p3d.model.sync_batchnorm import SyncNorm, synchronize_norms
from p3d.training.optim import freeze
from p3d.training.recipes import Recipe


def build_network(
    recipe: Recipe,
    class_names: tuple[str, ...],
    *,
    modality: Modality = "rgb",
    wiring: Wiring = "author",
    variant: Variant = "ABC",
) -> P3D:
    """Build the untrained network of a recipe, with its preprocessing.

    Args:
        recipe: Depth, dropout, initialization, and size of the clips.
        class_names: Name of each class.
        modality: RGB frames or optical flow.
        wiring: "author" or "port".
        variant: Kinds of blocks.
    """
    model = create_model(
        recipe.network,
        num_classes=len(class_names),
        modality=modality,
        wiring=wiring,
        variant=variant,
        dropout=recipe.dropout,
    )
    if recipe.zero_init_residuals:
        zero_init_residuals(model)
    model.class_names = class_names
    model.preprocessing = replace(
        model.preprocessing,
        num_frames=recipe.num_frames,
        frame_stride=recipe.frame_stride,
        resize=recipe.resize,
        crop=recipe.crop,
        fps=recipe.rate,
    )
    return model


def prepare_for_training(
    model: P3D, recipe: Recipe, *, sync_norms: bool, checkpoint_activations: bool
) -> None:
    """Freeze what the recipe does not train, and set up batch normalization and checkpointing.

    Args:
        model: The network; changed in place.
        recipe: What to freeze.
        sync_norms: Compute batch normalization's statistics over all ranks.
        checkpoint_activations: Recompute the activations of each block in the backward pass.
    """
    if sync_norms:
        synchronize_norms(model)
    freeze(model, recipe)
    model.checkpoint_activations = checkpoint_activations
    model.skips_unread = True
    model.train()


def compile_network(model: P3D, device: torch.device) -> Any:
    """Return a network compiled for training; on a CPU only its batch normalizations, in place.

    The rest is as fast as it is on a CPU, and the compiler's convolutions are slower.

    Raises:
        UserError: There is no compiler, or the normalizations are synchronized on a CPU.
    """
    if device.type != "cpu":
        return torch.compile(model)
    if any(isinstance(module, SyncNorm) for module in model.modules()):
        raise UserError(
            "--compile and --sync-norms cannot be combined on a CPU, where the normalizations are "
            "what is compiled; use one of them"
        )
    fuse_norms(model)
    return model
