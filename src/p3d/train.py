"""Training: from a data set and a recipe to a measured network.

One run is one folder: `last.pt` (all that is needed to go on), `best.safetensors` (the network that
was best on the validation list), `log.jsonl` and `config.json`. Randomness is a pure function of
the seed, the epoch and the step, so a run that was stopped goes on to the very weights it would
have reached.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from p3d.checkpoint import BEST, LAST, read_checkpoint, write_checkpoint
from p3d.data.flow import with_scale_of
from p3d.data.loader import BadVideoPolicy, TrainLoader
from p3d.data.manifest import DataOptions, VideoDataset, read_dataset
from p3d.engine import Progress, Run, build_run, remaining_steps, train_step
from p3d.errors import UserError
from p3d.evaluate import score_videos
from p3d.inference import Scorer
from p3d.interrupt import StopRequest
from p3d.metrics import measure
from p3d.model import P3D, Modality, Variant, Wiring, create_model, zero_init_residuals
from p3d.optim import freeze
from p3d.plan import make_plan, render
from p3d.recipes import UCF101, Recipe
from p3d.report import format_share, make_folder, write_json
from p3d.runlog import RunLog
from p3d.runtime import (
    DeviceName,
    Precision,
    resolve_device,
)
from p3d.train_report import announce, epoch_line, summarise
from p3d.weights import describe_file, load_pretrained, save_model


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
    modality: Modality = "rgb"
    """Frames, or optical flow that `p3d prepare flow` has computed."""
    wiring: Wiring | None = None
    """Whose network: the authors' or the port's; that of --weights, or else the authors'."""
    variant: Variant = "ABC"
    """The mixed network, one kind of block alone, or no temporal convolution at all."""
    device: DeviceName = "auto"
    """Where to compute."""
    precision: Precision = "fp32"
    """Arithmetic: fp32, or mixed precision with bf16 or fp16."""
    compile: bool = False
    """Compile the network first."""
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


def build_model(options: TrainOptions, class_names: tuple[str, ...]) -> tuple[P3D, tuple[str, ...]]:
    """The network that a run starts from, and what there is to say about its weights.

    Raises:
        UserError: The weights cannot be read or are those of another network.
    """
    recipe, wiring = options.recipe, options.wiring
    if wiring is None:
        wiring = describe_file(options.weights).config.wiring if options.weights else "author"
    torch.manual_seed(options.seed)
    model = create_model(
        recipe.network,
        num_classes=len(class_names),
        modality=options.modality,
        wiring=wiring,
        variant=options.variant,
        dropout=recipe.dropout,
    )
    if recipe.zero_init_residuals and options.weights is None:
        zero_init_residuals(model)
    model.class_names = class_names
    model.preprocessing = replace(
        model.preprocessing,
        num_frames=recipe.num_frames,
        frame_stride=recipe.frame_stride,
        resize=recipe.resize,
        crop=recipe.crop,
    )
    notes: tuple[str, ...] = ("weights: from scratch",)
    if options.weights is not None:
        notes = (f"weights: {options.weights}", *load_pretrained(model, options.weights))
    freeze(model, recipe)
    return model, notes


def build_loader(options: TrainOptions, model: P3D, dataset: VideoDataset) -> TrainLoader:
    """The batches of a run."""
    recipe = options.recipe
    return TrainLoader(
        dataset,
        model.preprocessing,
        batch_size=recipe.batch_size,
        seed=options.seed,
        clips_per_step=recipe.batch_size * recipe.accumulate,
        augmentation=recipe.augmentation,
        flip_probability=recipe.flip_probability,
        clips_per_video=recipe.clips_per_video,
        workers=options.workers,
        on_bad_video=options.on_bad_video,
    )


def fingerprint(options: TrainOptions) -> dict[str, str]:
    """The options that the weights depend on, by flag, as text."""
    values: dict[str, Any] = asdict(options.recipe) | asdict(options.data.splits)
    names = ("seed", "precision", "modality", "variant", "wiring", "weights", "on_bad_video")
    values |= {name: getattr(options, name) for name in names}
    values |= {"data": options.data.data.resolve(), "fold": options.data.fold}
    return {
        f"--{name.replace('_', '-')}": json.dumps(value, default=str)
        for name, value in values.items()
    }


def _check_same_run(path: Path, before: dict[str, str], now: dict[str, str]) -> None:
    """Refuse to go on with other options than the run was started with."""
    for flag in sorted(before.keys() | now.keys()):
        if before.get(flag) != now.get(flag):
            raise UserError(
                f"{path} was trained with {flag} {before.get(flag)}, not {now.get(flag)}; resume "
                "with the same options, or choose another --out"
            )


def _restore(run: Run, options: TrainOptions) -> None:
    """Go on from the checkpoint in the run's folder, where that was asked for and there is one."""
    path = options.out / LAST
    if not path.exists():
        return
    if not options.resume:
        raise UserError(
            f"{options.out} already holds a run; add --resume to go on with it, or choose another "
            "--out"
        )
    state = read_checkpoint(path)
    _check_same_run(path, state["fingerprint"], fingerprint(options))
    run.restore(state)


def _save(run: Run, options: TrainOptions) -> None:
    state = run.state() | {"fingerprint": fingerprint(options)}
    write_checkpoint(options.out / LAST, state)


