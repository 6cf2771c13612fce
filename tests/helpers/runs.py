"""Training runs at toy size, and what they leave."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from p3d.data.layouts import DataOptions, read_dataset
from p3d.data.loader import Batch
from p3d.training.checkpoint import read_newest
from p3d.training.options import TrainOptions
from p3d.training.recipes import SCRATCH, Recipe
from p3d.training.state import Run, build_run
from p3d.training.train import build_loader, build_model

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


def options(sample: Path, out: Path, recipe: Recipe = TINY, **changes: object) -> TrainOptions:
    return TrainOptions(
        data=DataOptions(sample), recipe=recipe, out=out, device="cpu", workers=0, **changes
    )


def newest(folder: Path) -> dict[str, Any]:
    """The newest checkpoint of a run."""
    state, problems = read_newest(folder)
    assert state is not None
    assert problems == ()
    return state


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return newest(folder)["model"]


def assert_equal_weights(first: Path, second: Path) -> None:
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def tiny_run(sample: Path, recipe: Recipe) -> tuple[Run, list[Batch]]:
    """A run and the batches of its first epoch."""
    wanted = options(sample, Path("unused"), recipe)
    dataset = read_dataset(wanted.data, "train")
    model, _ = build_model(wanted, dataset.class_names)
    loader = build_loader(wanted, model, dataset)
    built = build_run(
        recipe,
        model,
        dataset,
        torch.device("cpu"),
        clips_per_step=loader.clips_per_step,
        steps_per_epoch=loader.steps_per_epoch,
        seed=1,
        precision="fp32",
    )
    model.train()
    return built, list(loader.epoch(0))


def copy_set(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        if path.is_file():
            (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (target / path.relative_to(source)).hardlink_to(path)
