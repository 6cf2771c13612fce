"""`p3d train`: from a data set and a recipe to a trained network.

A run is one folder: checkpoints, `best.safetensors` (the network with the best validation
accuracy), `log.jsonl`, `config.json` and a report. Random draws are pure functions of the seed, the
epoch, the step and the video. So a run that was stopped and resumed ends with identical weights,
and a run on several processes with the weights of a run on one, up to rounding.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch

from p3d.data.dataset import Split, VideoDataset
from p3d.data.layouts import check_outside, read_splits
from p3d.data.loader import TrainLoader
from p3d.errors import UserError, printable
from p3d.report.page import write_run_report
from p3d.run_folder import CONFIG_FILE, ENVIRONMENT_FILE
from p3d.system.device import peak_memory, resolve_device, set_up_cpu
from p3d.system.distributed import Group, join, read_launch
from p3d.system.files import write_json
from p3d.system.folders import lock_folder, only_with_results, results_folder
from p3d.system.machine import describe_call, describe_machine
from p3d.system.options import leaves, plain_options
from p3d.system.resources import raise_file_limit
from p3d.system.signals import StopRequest
from p3d.training.budget import fit
from p3d.training.checks import check_classes
from p3d.training.console import print_start, print_summary
from p3d.training.log import RunLog
from p3d.training.loop import Trainer
from p3d.training.network import prepare_for_training
from p3d.training.options import TrainOptions, earlier_length, fingerprint, keep_native
from p3d.training.plan import disk_bytes, make_plan, render
from p3d.training.resume import find_start
from p3d.training.saver import Saver, check_room
from p3d.training.smallest_batch import check_smallest_batch
from p3d.training.start import build_loader, start_network
from p3d.training.state import TrainState, build_state, extend
from p3d.training.timing import time_steps
from p3d.training.trackers import check_installed


def run(options: TrainOptions, remedy: str | None = None) -> int:
    """Run `p3d train` and return the exit code: 0, or 128 + the signal that stopped it.

    Args:
        options: The options.
        remedy: How a run that is stopped goes on; by default the commands that resume it.

    Raises:
        UserError: The options, the data or the weights do not fit together.
    """
    raise_file_limit()
    launch = read_launch()
    set_up_cpu(options.compute.threads)
    device = resolve_device(options.compute.device, launch.local_rank)
    with StopRequest(launched=launch.launched) as stop, join(device, launch) as group:
        return _train(options, device, group, stop, remedy)


def _train(
    options: TrainOptions,
    device: torch.device,
    group: Group,
    stop: StopRequest,
    remedy: str | None,
) -> int:
    wanted: tuple[Split, ...] = ("train", "validation")
    splits = read_splits(options.data, wanted if options.validation_clips else wanted[:1])
    notes = check_classes(options.data.data, splits["train"])
    check_outside(options.data, options.out)
    if not options.validation_clips:
        splits["validation"] = VideoDataset(splits["train"].class_names, ())
        notes = (*notes, "--validation-clips 0: epochs are not validated")
    if options.patience is not None and not splits["validation"].records:
        raise UserError("--patience needs a validation list, and the data set has none")
    if group.is_main:
        check_installed(options.track)
    with _locked(options, group):
        options, rate_notes = keep_native(options)
        options = fit(options, splits["train"], splits["validation"], device, group)
        trainer, messages = _build_trainer(options, splits, device, group, stop)
        if group.is_main:
            print_start(trainer.state, trainer.validation, (*notes, *rate_notes, *messages))
        if options.plan:
            if group.is_main:
                _print_plan(trainer.state, trainer.loader)
            _measure_plan(trainer)
            return 0
        if not group.is_main:
            return stop.exit_code if trainer.train() else 0
        # A run without a step is nothing to resume; the same command starts it again.
        with only_with_results(options.out, lambda: trainer.state.progress.step > 0):
            return _train_and_write(trainer, remedy)


@contextmanager
def _locked(options: TrainOptions, group: Group) -> Iterator[None]:
    """Lock the run's folder before any rank reads a checkpoint in it; `--plan` writes nothing.

    A process that read first and locked later would delete the checkpoints that another process
    wrote in between.
    """
    with ExitStack() as stack:
        if group.is_main and not options.plan:
            stack.enter_context(results_folder(options.out))
            stack.enter_context(lock_folder(options.out))
        group.any(False)  # the other ranks wait for the lock
        yield


def _build_trainer(
    options: TrainOptions,
    splits: Mapping[Split, VideoDataset],
    device: torch.device,
    group: Group,
    stop: StopRequest,
) -> tuple[Trainer, tuple[str, ...]]:
    """Build a new run or restore one, and return it with messages about its weights."""
    training = splits["train"]
    now = fingerprint(options, training)
    start = find_start(options, now, group)
    if start is None:
        checkpoint = None
        model, messages = start_network(options, training)
        prepare_for_training(
            model,
            options.recipe,
            sync_norms=options.sync_norms,
            checkpoint_activations=options.checkpoint_activations,
        )
    else:
        checkpoint, model, messages = start
    loader = build_loader(options, model, training, checkpoint, group, device)
    check_smallest_batch(model, loader.smallest_batch, loader.clips_per_step, group.world_size)
    state = build_state(
        options.recipe,
        model,
        training,
        device,
        clips_per_step=loader.clips_per_step,
        steps_per_epoch=loader.steps_per_epoch,
        seed=options.seed,
        precision=options.compute.precision,
        compiled=options.compute.compile,
        group=group,
    )
    if checkpoint is not None:
        length = earlier_length(checkpoint.fingerprint, now)
        if length is None:
            state.restore(checkpoint)
        else:
            messages = (*messages, extend(state, checkpoint, loader.steps_per_epoch, length))
    return Trainer(state, options, loader, splits["validation"], now, stop), messages


def _print_plan(state: TrainState, loader: TrainLoader) -> None:
    plan = make_plan(
        state.model,
        state.recipe,
        clips_per_step=state.clips_per_step,
        processes=state.group.world_size,
        steps_per_epoch=loader.steps_per_epoch,
        steps=state.total_steps,
        precision=state.precision,
        device=state.device,
    )
    print("\n" + render(plan))


def _measure_plan(trainer: Trainer) -> None:
    """Make a few steps, and print how long the run takes and what memory they took."""
    state = trainer.state
    whole = time_steps(state, trainer.loader, trainer.watch)
    memory = max(state.group.gather(peak_memory(state.device)))
    if not state.group.is_main:
        return
    print(f"time: {whole or 'none, the run is finished'}")
    if whole and memory:
        # Of a process, with Python, PyTorch and, with --compile, its compiler.
        place = "of the whole process" if state.device.type == "cpu" else "on the device"
        print(f"memory of these steps: at most {memory / 2**20:,.0f} MiB, {place}")


def _train_and_write(trainer: Trainer, remedy: str | None) -> int:
    """Train on the main process, which writes the run's files, and return the exit code."""
    options, state = trainer.options, trainer.state
    needed = disk_bytes(state.model, state.recipe)
    print(check_room(options.out, *needed, options.keep_checkpoints))
    write_json(options.out / CONFIG_FILE, plain_options(options))
    call = describe_call()
    write_json(options.out / ENVIRONMENT_FILE, describe_machine(state.device) | call)
    with RunLog(
        options.out,
        state.progress.step,
        tensorboard=options.tensorboard,
        trackers=options.track,
        config={name: _plain(value) for name, value in leaves(plain_options(options))},
    ) as log:
        trainer.log = log
        trainer.saver = Saver(
            options.out,
            log,
            minutes=options.save_minutes,
            steps=options.save_steps,
            keep=options.keep_checkpoints,
            saved_step=state.progress.step,
        )
        trainer.write_log(
            "start",
            processes=state.group.world_size,
            clips_per_step=state.clips_per_step,
            learning_rate=state.recipe.lr,
            classes=state.model.config.num_classes,
            date=call["date"],
            command=call["command"],
        )
        if trainer.train():
            _print_stop(trainer, remedy, is_saved=not trainer.saver.failed)
            return trainer.stop.exit_code
        # Before the log is closed: a tracker may then wait long for its server.
        try:
            write_run_report(options.out)
        except UserError as error:
            print(f"no report: {printable(error)}")
        print_summary(options.out, state.model.config.num_classes)
        return 1 if trainer.saver.failed else 0


def _plain(value: object) -> object:
    """Return an option's value as a tracker takes it: a number, a truth value, or text."""
    return value if isinstance(value, bool | int | float) else printable(value)


def _print_stop(trainer: Trainer, remedy: str | None, *, is_saved: bool) -> None:
    progress, signal = trainer.state.progress, trainer.stop.signal
    cause = signal.name if signal else "another process, or the launcher exited"
    result = "nothing is lost" if is_saved else "THE LAST STEPS ARE NOT SAVED"
    commands = (
        "\nthe same command with --resume continues, or on one device "
        f"p3d train --resume --out {shlex.quote(printable(trainer.options.out))}"
    )
    print(
        f"stopped by {cause} in epoch {progress.epoch + 1} after step {progress.step}; {result}:"
        + (commands if remedy is None else f" {remedy}")
    )
