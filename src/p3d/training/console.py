"""Terminal output of a training run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from p3d.data.dataset import VideoDataset
from p3d.data.rates import assumed_rates
from p3d.errors import printable
from p3d.run_folder import (
    BEST_FILE,
    CONFIG_FILE,
    LAST_FILE,
    LOG_FILE,
    REPORT_FILE,
    best_epoch,
    find_checkpoints,
    read_log,
)
from p3d.scores.accuracy import shows_top5
from p3d.system.device import Precision, describe_device, has_native_bf16
from p3d.system.text import counted, format_duration, format_percent, format_table
from p3d.training.comparison import describe_difference
from p3d.training.plan import describe_step
from p3d.training.progress import Progress
from p3d.training.recipes import Recipe
from p3d.training.state import TrainState
from p3d.training.timing import RunTime

PRECISIONS: dict[Precision, str] = {
    "fp32": "fp32 (IEEE, without TF32)",
    "tf32": "fp32 with TF32",
    "bf16": "bf16 mixed precision",
    "fp16": "fp16 mixed precision with a loss scale",
}
"""Descriptions of the precisions."""


def print_start(state: TrainState, validation: VideoDataset, messages: tuple[str, ...]) -> None:
    """Print the network, data, device and recipe of a run."""
    for line in (*_setup(state, validation), *_data(state, validation)):
        print(line)
    if state.precision == "bf16" and not has_native_bf16(state.device):
        print("this device has no native bf16 arithmetic; fp32 will be faster")
    for message in messages:
        print(printable(message))
    if state.progress.step:
        print(f"resuming in epoch {state.progress.epoch + 1} after step {state.progress.step}")


def _setup(state: TrainState, validation: VideoDataset) -> Iterator[str]:
    """Yield what is trained, on which device, and how."""
    config, recipe, processes = state.model.config, state.recipe, state.group.world_size
    yield (
        f"{config.name} ({config.modality}, wiring {config.wiring}, variant {config.variant}), "
        f"{config.num_classes} classes"
    )
    device = describe_device(state.device)
    if processes > 1:
        device = f"{processes} x {state.device.type}"
    yield f"{device}, {PRECISIONS[state.precision]}, seed {state.seed}"
    yield (
        f"{len(state.dataset.records)} training and {len(validation.records)} validation videos, "
        f"{state.total_steps} steps of "
        f"{describe_step(state.clips_per_step, recipe.batch_size, processes)}"
    )
    yield (
        f"learning rate {recipe.lr:g} ({recipe.schedule}), weight decay {recipe.weight_decay:g}, "
        f"dropout {recipe.dropout:g}, BN: {recipe.norms}"
    )
    yield f"clips of {recipe.num_frames} frames {state.model.preprocessing.describe_rate()}"
    if recipe.average_epochs:
        yield (
            f"weights averaged over about {recipe.average_epochs:g} epochs are validated and saved"
        )


def _data(state: TrainState, validation: VideoDataset) -> Iterator[str]:
    """Yield what a run sees of its videos, and what is missing."""
    recipe, training = state.recipe, state.dataset
    if (seen := frames_seen(training, recipe)) is not None:
        yield (
            f"an epoch sees at most {seen:.0%} of the frames: {recipe.clips_per_video} clips of "
            f"{recipe.num_frames} frames from each video (--clips-per-video, --num-frames)"
        )
    for dataset, name in ((training, "training"), (validation, "validation")):
        if dataset.missing:
            yield f"MISSING: {counted(dataset.missing, 'listed video')} for {name} not found"
    yield from training.remarks()
    yield from assumed_rates(training, state.model.preprocessing)
    if not validation.records:
        is_validated = state.progress.best_top1 >= 0
        stays = f"stays the network of epoch {state.progress.best_epoch}"
        kept = stays if is_validated else "will be the network of the last epoch"
        yield f"no validation: {BEST_FILE} {kept}"


def frames_seen(dataset: VideoDataset, recipe: Recipe) -> float | None:
    """Return the largest part of a training list's frames that an epoch can see, in [0, 1].

    None if the number of frames of a video, at the rate of the clips, is not known without opening
    it.
    """
    seen = total = 0.0
    for record in dataset.records:
        if not record.num_frames or (recipe.rate and not record.fps):
            return None
        frames: float = record.num_frames
        if recipe.rate and record.fps:
            frames *= recipe.rate / record.fps
        total += frames
        seen += min(frames, recipe.clips_per_video * recipe.num_frames)
    return seen / max(1, total)


def step_text(progress: Progress, values: Mapping[str, float], rest: RunTime | None) -> str:
    """Describe a step beside the epoch's bar, the most important first.

    Args:
        progress: Position of the run, with the sums of the epoch.
        values: What the log says about the step.
        rest: Estimate of the rest of the run.
    """
    means = progress.means()
    parts = [f"run {format_duration(rest.seconds)} left"] if rest else []
    parts += [
        f"loss {means['loss']:.3f}",
        f"top-1 {format_percent(means['top1'])}",
        f"{values['clips_per_second']:.3g} clips/s",
        f"{values['data_wait']:.0%} waiting",
        f"lr {values['lr']:.2g}",
        f"{values['memory_mib']:,.0f} MiB",
    ]
    if "scale" in values:
        parts.append(f"scale {values['scale']:.0f}")
    return ", ".join(parts)


def epoch_line(epoch: int, epochs: int, values: Mapping[str, float]) -> str:
    """Describe an epoch in one line of 80 columns.

    Args:
        epoch: Number of the epoch, from 1.
        epochs: Number of epochs of the run.
        values: What the log says about the epoch.
    """
    parts = [f"epoch {epoch:>{len(str(epochs))}}/{epochs}"]
    for prefix, loss, top1 in (("train_", "loss", "top-1 "), ("validation_", "validation", "")):
        if f"{prefix}loss" in values:
            percent = format_percent(values[f"{prefix}top1"])
            parts.append(f"{loss} {values[f'{prefix}loss']:.3f}, {top1}{percent:>6}")
    parts.append(f"{values['seconds']:.0f} s")
    if values.get("overflows"):
        parts.append(f"{values['overflows']:.0f} steps skipped (fp16 overflow)")
    if values["bad_videos"]:
        parts.append(f"{counted(int(values['bad_videos']), 'video')} SKIPPED")
    return " | ".join(parts)


def print_summary(folder: Path, num_classes: int) -> None:
    """Print the best and the last epoch of a run, and the files in its folder.

    Args:
        folder: Folder of the run.
        num_classes: Number of classes; top-5 accuracy is shown if there are enough.
    """
    epochs = [line for line in read_log(folder) if line["event"] == "epoch"]
    if not epochs:  # the log may have been lost on a full disk
        print(f"the log in {printable(folder)} has no complete epoch: no summary")
        return
    best = best_epoch(epochs)
    if best is None and "validation_top1" not in epochs[-1]:
        best = epochs[-1]  # in older logs
    found = {"best": best, "last": epochs[-1]}
    lines = {name: line for name, line in found.items() if line is not None}
    print("\n" + _summary_table(lines, num_classes))
    difference = _describe_choice(epochs[-1])
    if difference is not None:
        print(difference)
    seconds = sum(line["seconds"] for line in epochs)
    print(f"{seconds:.0f} s in total; written to {printable(folder)}:")
    networks = [
        f"{name}{use}"
        for name, use in ((BEST_FILE, " (for p3d eval and predict)"), (LAST_FILE, ""))
        if (folder / name).exists()
    ]
    newest = [f"{path.name} (to resume from)" for path in find_checkpoints(folder)[:1]]
    others = [name for name in (REPORT_FILE, LOG_FILE, CONFIG_FILE) if (folder / name).exists()]
    print("  " + ", ".join([*networks, *newest, *others]))


def _summary_table(lines: Mapping[str, Mapping[str, Any]], num_classes: int) -> str:
    """Return a table of epochs: the lines of the log, by name."""
    columns = {
        "": [f"{name} (epoch {line['epoch']})" for name, line in lines.items()],
        "train top-1": [format_percent(line["train_top1"]) for line in lines.values()],
    }
    if any("validation_loss" in line for line in lines.values()):
        for title, key in (("validation top-1", "top1"), ("top-5", "top5")):
            values = [line.get(f"validation_{key}") for line in lines.values()]
            if key == "top1" or shows_top5(num_classes):
                columns[title] = [format_percent(value) for value in values]
        losses = [line.get("validation_loss") for line in lines.values()]
        columns["loss"] = ["" if loss is None else f"{loss:.3f}" for loss in losses]
    return format_table([*columns], [*zip(*columns.values(), strict=True)])


def _describe_choice(last: Mapping[str, Any]) -> str | None:
    """Say that the validation list is too small to choose between best and last, or return None."""
    counts = last.get("against_best")
    if not isinstance(counts, list) or last["best_epoch"] in (None, last["epoch"]):
        return None
    return describe_difference(*counts)
