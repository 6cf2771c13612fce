"""Named training recipes: the settings that determine the result of a run.

A recipe is a set of defaults: each of its fields is an option of `p3d train`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Annotated, Literal

from p3d.data.transforms import Augmentation
from p3d.errors import UserError, check_choice
from p3d.model.config import Name
from p3d.preprocessing import MAX_FPS
from p3d.system.markers import First, Heading
from p3d.system.options import option_flag
from p3d.training.checks import check_options, is_count, is_not_negative, is_positive

Schedule = Literal["cyclic", "step", "cosine", "one-cycle", "constant"]
NormPolicy = Literal["train", "freeze-but-first", "freeze-all"]


_CLIP = ("num_frames", "frame_stride", "crop")
_FPS = 25.0


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. The defaults are the `ucf101` recipe."""

    network: Annotated[Name, Heading("recipe: network and length")] = "p3d199"
    """Depth of the network."""
    epochs: First[int] = 60
    """Passes over the training list."""
    max_steps: int | None = None
    """End the run after this many optimizer steps, even in the middle of an epoch; by default
    after --epochs."""
    batch_size: First[int] = 16
    """Clips in a batch on each device."""
    clips_per_step: int | None = None
    """Clips of an optimizer step over all devices, in batches of --batch-size whose gradients
    are accumulated; by default one batch on each device."""
    clips_per_video: int = 1
    """Clips drawn from each video in an epoch."""
    balance: bool = False
    """Draw the same number of clips from each class, for classes of unequal size; an epoch has as
    many clips as without."""

    lr: Annotated[First[float], Heading("recipe: optimization")] = 1e-3
    """Learning rate: the lowest of cyclic, the first of step, cosine and constant, the highest of
    one-cycle."""
    momentum: float = 0.9
    """Momentum of SGD."""
    nesterov: bool = False
    """Use Nesterov momentum."""
    weight_decay: float = 1e-4
    """L2 penalty on convolution and classifier weights (never on BN or biases)."""
    clip_gradients: float | None = None
    """Clip the norm of all gradients to this value; by default they are not clipped."""
    class_weights: bool = False
    """Weight the loss of a clip by the inverse of the number of training videos of its class; the
    mean weight of the videos is 1. The reported loss has no weights."""
    label_smoothing: float = 0.0
    """Probability mass, 0 to below 1, that the target of the loss spreads evenly over all classes.
    The reported loss is without it."""
    average_epochs: float = 0.0
    """Validate and save weights averaged over about this many last epochs: an exponential mean over
    the steps, with batch normalization's statistics. 0 takes the weights of the last step."""

    schedule: Schedule = "cyclic"
    """How the learning rate changes from step to step."""
    cyclic_factor: float = 6.0
    """cyclic: highest learning rate, in multiples of --lr."""
    cyclic_half_epochs: float = 2.0
    """cyclic: epochs from the lowest rate to the highest."""
    milestones: tuple[int, ...] = (3000, 6000)
    """step: optimizer steps after which the rate is divided by ten."""
    warmup: float = 0.25
    """one-cycle: fraction of the run in which the rate rises."""

    dropout: Annotated[float, Heading("recipe: layers")] = 0.9
    """Probability of dropping a feature before the classifier."""
    norms: NormPolicy = "train"
    """Batch normalization: train all, freeze all but the stem's, or freeze all."""
    head_weight_rate: float = 1.0
    """Learning rate of the classifier's weight, in multiples of --lr."""
    head_bias_rate: float = 1.0
    """Learning rate of the classifier's bias, in multiples of --lr."""
    stem_rate: float = 1.0
    """Learning rate of the stem, in multiples of --lr (the authors: 5 on flow networks)."""
    freeze_stages: int = 0
    """Number of leading stages that are not trained: 0 none, 1 the stem, 2 stem and res2, ... 5 all
    but the classifier."""
    zero_init_residuals: bool = False
    """From scratch: initialize the weight of the last BN of every block to zero."""

    augmentation: Annotated[Augmentation, Heading("recipe: augmentation")] = "random-resized-crop"
    """How training crops are drawn; one crop for all frames of a clip."""
    flip_probability: float = 0.5
    """Probability of mirroring a training clip; use 0 if classes differ by left and right."""

    num_frames: Annotated[int, Heading("recipe: input")] = 16
    """Frames in a clip."""
    frame_stride: int = 1
    """Distance between neighboring frames of a clip, in frames (of --fps)."""
    fps: float | Literal["native"] = "native"
    """Frames per second at which frames are picked by their times, so that videos of all rates show
    motion alike; native takes the videos' own frames."""
    resize: int | tuple[int, int] = (182, 242)
    """Size of a frame before the center, multi-scale or random crop: height and width, or the short
    side alone, which keeps the aspect ratio."""
    crop: First[int] = 160
    """Height and width of the network's input, in pixels."""

    def __post_init__(self) -> None:
        """Check the values."""
        self._check_values(("epochs", "batch_size", "clips_per_video", *_CLIP))

    def _check_values(self, counts: Sequence[str]) -> None:
        check_options(self, counts, is_count, "1 or more")
        check_options(self, ("max_steps", "clips_per_step"), is_count, "1 or more, or omit it")
        positive = ("lr", "cyclic_half_epochs", "cyclic_factor")
        check_options(self, positive, is_positive, "a finite number above 0")
        check_options(self, ("clip_gradients",), is_positive, "a finite number above 0, or omit it")
        rates = ("head_weight_rate", "head_bias_rate", "stem_rate")
        check_options(
            self,
            ("weight_decay", "average_epochs", *rates),
            is_not_negative,
            "a finite number of at least 0",
        )
        if self.fps != "native" and not 0 < self.fps <= MAX_FPS:
            raise UserError(
                f"--fps is {self.fps}; give a number above 0, at most {MAX_FPS:g}, or native"
            )
        fractions = ("flip_probability", "warmup")
        check_options(self, fractions, lambda value: 0 <= value <= 1, "a value in [0, 1]")
        check_options(
            self,
            ("dropout", "momentum", "label_smoothing"),
            lambda value: 0 <= value < 1,
            "a value in [0, 1)",
        )
        if self.balance and self.class_weights:
            raise UserError(
                "--balance and --class-weights both make up for unequal classes; give one of them"
            )
        check_options(self, ("freeze_stages",), lambda value: 0 <= value <= 5, "0 to 5")
        if self.nesterov and not self.momentum:
            raise UserError("--nesterov needs a --momentum above 0; give one, or --no-nesterov")
        if any(low >= high for low, high in pairwise((0, *self.milestones))):
            listed = " ".join(map(str, self.milestones))
            raise UserError(f"--milestones are {listed}; give increasing steps from 1 on")

    @property
    def rate(self) -> float | None:
        """The rate at which frames are picked; None for the videos' own."""
        return None if self.fps == "native" else self.fps

    def clips_of_step(self, processes: int) -> int:
        """Return the clips of an optimizer step over a number of processes."""
        return self.clips_per_step or self.batch_size * processes


