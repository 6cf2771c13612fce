"""The recipe `quick`: sizes and epochs fitted to a time budget.

The budget is spent in this order. Shapes of clips are tried from the largest to the smallest, and
the first one that leaves time for `ENOUGH_STEPS` steps is taken: a network that sees few steps
learns nothing, however large its clips are. If no shape leaves that much, the smallest one is
taken, with as many steps as fit. All other time goes to more epochs.

The values are fixed before the first step; the run's config.json and checkpoints hold them. So a
resumed run is exactly the run that was started, even if the machine became faster or slower.
"""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import torch

from p3d.data.dataset import VideoDataset
from p3d.errors import UserError
from p3d.run_folder import CONFIG_FILE, find_checkpoints
from p3d.system.distributed import Group
from p3d.system.text import format_duration
from p3d.training.costs import Costs, Shape, measure
from p3d.training.options import TrainOptions
from p3d.training.recipes import QuickRecipe, Recipe
from p3d.weights.loading import PretrainedWeights

SHAPES = (Shape(16, 112), Shape(8, 112), Shape(8, 96), Shape(8, 80), Shape(8, 64))
"""Shapes of clips to choose from, the largest first."""

SPAN = 32
"""Frames of a video from the first to the last frame of a clip, or fewer if videos are shorter."""

CLIPS_PER_VIDEO = (4, 2, 1)
"""Clips of each video in an epoch: the first that leaves `FEW_EPOCHS` epochs."""

FEW_EPOCHS = 8
"""Fewest validations to choose the best network from, if there is a choice."""

MAX_EPOCHS = 200
"""More passes over a small set are of no use."""

ENOUGH_STEPS = 400
"""Steps that a shape must leave time for; smaller shapes are taken otherwise."""

FEWEST_STEPS = 50
"""A budget for fewer steps is refused."""

MARGIN = 0.9
"""Part of the budget that is planned."""


def shapes_of(recipe: QuickRecipe) -> tuple[Shape, ...]:
    """Return the shapes that a recipe can have, the largest first."""
    shapes = (
        Shape(recipe.num_frames or shape.num_frames, recipe.crop or shape.crop) for shape in SHAPES
    )
    return tuple(sorted(dict.fromkeys(shapes), key=lambda shape: -shape.pixels))


def choose(recipe: QuickRecipe, costs: Costs, processes: int = 1) -> Recipe:
    """Choose the open values of a recipe so that the run ends within its budget.

    A larger budget never gives smaller clips, nor fewer clips of the same shape, if smaller clips
    cost less.

    Args:
        recipe: The recipe; values that are not open stay as they are.
        costs: What a run costs.
        processes: Number of ranks that train together.

    Raises:
        UserError: The budget is too small; the message names the least possible.
    """
    best = _best(recipe, costs, processes, recipe.minutes)
    if best is not None:
        return best
    least = _least_minutes(recipe, costs, processes)
    shortest = f"{recipe.epochs} epochs take" if recipe.epochs else f"{FEWEST_STEPS} steps take"
    raise UserError(
        f"--minutes is {recipe.minutes:g}, but {shortest} {least} min here with the smallest "
        f"clips; give --minutes {least}"
    )


def _least_minutes(recipe: QuickRecipe, costs: Costs, processes: int) -> int:
    too_few, enough = 0, 1
    while _best(recipe, costs, processes, enough) is None:
        too_few, enough = enough, 2 * enough
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if _best(recipe, costs, processes, middle) is None:
            too_few = middle
        else:
            enough = middle
    return enough


def _best(recipe: QuickRecipe, costs: Costs, processes: int, minutes: float) -> Recipe | None:
    """Return the recipe for a number of minutes, None if they are too few."""
    steps = min(ENOUGH_STEPS, recipe.max_steps or ENOUGH_STEPS)
    enough = steps * recipe.clips_of_step(processes)
    longest = None
    for shape in shapes_of(recipe):
        found = _longest(recipe, shape, costs, processes, 60 * MARGIN * minutes)
        if found is None:
            continue
        longest = found
        if recipe.epochs or found.epochs == MAX_EPOCHS or costs.clips(found, processes) >= enough:
            break
    return longest


