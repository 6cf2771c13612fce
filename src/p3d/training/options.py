"""What a training run is asked to do, and which of it the result depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from p3d.data.dataset import VideoDataset
from p3d.data.layouts import DataOptions
from p3d.data.loader import BadVideoPolicy
from p3d.errors import UserError
from p3d.model.network import Modality, Variant, Wiring
from p3d.system.device import DeviceName, Precision
from p3d.training.recipes import UCF101, Recipe


@dataclass(frozen=True)
class TrainOptions:
    """Train a network. Every field of the recipe chosen by --recipe is an option of its own."""

    data: DataOptions
    recipe: Recipe = UCF101
    weights: Path | None = None
    """Weights to start from, of any format that p3d reads; from scratch without."""
    out: Path = Path("runs/p3d")
    """The run's folder."""
    resume: bool = False
    """Go on where the run in --out stopped; start it where there is none yet."""
    save_minutes: float = 10.0
    """Save a checkpoint so many minutes after the last one; each epoch ends with one anyway."""
    save_steps: int | None = None
    """Save a checkpoint after every so many steps as well."""
    keep_checkpoints: int = 2
    """Checkpoints to keep; should the newest be damaged, the one before it is used."""
    modality: Modality = "rgb"
    """Frames, or optical flow that `p3d prepare flow` has computed."""
    wiring: Wiring | None = None
    """Whose network: the authors' or the port's; that of --weights, or else the authors'."""
    variant: Variant = "ABC"
    """The mixed network, one kind of block alone, or no temporal convolution at all."""
    device: DeviceName = "auto"
    """Where to compute."""
    precision: Precision = "fp32"
    """Arithmetic: fp32 (IEEE, no TF32), tf32, or mixed precision with bf16 or fp16."""
    compile: bool = False
    """Compile the network first."""
    checkpoint_activations: bool = False
    """Keep only each block's input for the gradient and compute the rest of it twice: less memory,
    more time."""
    sync_norms: bool = False
    """Several processes: take batch normalisation's statistics over all of them."""
    workers: int = 2
    """Processes that decode; 0 decodes in this one."""
    seed: int = 42
    """Determines everything that is drawn."""
    patience: int | None = None
    """Stop after this many epochs without a better validation accuracy."""
    validation_clips: int = 1
    """Clips a video in the validation after each epoch."""
    on_bad_video: BadVideoPolicy = "skip"
    """A video that cannot be read is left out and counted, or ends the run."""
    tensorboard: bool = False
    """Write scalars for TensorBoard too."""
    plan: bool = False
    """Print what would be done, and do nothing."""

    def __post_init__(self) -> None:
        """Refuse numbers that no run can use."""
        for name in ("save_minutes", "save_steps", "keep_checkpoints"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"--{name.replace('_', '-')} is {value}; give more than 0")
        if self.compile and self.checkpoint_activations:
            raise UserError(
                "--compile and --checkpoint-activations exclude each other: the compiler decides "
                "by itself what it keeps; choose one"
            )


def fingerprint(options: TrainOptions, training: VideoDataset) -> dict[str, str]:
    """What the weights depend on, by name, as text."""
    values: dict[str, Any] = asdict(options.recipe) | asdict(options.data.splits)
    names = ("seed", "precision", "modality", "variant", "wiring", "weights", "on_bad_video")
    values |= {name: getattr(options, name) for name in (*names, "sync_norms")}
    values |= {"data": options.data.data.resolve(), "fold": options.data.fold}
    said = {
        f"--{name.replace('_', '-')}": json.dumps(value, default=str)
        for name, value in values.items()
    }
    return said | {"the training list": _digest(training)}


def _digest(dataset: VideoDataset) -> str:
    """How many videos there are, and a hash of their names and labels."""
    names = "\n".join(f"{record.path.name} {record.label}" for record in dataset.records)
    digest = hashlib.blake2b(names.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
    return f"{len(dataset.records)} videos ({digest})"


def check_same(what: str, before: Mapping[str, str], now: Mapping[str, str], remedy: str) -> None:
    """Refuse to go on with other options than those of `what`.

    Raises:
        UserError: Naming the first difference.
    """
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            raise UserError(f"{what} has {name} {before.get(name)}, not {now.get(name)}; {remedy}")
