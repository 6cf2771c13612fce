"""The networks that a run keeps after each epoch: the last one, and the best one so far."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

from p3d.data.dataset import VideoDataset
from p3d.errors import printable
from p3d.inference.scoring import VideoScores, write_scores
from p3d.run_folder import BEST_FILE, LAST_FILE, VALIDATION_FILE
from p3d.system.files import link_or_copy
from p3d.training.options import TrainOptions
from p3d.training.progress import Progress
from p3d.training.saver import Saver
from p3d.training.state import TrainState
from p3d.training.validation import Validation
from p3d.weights.metadata import save_model


def keep_networks(
    state: TrainState,
    options: TrainOptions,
    videos: VideoDataset,
    saver: Saver | None,
    validation: Validation | None,
) -> None:
    """Write the network as the last one, and as the best one if it is. All ranks call this.

    Args:
        state: The run at the end of an epoch; its progress notes the best network.
        options: Options of the run.
        videos: The validation list.
        saver: Writer of the run's files; None on other ranks than the main one.
        validation: Result of the epoch; None without validation.
    """
    progress = state.progress
    is_best = _is_best(progress, validation) and _keep_best(
        state, options, videos, saver, validation
    )
    if saver is not None:
        best, last = (options.out / name for name in (BEST_FILE, LAST_FILE))
        write = partial(link_or_copy, best) if is_best else partial(_write_network, state, options)
        saver.attempt(progress.step, lambda: write(last))


def _is_best(progress: Progress, validation: Validation | None) -> bool:
    """Return whether this is the best network so far: by top-1, then by loss, then the latest.

    Without validation it is the latest network, unless earlier epochs were validated.
    """
    if validation is None:
        return progress.best_top1 < 0
    accuracy = validation.accuracy
    return (accuracy.top1, -accuracy.loss) >= (progress.best_top1, -progress.best_loss)


def _keep_best(
    state: TrainState,
    options: TrainOptions,
    videos: VideoDataset,
    saver: Saver | None,
    validation: Validation | None,
) -> bool:
    """Write the best network so far; if that fails, the previous best remains the best.

    Returns:
        Whether it was written.
    """
    progress, path = state.progress, options.out / BEST_FILE
    saved = saver is None or saver.attempt(
        progress.step, lambda: _write_network(state, options, path)
    )
    if state.group.any(not saved):
        return False
    progress.best_epoch = progress.epoch + 1
    if validation is not None:
        if validation.accuracy.top1 > progress.best_top1:
            progress.improved_epoch = progress.best_epoch
        progress.best_top1 = validation.accuracy.top1
        progress.best_loss = validation.accuracy.loss
        progress.best_answers = validation.answers
        if saver is not None:
            _write_scores(options.out / VALIDATION_FILE, videos, validation.scored, saver, progress)
    return True


def _write_scores(
    path: Path, videos: VideoDataset, scored: VideoScores, saver: Saver, progress: Progress
) -> None:
    if not saver.attempt(progress.step, lambda: write_scores(path, videos, scored)):
        with suppress(OSError):  # it has the scores of a network that is gone
            path.unlink()


def _write_network(state: TrainState, options: TrainOptions, path: Path) -> None:
    start = options.weights
    save_model(
        state.result,
        path,
        source="trained by p3d" if start is None else f"from {printable(start.name)}",
        recipe=asdict(state.recipe),
    )
