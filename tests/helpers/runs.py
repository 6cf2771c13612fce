"""Tiny training runs, in this process or another, and their files."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from p3d.data.layouts import DataOptions, read_dataset
from p3d.data.loader import Batch
from p3d.run_folder import read_log
from p3d.system.device import Precision
from p3d.system.distributed import ALONE
from p3d.system.options import DeviceOptions
from p3d.training.checkpoint import CheckpointState
from p3d.training.checkpoint_files import read_newest
from p3d.training.network import prepare_for_training
from p3d.training.options import TrainOptions
from p3d.training.recipes import SCRATCH, Recipe
from p3d.training.start import build_loader, start_network
from p3d.training.state import TrainState, build_state

TINY = replace(
    SCRATCH,
    epochs=2,
    batch_size=8,
    clips_per_video=1,
    num_frames=4,
    resize=(20, 20),
    crop=16,
    flip_probability=0.0,
    fps="native",
)


def options(
    sample: Path,
    out: Path,
    recipe: Recipe = TINY,
    precision: Precision = "fp32",
    **changes: object,
) -> TrainOptions:
    """Return the options of a tiny run on the CPU, without worker processes."""
    return TrainOptions(
        data=DataOptions(sample),
        recipe=recipe,
        out=out,
        compute=DeviceOptions(device="cpu", precision=precision),
        workers=0,
        **changes,
    )


def newest(folder: Path) -> CheckpointState:
    """Return the newest checkpoint of a run."""
    state, problems = read_newest(folder)
    assert state is not None
    assert problems == ()
    return state


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights in the newest checkpoint of a run."""
    return newest(folder).model


def are_identical(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Return whether two state dicts are equal bit for bit."""
    return first.keys() == second.keys() and all(
        torch.equal(tensor, second[name]) for name, tensor in first.items()
    )


def log_lines(folder: Path, event: str) -> list[dict[str, Any]]:
    """Return the lines of a run's log about one kind of event."""
    return [line for line in read_log(folder) if line["event"] == event]


def logged_steps(folder: Path) -> list[int]:
    """Return the optimizer steps in a run's log."""
    return [line["step"] for line in log_lines(folder, "step")]


def has_step(folder: Path, step: int) -> bool:
    """Return whether a run has logged this optimizer step or a later one."""
    return any(logged >= step for logged in logged_steps(folder))


def start(*command: str, **settings: Any) -> subprocess.Popen[str]:
    """Start `p3d` in another process; `settings` go to Popen."""
    return subprocess.Popen(
        [sys.executable, "-m", "p3d", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
        **settings,
    )


def wait_for_step(process: subprocess.Popen[str], folder: Path, step: int) -> None:
    """Wait until a run that is still going has logged an optimizer step."""
    deadline = time.monotonic() + 900
    while not has_step(folder, step):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def tiny_run(sample: Path, recipe: Recipe) -> tuple[TrainState, list[Batch]]:
    """Return the state of a run and the batches of its first epoch."""
    run_options = options(sample, Path("unused"), recipe)
    dataset = read_dataset(run_options.data, "train")
    model, _ = start_network(run_options, dataset)
    prepare_for_training(model, recipe, sync_norms=False, checkpoint_activations=False)
    device = torch.device("cpu")
    loader = build_loader(run_options, model, dataset, None, ALONE, device)
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
    """Copy a data set by hard links."""
    for path in source.rglob("*"):
        if path.is_file():
            (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (target / path.relative_to(source)).hardlink_to(path)


def copy_with_bad(source: Path, target: Path, places: slice) -> list[Path]:
    """Copy a data set with some videos of its test list damaged, and return these."""
    copy_set(source, target)
    damaged = sorted((target / "test").rglob("*.avi"))[places]
    for path in damaged:
        path.unlink()
        path.write_bytes(b"no video")
    return damaged