@dataclass(frozen=True)
class QuickRecipe(Recipe):
    """A recipe whose open values are fitted to a time budget at the start of a run.

    A value of 0 is open; for `resize`, 0 0. See `p3d.training.budget`.
    """

    minutes: Annotated[First[float], Heading("recipe: network and length")] = 30.0
    """Time for the whole run; the values that are 0 are fitted to it."""

    def __post_init__(self) -> None:
        """Check the values."""
        self._check_values(("batch_size",))
        check_options(self, ("minutes",), is_positive, "a finite number above 0")
        for name in FITTED:
            value = getattr(self, name)
            if name != "resize" and value < 0:
                raise UserError(f"{option_flag(name)} is {value}; give more than 0, or 0 to fit it")

    @property
    def open_fields(self) -> tuple[str, ...]:
        """Names of the values to fit."""
        return tuple(name for name in FITTED if getattr(self, name) in (0, (0, 0)))


FITTED = ("epochs", "clips_per_video", "num_frames", "frame_stride", "resize", "crop")
"""Values that a `QuickRecipe` can leave open."""


UCF101 = Recipe()
"""The model zoo's fine-tuning on UCF101: SGD 1e-3, triangular cyclic schedule."""

UCF101_PAPER = replace(
    UCF101,
    epochs=200,
    max_steps=7500,
    clips_per_step=128,
    schedule="step",
    norms="freeze-but-first",
    head_weight_rate=10.0,
    head_bias_rate=20.0,
    augmentation="random-crop",
)
"""The paper's fine-tuning: 7,500 steps of 128 clips, 1e-3 divided by ten every 3,000 steps, all BN
but the first frozen."""

FINETUNE_SMALL = replace(
    UCF101,
    network="p3d63",
    epochs=20,
    batch_size=8,
    clips_per_video=4,
    schedule="cosine",
    dropout=0.5,
    norms="freeze-all",
    head_weight_rate=10.0,
    head_bias_rate=20.0,
    augmentation="multi-scale-crop",
    fps=_FPS,
)
"""A few dozen to a few hundred videos, from pretrained weights."""

SCRATCH = replace(
    UCF101,
    network="p3d63",
    epochs=40,
    clips_per_video=4,
    lr=0.02,
    nesterov=True,
    clip_gradients=1.0,
    schedule="one-cycle",
    dropout=0.2,
    zero_init_residuals=True,
    augmentation="multi-scale-crop",
    resize=(128, 170),
    crop=112,
    fps=_FPS,
)
"""A small set without pretrained weights."""

SAMPLE = replace(
    SCRATCH,
    epochs=6,
    batch_size=32,
    clips_per_video=1,
    lr=0.03,
    clip_gradients=5.0,
    dropout=0.1,
    augmentation="random-crop",
    flip_probability=0.0,
    num_frames=8,
    frame_stride=2,
    resize=(48, 48),
    crop=40,
    fps="native",
)
"""The synthetic sample set, from scratch, in minutes on two cores. No flips: they turn a motion to
the left into one to the right."""

QUICK = QuickRecipe(
    **asdict(SCRATCH)
    | {
        "batch_size": 8,
        "lr": 0.01,
        "epochs": 0,
        "clips_per_video": 0,
        "num_frames": 0,
        "frame_stride": 0,
        "resize": (0, 0),
        "crop": 0,
        "fps": "native",
    }
)
"""A small set within a time budget, on a CPU: many small steps of small clips."""

RECIPES: dict[str, Recipe] = {
    "ucf101": UCF101,
    "ucf101-paper": UCF101_PAPER,
    "finetune-small": FINETUNE_SMALL,
    "scratch": SCRATCH,
    "sample": SAMPLE,
    "quick": QUICK,
}


def find_recipe(name: str) -> Recipe:
    """Return the recipe of this name.

    Raises:
        UserError: There is no such recipe.
    """
    check_choice("recipe", name, RECIPES)
    return RECIPES[name]
