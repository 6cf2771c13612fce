"""Options of `p3d train`, and which of them the weights depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from p3d.data.dataset import VideoDataset
from p3d.data.layouts import DataOptions
from p3d.data.loader import BadVideoPolicy
from p3d.errors import UserError
from p3d.model.config import Modality, Variant, Wiring
from p3d.run_folder import CONFIG_FILE, find_checkpoints, read_config, starting_folder
from p3d.system.markers import First, Heading
from p3d.system.options import DeviceOptions, option_arguments, option_flag
from p3d.training.checks import check_options, is_count, is_not_negative, is_positive
from p3d.training.recipes import UCF101, Recipe
from p3d.training.trackers import TrackerName

LENGTH = ("--epochs", "--max-steps")
"""Options in a fingerprint that may grow when a run is resumed."""


@dataclass(frozen=True)
class TrainOptions:
    """Train a network. Every field of the recipe is an option."""

    data: DataOptions
    recipe: Recipe = UCF101
    weights: First[Path | None] = None
    """Weights to start from, in any format that p3d reads; from scratch by default."""
    out: Annotated[First[Path], Heading("run")] = Path("runs/p3d")
    """Folder of the run."""
    resume: bool = False
    """Resume the run in --out; start it if there is none yet. Larger --epochs or --max-steps extend
    the run."""
    save_minutes: float = 10.0
    """Minutes between checkpoints; one is also saved after every epoch."""
    save_steps: int | None = None
    """Also save a checkpoint after every so many steps; by default only by --save-minutes."""
    keep_checkpoints: int = 2
    """Checkpoints to keep; if the newest is damaged, the previous one is used."""
    modality: Annotated[Modality, Heading("network")] = "rgb"
    """RGB frames, or optical flow computed by `p3d prepare flow`."""
    wiring: Wiring | None = None
    """Wiring of the network: the authors' graph or the public PyTorch port's. By default that of
    --weights, or author."""
    variant: Variant = "ABC"
    """Blocks: the mixed network, a single kind, or no temporal convolutions (2d)."""
    compute: DeviceOptions = field(default_factory=DeviceOptions)
    checkpoint_activations: Annotated[bool, Heading("device")] = False
    """Save only the input of each block for the backward pass and recompute the rest: less memory,
    more time."""
    sync_norms: bool = False
    """Compute batch normalization's statistics over all processes."""
    workers: int = 2
    """Worker processes that decode; 0 decodes in the main process."""
    seed: Annotated[int, Heading("run")] = 42
    """Seed of all random draws."""
    patience: int | None = None
    """Stop after this many epochs without a better validation accuracy; by default never."""
    validation_clips: int = 1
    """Clips of each video in the validation after each epoch; 0 does not validate."""
    on_bad_video: BadVideoPolicy = "skip"
    """What to do with a video that cannot be read: skip it and count it, or stop."""
    tensorboard: bool = False
    """Write scalars and a few clips for TensorBoard too."""
    track: tuple[TrackerName, ...] = ()
    """Send the scalars to experiment trackers too: wandb, mlflow, trackio (pip install them)."""
    plan: bool = False
    """Print the plan of the run and exit; nothing is written."""

    def __post_init__(self) -> None:
        """Check the values."""
        check_options(self, ("save_minutes",), is_positive, "a finite number above 0")
        check_options(self, ("save_steps", "patience"), is_count, "1 or more, or omit it")
        check_options(self, ("keep_checkpoints",), is_count, "1 or more")
        check_options(self, ("workers", "validation_clips"), is_not_negative, "0 or more")
        check_options(self, ("seed",), lambda value: 0 <= value < 2**64, "0 to 2**64 - 1")
        if self.patience is not None and not self.validation_clips:
            raise UserError(
                "--patience needs a validation; give --validation-clips 1 or more, or drop it"
            )
        if self.compute.compile and self.checkpoint_activations:
            raise UserError(
                "--compile and --checkpoint-activations cannot be combined (the compiler decides "
                "what to recompute); use one of them"
            )


NEW_SETTINGS = {
    "balance": False,
    "class_weights": False,
    "label_smoothing": 0,
    "fps": "native",
    "average_epochs": 0,
}
"""Settings of a recipe that earlier checkpoints do not know, with what they did. Only runs with
other values say so."""


