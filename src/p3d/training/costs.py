"""Time that a run would cost with clips of several shapes, measured on this machine.

Steps are timed with a network and made-up clips of their own, and a few training videos are read.
Nothing of the run is changed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from p3d.data.clips import TrainClips, Unread
from p3d.data.dataset import VideoDataset
from p3d.data.loader import Batch, with_scale_of
from p3d.data.track import track_of
from p3d.data.workers import Videos
from p3d.errors import UserError
from p3d.model.config import CHANNELS
from p3d.preprocessing import Preprocessing, default_preprocessing
from p3d.system.device import synchronize
from p3d.system.distributed import Group
from p3d.training.network import build_network, prepare_for_training
from p3d.training.options import TrainOptions
from p3d.training.recipes import Recipe
from p3d.training.state import build_state
from p3d.training.step import train_step
from p3d.training.timing import SCORING_SHARE

EPOCH_SECONDS = 3.0
"""Time to write the files of an epoch."""

SLOW_SECONDS = 20.0
"""A step of the largest clips that would take longer is not timed, but estimated."""

READ_VIDEOS = 6
"""Videos of which a clip is loaded."""

TIMED_SECONDS = 5.0
"""A part is timed this long, but at least once."""


class Shape(NamedTuple):
    """Size of a clip: frames, and pixels of a side."""

    num_frames: int
    crop: int

    @property
    def pixels(self) -> int:
        """Number of pixels of a clip."""
        return self.num_frames * self.crop**2


@dataclass(frozen=True)
class Costs:
    """What a run costs on this machine, and what its data set is like.

    Attributes:
        clip_seconds: Seconds of training on a clip of each shape, with loading it.
        videos: Number of training videos.
        scored_clips: Clips of a validation.
        frames: Frames of a typical video, at the rate of the clips.
    """

    clip_seconds: Mapping[Shape, float]
    videos: int
    scored_clips: int
    frames: int

    def clips(self, recipe: Recipe, processes: int = 1) -> int:
        """Return the clips of a run with a recipe that has no open values."""
        clips = recipe.epochs * self.videos * recipe.clips_per_video
        if recipe.max_steps is None:
            return clips
        return min(clips, recipe.max_steps * recipe.clips_of_step(processes))

    def seconds(self, recipe: Recipe, processes: int = 1) -> float:
        """Return the seconds of such a run."""
        clip = self.clip_seconds[Shape(recipe.num_frames, recipe.crop)]
        clips = self.clips(recipe, processes)
        epochs = -(-clips // (self.videos * recipe.clips_per_video))
        return clips * clip + epochs * self.epoch_end(clip)

    def epoch_end(self, clip: float) -> float:
        """Return the seconds of a validation and of writing files.

        Args:
            clip: Seconds of training on a clip.
        """
        return self.scored_clips * clip * SCORING_SHARE + EPOCH_SECONDS


def measure(
    options: TrainOptions,
    recipes: Mapping[Shape, Recipe],
    training: VideoDataset,
    scored_clips: int,
    device: torch.device,
    group: Group,
) -> Costs:
    """Measure what a run costs, within about half a minute on a slow CPU.

    The cost of a shape is taken to grow with its pixels. All ranks must call this; they measure at
    once, since they may share processor cores.

    Args:
        options: Options of the run.
        recipes: A recipe with clips of each shape to choose from, the largest first.
        training: The training list.
        scored_clips: Clips of a validation.
        device: Where to train.
        group: The ranks that train together.

    Raises:
        UserError: No video could be read.
    """
    largest, *_, smallest = (*recipes, *recipes)
    ratio = largest.pixels / smallest.pixels
    low = _clip_seconds(options, recipes[smallest], training, device)
    high = low * ratio
    if ratio > 1 and high * recipes[largest].batch_size < SLOW_SECONDS:
        high = max(low, _clip_seconds(options, recipes[largest], training, device))
    loading, frames = _loading_seconds(options, recipes[largest], training)
    clip_seconds = {}
    for shape in recipes:
        share = (shape.pixels - smallest.pixels) / max(1, largest.pixels - smallest.pixels)
        step = low + (high - low) * share
        parallel = torch.get_num_threads() if device.type == "cpu" else options.workers
        load = loading / max(1, parallel if options.workers else 1)
        # On a CPU, loading takes time from training; elsewhere both go on at once.
        both = step + load if device.type == "cpu" or not options.workers else max(step, load)
        clip_seconds[shape] = max(group.gather(both)) / group.world_size
    return Costs(clip_seconds, len(training.records), scored_clips, min(group.gather(frames)))


def _clip_seconds(
    options: TrainOptions, recipe: Recipe, training: VideoDataset, device: torch.device
) -> float:
    """Return the seconds of training on a made-up clip, with a network of its own."""
    size = recipe.batch_size
    recipe = replace(recipe, zero_init_residuals=True)  # other activations may overflow
    model = build_network(
        recipe,
        training.class_names,
        modality=options.modality,
        wiring=options.wiring or "author",
        variant=options.variant,
    )
    prepare_for_training(
        model, recipe, sync_norms=False, checkpoint_activations=options.checkpoint_activations
    )
    state = build_state(
        recipe,
        model,
        training,
        device,
        clips_per_step=size,
        steps_per_epoch=1000,
        seed=options.seed,
        precision=options.compute.precision,
    )
    shape = (size, recipe.num_frames, recipe.crop, recipe.crop, CHANNELS[options.modality])
    clips = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator())
    indices = torch.zeros(size, dtype=torch.int64)
    batch = Batch(clips, indices, indices, ())

    def step() -> None:
        train_step(state, (batch,))
        synchronize(device)

    return _time(step) / size


def _loading_seconds(
    options: TrainOptions, recipe: Recipe, training: VideoDataset
) -> tuple[float, int]:
    """Return the seconds of loading a clip, and the frames of a typical video at their rate.

    Raises:
        UserError: No video could be read.
    """
    prep = _preprocessing(options, recipe, training)
    videos = Videos(training)
    clips = TrainClips(
        videos,
        prep,
        options.seed,
        recipe.augmentation,
        recipe.flip_probability,
        clips_per_video=1,
    )
    count = len(training.records)
    seconds: list[float] = []
    frames: list[int] = []
    start = time.perf_counter()
    for index in dict.fromkeys(i * count // READ_VIDEOS for i in range(READ_VIDEOS)):
        begin = time.perf_counter()
        if begin - start > TIMED_SECONDS and seconds:
            break
        sample = clips[0, index]
        if isinstance(sample, Unread):
            error = sample.error
            continue
        seconds.append(time.perf_counter() - begin)
        with videos.open(index, prefer_flow=prep.channels == "flow") as video:
            segment = training.records[index].segment
            frames.append(track_of(video, prep.fps, segment).length)
    if not seconds:
        raise UserError(f"{error}; none of the videos that were tried can be read")
    return statistics.mean(seconds), round(statistics.median_low(frames))


def _preprocessing(options: TrainOptions, recipe: Recipe, training: VideoDataset) -> Preprocessing:
    """Return how the clips of a recipe are made from the training videos."""
    return with_scale_of(
        training,
        replace(
            default_preprocessing(options.modality),
            num_frames=recipe.num_frames,
            frame_stride=recipe.frame_stride,
            resize=recipe.resize,
            crop=recipe.crop,
            fps=recipe.rate,
        ),
    )


def _time(function: Callable[[], object]) -> float:
    """Return the mean seconds of calls after the first one, which is counted only if it is slow."""
    start = time.perf_counter()
    function()
    if (first := time.perf_counter() - start) > TIMED_SECONDS:
        return first
    count, start = 0, time.perf_counter()
    while not count or time.perf_counter() - start < TIMED_SECONDS:
        function()
        count += 1
    return (time.perf_counter() - start) / count
