"""Training runs at toy size, and what they leave."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from p3d.data.layouts import DataOptions, read_dataset
from p3d.data.loader import Batch
from p3d.system.device import Precision
from p3d.system.distributed import ALONE
from p3d.system.options import DeviceOptions
from p3d.training.checkpoint import CheckpointState, read_newest
from p3d.training.network import prepare_for_training
from p3d.training.options import TrainOptions
from p3d.training.recipes import SCRATCH, Recipe
from p3d.training.state import TrainState, build_state
from p3d.training.train import build_loader, start_network

TINY = replace(
    SCRATCH,
    epochs=2,
    batch_size=8,
    clips_per_video=1,
    num_frames=4,
    resize=(20, 20),
    crop=16,
    flip_probability=0.0,
)


def options(
    sample: Path,
    out: Path,
    recipe: Recipe = TINY,
    precision: Precision = "fp32",
    **changes: object,
) -> TrainOptions:
    """Options of a run on the CPU, without worker processes."""
    return TrainOptions(
        data=DataOptions(sample),
        recipe=recipe,
        out=out,
        compute=DeviceOptions(device="cpu", precision=precision),
        workers=0,
        **changes,
    )


def newest(folder: Path) -> CheckpointState:
    """The newest checkpoint of a run."""
    state, problems = read_newest(folder)
    assert state is not None
    assert problems == ()
    return state


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return newest(folder).model


def assert_equal_weights(first: Path, second: Path) -> None:
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def tiny_run(sample: Path, recipe: Recipe) -> tuple[TrainState, list[Batch]]:
    """The state of a run, and the batches of its first epoch."""
    wanted = options(sample, Path("unused"), recipe)
    dataset = read_dataset(wanted.data, "train")
    model, _ = start_network(wanted, dataset)
    prepare_for_training(model, recipe, sync_norms=False, checkpoint_activations=False)
    device = torch.device("cpu")
    loader = build_loader(wanted, model, dataset, None, ALONE, device)
    state = build_state(
        recipe,
        model,
        dataset,
        device,
        clips_per_step=loader.clips_per_step,
        steps_per_epoch=loader.steps_per_epoch,
        seed=1,
        precision="fp32",
    )
    return state, [batch for step in loader.steps(0) for batch in step]


def copy_set(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        if path.is_file():
            (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (target / path.relative_to(source)).hardlink_to(path)
