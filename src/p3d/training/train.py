"""Training: from a data set and a recipe to a measured network.

One run is one folder: checkpoints (all that is needed to go on), `best.safetensors` (the network
that was best on the validation list), `log.jsonl`, `config.json` and a report. Randomness is a pure
function of the seed, the epoch, the step and the video, so a run that was stopped goes on to the
very weights it would have reached, and on several processes to those of one, but for rounding.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch

from p3d.data.dataset import VideoDataset
from p3d.data.layouts import read_dataset, with_scale_of
from p3d.data.loader import TrainLoader
from p3d.errors import UserError
from p3d.model.network import P3D, create_model, zero_init_residuals
from p3d.model.sync_batchnorm import synchronize_norms
from p3d.report.page import write_run_report
from p3d.run_folder import find_checkpoints
from p3d.system.device import resolve_device, wants_pinned_memory
from p3d.system.distributed import ALONE, Group, join, read_launch
from p3d.system.files import held, make_folder, write_json
from p3d.system.machine import describe_machine
from p3d.system.signals import StopRequest
from p3d.training.checkpoint import Saver, check_room, read_newest
from p3d.training.console import announce, summarise
from p3d.training.log import RunLog
from p3d.training.loop import Job, train_all
from p3d.training.optim import freeze
from p3d.training.options import TrainOptions, check_same, fingerprint
from p3d.training.plan import disk_bytes, make_plan, render
from p3d.training.state import Run, build_run
from p3d.weights.describe import describe_file
from p3d.weights.loading import load_pretrained


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
    if options.sync_norms:
        synchronize_norms(model)
    freeze(model, recipe)
    model.checkpoint_activations = options.checkpoint_activations
    return model, notes


def build_loader(
    options: TrainOptions,
    model: P3D,
    dataset: VideoDataset,
    clips_per_step: int | None = None,
    group: Group = ALONE,
    *,
    pin_memory: bool = False,
) -> TrainLoader:
    """This process's batches of a run.

    Args:
        options: Batch size, augmentation and the like.
        model: The network; its preprocessing is used.
        dataset: The training list.
        clips_per_step: Of the run that is resumed; that of the recipe by default.
        group: The processes that train together.
        pin_memory: Hand out batches in memory that a GPU copies from asynchronously.
    """
    recipe = options.recipe
    return TrainLoader(
        dataset,
        model.preprocessing,
        batch_size=recipe.batch_size,
        seed=options.seed,
        clips_per_step=clips_per_step or recipe.clips_of_step(group.world_size),
        augmentation=recipe.augmentation,
        flip_probability=recipe.flip_probability,
        clips_per_video=recipe.clips_per_video,
        workers=options.workers,
        on_bad_video=options.on_bad_video,
        rank=group.rank,
        world_size=group.world_size,
        pin_memory=pin_memory,
    )


def _find_state(
    options: TrainOptions, now: dict[str, str], group: Group
) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """The checkpoint to go on from, where that was asked for and there is one, and what to say.

    Raises:
        UserError: It cannot be read or is of another run, or there is one and none was asked for.
    """
    if not options.resume and find_checkpoints(options.out):
        raise UserError(
            f"{options.out} already holds a run; add --resume to go on with it, or choose another "
            "--out"
        )
    state, problems = read_newest(options.out)
    if state is not None:
        remedy = "resume with the same options, or choose another --out"
        check_same(f"the run in {options.out}", state["fingerprint"], now, remedy)
    steps = group.gather(None if state is None else state["progress"]["step"])
    for rank, (theirs, step) in enumerate(zip(group.gather(now), steps, strict=True)):
        check_same(f"process {rank}", theirs, now, "give all processes the same options and data")
        if step != steps[0]:
            raise UserError(
                f"process 0 finds the run in {options.out} at step {steps[0]} and process {rank} "
                f"at {step}; put --out on storage that all machines share"
            )
    return state, tuple(f"DAMAGED: {problem}; going on from one before it" for problem in problems)


def run(options: TrainOptions) -> int:
    """Carry out `p3d train`; returns the exit code: 0, or 128 + the signal that stopped it.

    Raises:
        UserError: The options, the data or the weights do not fit.
    """
    launch = read_launch()
    device = resolve_device(options.device, launch.local_rank)
    with StopRequest(launched=launch.launched) as stop, join(device, launch) as group:
        return _train(options, device, group, stop)


def _train(options: TrainOptions, device: torch.device, group: Group, stop: StopRequest) -> int:
    training = read_dataset(options.data, "train")
    validation = read_dataset(options.data, "validation")
    if options.patience is not None and not validation.records:
        raise UserError("--patience needs a validation list, and the data set has none")
    marks = fingerprint(options, training)
    state, problems = _find_state(options, marks, group)
    model, notes = build_model(options, training.class_names)
    model.preprocessing = with_scale_of(training, model.preprocessing)
    clips_per_step = None if state is None else int(state["clips_per_step"])
    pinned = wants_pinned_memory(device)
    loader = build_loader(options, model, training, clips_per_step, group, pin_memory=pinned)
    job = build_run(
        options.recipe,
        model,
        training,
        device,
        clips_per_step=loader.clips_per_step,
        steps_per_epoch=loader.steps_per_epoch,
        seed=options.seed,
        precision=options.precision,
        compiled=options.compile,
        group=group,
    )
    if state is not None:
        job.restore(state)
    if group.is_main:
        announce(job, validation, (*notes, *problems))
    if options.plan:
        if group.is_main:
            _print_plan(job, loader)
        return 0
    whole = Job(job, options, loader, validation, marks, stop)
    if group.is_main:
        make_folder(options.out)
        with held(options.out) as is_ours:
            if not is_ours:
                raise UserError(
                    f"another process is at work in {options.out}; let it end, or choose another "
                    "--out"
                )
            return _train_and_write(whole)
    return stop.exit_code if train_all(whole) else 0


def _print_plan(run: Run, loader: TrainLoader) -> None:
    plan = make_plan(
        run.model,
        run.recipe,
        clips_per_step=run.clips_per_step,
        processes=run.group.world_size,
        steps_per_epoch=loader.steps_per_epoch,
        steps=run.total_steps,
        precision=run.precision,
    )
    print("\n" + render(plan))


def _train_and_write(job: Job) -> int:
    """The main process's run, which is the one that writes."""
    options, run = job.options, job.run
    print(check_room(options.out, *disk_bytes(run.model, run.recipe), options.keep_checkpoints))
    write_json(options.out / "config.json", asdict(options))
    write_json(options.out / "environment.json", describe_machine(run.device))
    with RunLog(options.out, run.progress.step, tensorboard=options.tensorboard) as log:
        job.log = log
        job.saver = Saver(
            options.out,
            log,
            minutes=options.save_minutes,
            steps=options.save_steps,
            keep=options.keep_checkpoints,
        )
        job.note(
            "start",
            processes=run.group.world_size,
            clips_per_step=run.clips_per_step,
            learning_rate=run.recipe.lr,
        )
        stopped = train_all(job)
    if stopped:
        return _tell_stop(job, is_saved=not job.saver.failed)
    try:
        write_run_report(options.out)
    except UserError as error:
        print(f"no report: {error}")
    summarise(options.out)
    return 1 if job.saver.failed else 0


def _tell_stop(job: Job, *, is_saved: bool) -> int:
    progress, signal = job.run.progress, job.stop.signal
    by = signal.name if signal else "another process or the loss of the launcher"
    kept = "nothing is lost" if is_saved else "THE LAST STEPS ARE NOT SAVED"
    print(
        f"stopped by {by} in epoch {progress.epoch + 1} after step {progress.step}; {kept}: the "
        "same command with --resume goes on"
    )
    return job.stop.exit_code