def train_epoch(run: Run, loader: TrainLoader, log: RunLog, stop: StopRequest) -> bool:
    """Go on with the epoch under way; False where a stop was asked for before its end."""
    progress = run.progress
    steps = loader.steps_per_epoch
    run.model.train()
    bar = tqdm(
        desc=f"epoch {progress.epoch + 1}/{run.recipe.epochs}",
        total=steps,
        initial=progress.step_in_epoch,
        unit="step",
        disable=None,
        leave=False,
    )
    with bar:
        for batches in remaining_steps(run, loader):
            rate = run.schedule.get_last_lr()[0]
            loss = train_step(run, batches)
            for line in (line for batch in batches for line in batch.bad):
                tqdm.write(f"skipped {line}")
            log.write("step", progress.step, epoch=progress.epoch + 1, loss=loss, lr=rate)
            means = progress.means()
            bar.set_postfix_str(
                f"loss {means['loss']:.3f}, top-1 {format_share(means['top1'])}, "
                f"top-5 {format_share(means['top5'])}"
            )
            bar.update()
            if stop.signal is not None or run.is_over:
                break
    return progress.step_in_epoch >= steps or run.is_over


def validate(run: Run, options: TrainOptions, dataset: VideoDataset) -> dict[str, float]:
    """Loss, top-1 and top-5 on the validation list."""
    scorer = Scorer(run.model, run.device, run.precision, batch_size=run.recipe.batch_size)
    scored = score_videos(
        scorer,
        dataset,
        clips=options.validation_clips,
        workers=options.workers,
        on_bad_video=options.on_bad_video,
        label="validating",
    )
    accuracy = measure(scored.scores, scored.labels)
    return {"loss": accuracy.loss, "top1": accuracy.top1, "top5": accuracy.top5}


def finish_epoch(
    run: Run, options: TrainOptions, validation: VideoDataset, log: RunLog, seconds: float
) -> None:
    """Validate, report, keep the best network, and save the run at the start of the next epoch."""
    progress = run.progress
    trained = progress.means()
    values: dict[str, float] = {f"train_{name}": value for name, value in trained.items()}
    if validation.records:
        measured = validate(run, options, validation)
        values |= {f"validation_{name}": value for name, value in measured.items()}
    top1 = values.get("validation_top1")
    if top1 is None or top1 > progress.best_top1:
        progress.best_top1 = progress.best_top1 if top1 is None else top1
        progress.best_epoch = progress.epoch + 1
        save_model(
            run.model,
            options.out / BEST,
            source="trained by p3d" if options.weights is None else f"from {options.weights.name}",
            recipe=asdict(run.recipe),
        )
    values |= {"seconds": round(seconds, 1), "bad_videos": progress.bad}
    log.write("epoch", progress.step, epoch=progress.epoch + 1, **values)
    tqdm.write(epoch_line(run, values))
    progress.next_epoch()
    _save(run, options)


def train_all(
    run: Run,
    options: TrainOptions,
    loader: TrainLoader,
    validation: VideoDataset,
    log: RunLog,
    stop: StopRequest,
) -> None:
    """Train until the steps are over, patience is at its end, or a stop is asked for."""
    progress = run.progress
    while not run.is_over and stop.signal is None and not _out_of_patience(progress, options):
        started = time.perf_counter()
        if train_epoch(run, loader, log, stop):
            finish_epoch(run, options, validation, log, time.perf_counter() - started)
    if stop.signal is not None:
        _save(run, options)


def _out_of_patience(progress: Progress, options: TrainOptions) -> bool:
    if options.patience is None or progress.best_epoch is None:
        return False
    return progress.epoch - progress.best_epoch >= options.patience


def run(options: TrainOptions) -> int:
    """Carry out `p3d train`; returns the exit code: 0, or 128 + the signal that stopped it.

    Raises:
        UserError: The options, the data or the weights do not fit.
    """
    device = resolve_device(options.device)
    training = read_dataset(options.data, "train")
    validation = read_dataset(options.data, "validation")
    if options.patience is not None and not validation.records:
        raise UserError("--patience needs a validation list, and the data set has none")
    model, notes = build_model(options, training.class_names)
    model.preprocessing = with_scale_of(training, model.preprocessing)
    loader = build_loader(options, model, training)
    job = build_run(
        options.recipe,
        model,
        loader,
        device,
        seed=options.seed,
        precision=options.precision,
        compiled=options.compile,
    )
    _restore(job, options)
    announce(job, training, validation, notes)
    if options.plan:
        _print_plan(job, loader)
        return 0
    make_folder(options.out)
    write_json(options.out / "config.json", asdict(options))
    with (
        StopRequest() as stop,
        RunLog(options.out, job.progress.step, tensorboard=options.tensorboard) as log,
    ):
        train_all(job, options, loader, validation, log, stop)
    if stop.signal is not None:
        print(
            f"stopped by {stop.signal.name} in epoch {job.progress.epoch + 1} after step "
            f"{job.progress.step}; nothing is lost: the same command with --resume goes on"
        )
        return stop.exit_code
    summarise(options.out)
    return 0


def _print_plan(run: Run, loader: TrainLoader) -> None:
    plan = make_plan(
        run.model,
        run.recipe,
        steps_per_epoch=loader.steps_per_epoch,
        steps=run.total_steps,
        precision=run.precision,
    )
    print("\n" + render(plan))