def _longest(
    recipe: QuickRecipe, shape: Shape, costs: Costs, processes: int, budget: float
) -> Recipe | None:
    """Return the longest run with clips of this shape within a budget in seconds, None if none."""
    step, clip = recipe.clips_of_step(processes), costs.clip_seconds[shape]
    counts = (recipe.clips_per_video,) if recipe.clips_per_video else CLIPS_PER_VIDEO
    epochs = 0
    for count in counts:
        epoch = costs.videos * count * clip + costs.epoch_end(clip)
        epochs = min(recipe.epochs or MAX_EPOCHS, int(budget / epoch))
        if epochs >= (recipe.epochs or FEW_EPOCHS):
            break
    if recipe.epochs > epochs:
        return None
    closed = _close(recipe, shape, costs.frames, max(epochs, 1), count)
    if not epochs:
        steps = int((budget - costs.epoch_end(clip)) / (clip * step))
        if steps < FEWEST_STEPS:
            return None
        return replace(closed, max_steps=min(steps, recipe.max_steps or steps))
    is_short = costs.clips(closed, processes) < FEWEST_STEPS * step
    if is_short and not (recipe.epochs or recipe.max_steps or epochs == MAX_EPOCHS):
        return None
    return closed


def _close(
    recipe: QuickRecipe, shape: Shape, frames: int, epochs: int, clips_per_video: int
) -> Recipe:
    """Return a recipe without open values."""
    values = {field.name: getattr(recipe, field.name) for field in fields(Recipe)}
    chosen = {
        "epochs": epochs,
        "clips_per_video": clips_per_video,
        "num_frames": shape.num_frames,
        "frame_stride": max(1, min(SPAN, frames) // shape.num_frames),
        "resize": (round(shape.crop * 8 / 7), round(shape.crop * 85 / 56)),
        "crop": shape.crop,
    }
    return Recipe(**values | {name: chosen[name] for name in recipe.open_fields})


def fit(
    options: TrainOptions,
    training: VideoDataset,
    validation: VideoDataset,
    device: torch.device,
    group: Group,
) -> TrainOptions:
    """Return the options with a recipe that has no open values, and print what was chosen.

    A resumed run keeps the values of its config.json. All ranks must call this.

    Raises:
        UserError: The time budget is too small, the weights cannot be read, or no video could be.
    """
    recipe = options.recipe
    if not isinstance(recipe, QuickRecipe):
        return options
    has_run = bool(find_checkpoints(options.out))
    if has_run and not options.resume:
        # The run that is in the folder will be refused, so nothing is measured.
        return replace(options, recipe=_close(recipe, SHAPES[-1], SPAN, 1, 1))
    earlier = _read_chosen(options, recipe) if options.resume else None
    if earlier is not None:
        return replace(options, recipe=earlier)
    if options.weights is not None:
        PretrainedWeights(options.weights)  # a wrong file is reported before the measurement
    scored_clips = len(validation.records) * options.validation_clips
    shapes = shapes_of(recipe)
    recipes = {shape: _close(recipe, shape, SPAN, 1, 1) for shape in shapes}
    costs = measure(options, recipes, training, scored_clips, device, group)
    chosen = choose(recipe, costs, group.world_size)
    if group.is_main:
        print(describe(recipe, chosen, costs, group.world_size))
    return replace(options, recipe=chosen)


def _read_chosen(options: TrainOptions, recipe: QuickRecipe) -> Recipe | None:
    """Return the recipe with the open values of the run in the folder, None if there is no run."""
    try:
        config = json.loads((options.out / CONFIG_FILE).read_text(encoding="utf-8"))
        saved: dict[str, Any] = config["recipe"]
        names = [*recipe.open_fields, *([] if recipe.max_steps else ["max_steps"])]
        chosen = {name: saved[name] for name in names}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{options.out / CONFIG_FILE}: does not say what was chosen for this run ({error}); "
            f"give its --{', --'.join(recipe.open_fields).replace('_', '-')}"
        ) from error
    if "resize" in chosen and isinstance(chosen["resize"], list):
        chosen["resize"] = tuple(chosen["resize"])
    values = {field.name: getattr(recipe, field.name) for field in fields(Recipe)}
    return Recipe(**values | chosen)


def describe(recipe: QuickRecipe, chosen: Recipe, costs: Costs, processes: int = 1) -> str:
    """Describe what was chosen for a time budget, and why."""
    clips = costs.clips(chosen, processes)
    steps = clips // chosen.clips_of_step(processes)
    epochs = f"{chosen.epochs} epoch{'s' if chosen.epochs > 1 else ''}"
    part = f"{steps:,} steps" if chosen.max_steps else epochs
    text = (
        f"quick: {chosen.crop} px, {chosen.num_frames} frames at stride {chosen.frame_stride}, "
        f"{part}: about {format_duration(costs.seconds(chosen, processes))} of "
        f"{recipe.minutes:g} min\n"
    )
    if recipe.epochs or steps == recipe.max_steps:
        return text + "  the largest clips with which the epochs or steps given fit"
    if steps >= ENOUGH_STEPS:
        return text + f"  the largest clips that leave time for {ENOUGH_STEPS} steps: {steps:,}"
    return text + (
        f"  the smallest clips; {steps:,} steps are few, {ENOUGH_STEPS} are better:\n"
        "  expect little, or give more --minutes, or --weights"
    )