def keep_native(options: TrainOptions) -> tuple[TrainOptions, tuple[str, ...]]:
    """Return the options of a run that is resumed, with its rate if it is older than `--fps`.

    Such a run takes the videos' own frames, whatever its recipe says by now. All ranks must call
    this before the run's `config.json` is written again.

    Returns:
        The options, and a line for the user if they differ from those given.
    """
    if not options.resume or options.recipe.fps == "native" or not find_checkpoints(options.out):
        return options, ()
    if has_rate(options.out):
        return options, ()
    recipe = replace(options.recipe, fps="native")
    note = "--fps native: this run was started without a rate, and goes on so"
    return replace(options, recipe=recipe), (note,)


def has_rate(folder: Path) -> bool:
    """Return whether the `config.json` of a run states a rate; True if it cannot be read."""
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        return "fps" in config["recipe"]
    except (OSError, ValueError, KeyError, TypeError):
        return True


def fingerprint(options: TrainOptions, training: VideoDataset) -> dict[str, str]:
    """Return the options that the weights depend on, by name, as text."""
    values: dict[str, Any] = asdict(options.recipe) | asdict(options.data.splits)
    for name, usual in NEW_SETTINGS.items():
        if values[name] == usual:
            del values[name]
    names = ("seed", "modality", "variant", "wiring", "weights", "on_bad_video", "sync_norms")
    values |= {name: getattr(options, name) for name in names}
    values |= {"precision": options.compute.precision}
    values |= {"data": options.data.data.resolve(), "fold": options.data.fold}
    if options.data.background:
        values |= {"background": True}
    if options.data.frame_rate is not None:
        values |= {"frame_rate": options.data.frame_rate}
    if options.data.class_pattern is not None:  # unknown to earlier checkpoints
        values |= {"class_pattern": options.data.class_pattern}
    texts = {option_flag(name): json.dumps(value, default=str) for name, value in values.items()}
    return texts | {"the training list": _digest(training)}


def _digest(dataset: VideoDataset) -> str:
    """Return the number of videos and a hash of their names and labels."""
    names = "\n".join(f"{record.short_name} {record.label}" for record in dataset.records)
    digest = hashlib.blake2b(names.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
    return f"{len(dataset.records)} videos ({digest})"


def earlier_length(
    before: Mapping[str, str], now: Mapping[str, str]
) -> tuple[int, int | None] | None:
    """Return the `epochs` and `max_steps` of a run that other options extend.

    Args:
        before: Fingerprint of the run.
        now: Fingerprint of the options given.

    Returns:
        None if the options do not extend the run: they have the same length, or end it earlier.
    """
    try:
        old, new = ([json.loads(values[name]) for name in LENGTH] for values in (before, now))
    except (KeyError, ValueError):
        return None
    (epochs, max_steps), (new_epochs, new_max_steps) = old, new
    if old == new or type(epochs) is not int or type(max_steps) not in (int, type(None)):
        return None
    may_end_earlier = new_epochs < epochs or (
        new_max_steps is not None and (max_steps is None or new_max_steps < max_steps)
    )
    return None if may_end_earlier else (epochs, max_steps)


def check_same(name: str, before: Mapping[str, str], now: Mapping[str, str], remedy: str) -> None:
    """Check that options are the same as earlier ones.

    Args:
        name: What the earlier options belong to, for the message.
        before: Its options, by name.
        now: The options given, by name.
        remedy: What to do about a difference.

    Raises:
        UserError: They differ; the message names the first difference.
    """
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            old, new = (_shown(values.get(key)) for values in (before, now))
            raise UserError(f"{name} has {key} {old}, not {new}; {remedy}")


def _shown(text: str | None) -> str:
    """Return the value of an option, which `fingerprint` wrote as JSON, as it is given."""
    try:
        value = json.loads(text or "null")
    except ValueError:  # the description of a list
        return str(text)
    if value is None or value == []:
        return "unset"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def config_arguments(path: Path) -> list[str]:
    """Convert a run's `config.json` to command-line arguments.

    `--resume` and `--plan` are dropped, since they are actions and not settings. A relative
    `--data` is taken from the folder where the run was started, if it is there.

    Raises:
        UserError: The file cannot be read or is not the configuration of a run.
    """
    values = read_config(path, f"--config {path}")
    data, started = values.get("data"), starting_folder(path.parent)
    if isinstance(data, dict) and isinstance(data.get("data"), str) and started != Path.cwd():
        place = started / data["data"]
        if place.exists():
            values = {**values, "data": {**data, "data": str(place)}}
    recipe = values.get("recipe")
    if isinstance(recipe, dict):  # of runs that are older than the option
        values = {**values, "recipe": {"fps": "native", **recipe}}
    return option_arguments(values, drop=("resume", "plan"))
