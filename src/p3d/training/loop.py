"""The training loop: epochs, validation, logging and saving."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor
from tqdm import tqdm

from p3d.data.dataset import VideoDataset
from p3d.data.loader import Batch, TrainLoader
from p3d.errors import UserError, printable
from p3d.inference.scorer import Scorer
from p3d.inference.scoring import VideoScores, score_videos, write_scores
from p3d.run_folder import BEST_FILE, VALIDATION_FILE
from p3d.scores.accuracy import measure
from p3d.system.device import peak_memory
from p3d.system.progress import ProgressBar
from p3d.system.signals import Stopped, StopRequest, postponed_child_signal
from p3d.training.console import epoch_line, step_text
from p3d.training.log import RunLog
from p3d.training.options import TrainOptions
from p3d.training.saver import Saver
from p3d.training.state import TrainState
from p3d.training.step import Step, train_step
from p3d.training.timing import Stopwatch
from p3d.weights.metadata import save_model

NUM_SHOWN_CLIPS = 4
"""Training clips of each epoch that are written for TensorBoard."""


@dataclass
class Trainer:
    """A training run: its state, data and files.

    Attributes:
        state: The network, its optimizer and its progress.
        options: Options of the run.
        loader: This rank's training clips.
        validation: The validation list; may be empty.
        fingerprint: The options that the weights depend on; saved with them.
        stop: Whether a stop was requested.
        log: The run's log, on the main process.
        saver: Writer of the run's files, on the main process.
        watch: Times of the steps and validations of this process.
    """

    state: TrainState
    options: TrainOptions
    loader: TrainLoader
    validation: VideoDataset
    fingerprint: dict[str, str]
    stop: StopRequest
    log: RunLog | None = None
    saver: Saver | None = None
    watch: Stopwatch = field(init=False)

    def __post_init__(self) -> None:
        """Start to measure time."""
        options = self.options
        videos = len(self.validation.records)
        self.watch = Stopwatch(self.loader, options.workers, videos, options.validation_clips)

    def train(self) -> bool:
        """Train until the run is finished, patience runs out, or a stop is requested.

        Returns:
            True if a stop ended the run; it was saved then, unless writing failed.

        Raises:
            UserError: The data or the loss ends the run, or another process was lost. What was done
                since the last checkpoint is saved first, unless a step was not complete.
            RuntimeError: A worker process was lost; saved in the same way.
        """
        try:
            return self._train()
        except (UserError, OSError, RuntimeError):
            step = self.state.progress.step
            if self.saver is not None and not self.state.in_step and step > self.saver.saved_step:
                self.save()
            raise

    def _train(self) -> bool:
        while not (self.state.is_finished or self._is_out_of_patience()):
            if not self._train_epoch():
                self.save()
                return True
            try:
                self._finish_epoch()
            except Stopped:
                self.save()
                return True
            if self.state.group.any(self.stop.is_set):
                return not self.state.is_finished
        return False

    def write_log(self, event: str, **values: Any) -> None:
        """Record an event in the run's log."""
        if self.log is not None:
            self.log.write(event, self.state.progress.step, **values)

    def save(self) -> None:
        """Save a checkpoint."""
        if self.saver is not None:
            self.saver.save(self.state.checkpoint(self.fingerprint))

    def _is_out_of_patience(self) -> bool:
        progress, patience = self.state.progress, self.options.patience
        if patience is None or progress.best_epoch is None:
            return False
        return progress.epoch - progress.best_epoch >= patience

    def _train_epoch(self) -> bool:
        """Train the rest of the current epoch; return False if a stop ended it early."""
        state, progress = self.state, self.state.progress
        steps_per_epoch = self.loader.steps_per_epoch
        if state.all_steps_done or progress.step_in_epoch >= steps_per_epoch:
            return True
        state.model.train()
        left = state.total_steps - progress.step  # --max-steps may end the run in this epoch
        bar = ProgressBar(
            min(steps_per_epoch, progress.step_in_epoch + left),
            f"epoch {progress.epoch + 1}/{state.recipe.epochs}",
            "step",
            done=progress.step_in_epoch,
            has_text=True,
            leave=False,
            shown=state.group.is_main,
        )
        with bar:
            start = time.perf_counter()
            for batches in self.loader.steps(progress.epoch, progress.step_in_epoch):
                waited = time.perf_counter() - start
                with postponed_child_signal():  # a lost worker must not end a step half way
                    step = train_step(state, batches)
                    end = time.perf_counter()
                    self._report_step(bar, batches, step, end - start, waited)
                start = end
                is_over = state.all_steps_done or progress.step_in_epoch >= steps_per_epoch
                # Signals reach the ranks at different times; all ranks must make the same decision.
                is_stopped = state.group.any(self.stop.is_set)
                if is_over or is_stopped:
                    return is_over
                if self.saver is not None and self.saver.is_due(progress.step):
                    self.save()
        return True

    def _report_step(
        self,
        bar: ProgressBar,
        batches: tuple[Batch, ...],
        step: Step,
        seconds: float,
        waited: float,
    ) -> None:
        """Write a step to the log and the progress bar."""
        state, progress = self.state, self.state.progress
        progress.seconds += seconds
        progress.waited += waited
        for line in (line for batch in batches for line in batch.bad):
            tqdm.write(f"skipped {printable(line)}")
        values: dict[str, float] = {
            "loss": step.loss,
            "top1": round(step.top1, 4),
            "top5": round(step.top5, 4),
            "lr": step.lr,
            "gradient_norm": step.gradient_norm,
            "clips_per_second": round(step.clips / seconds, 2),
            "data_wait": round(waited / seconds, 3),
            "memory_mib": round(peak_memory(state.device) / 2**20),
        }
        if state.scaler.is_enabled():
            values |= {"scale": state.scaler.get_scale(), "overflows": progress.overflows}
        self.write_log("step", epoch=progress.epoch + 1, **values)
        if progress.step_in_epoch == 1:
            self._log_clips(batches[0])
        was_settled = self.watch.is_settled
        self.watch.add_step(seconds, waited)
        rest = self.watch.rest(state)
        bar.advance(text=step_text(progress, values, rest))
        if state.group.is_main and rest and self.watch.is_settled and not was_settled:
            tqdm.write(f"time left: {rest}")

    def _log_clips(self, batch: Batch) -> None:
        """Write a few of the epoch's first clips, as the network gets them, for TensorBoard."""
        dataset = self.state.dataset
        records = [dataset.records[index] for index in batch.indices[:NUM_SHOWN_CLIPS].tolist()]
        captions = [printable(f"{dataset.class_names[r.label]}: {r.path.name}") for r in records]
        if self.log is not None and records:
            clips = batch.clips[:NUM_SHOWN_CLIPS]
            self.log.write_clips("train/clips", clips, self.state.progress.step, captions)

    def _finish_epoch(self) -> None:
        """Validate, report, keep the best network, and save a checkpoint for the next epoch.

        Raises:
            Stopped: A stop was requested during validation, which a resumed run repeats.
        """
        state, progress = self.state, self.state.progress
        values: dict[str, float] = {
            f"train_{name}": mean for name, mean in progress.means().items()
        }
        scored = self._validate() if self.validation.records else None
        top1 = None
        if scored is not None:
            accuracy = measure(self._finite_probabilities(scored), scored.labels)
            top1 = accuracy.top1
            values |= {
                "validation_loss": accuracy.loss,
                "validation_top1": top1,
                "validation_top5": accuracy.top5,
            }
        values |= {
            "seconds": round(progress.seconds, 1),
            "clips_per_second": round(progress.clips / max(progress.seconds, 1e-9), 2),
            "data_wait": round(progress.waited / max(progress.seconds, 1e-9), 3),
            "bad_videos": progress.bad,
        }
        if state.scaler.is_enabled():
            values["overflows"] = progress.overflows
        if top1 is None or top1 > progress.best_top1:
            self._keep_best(scored, top1)
        best = progress.best_epoch
        self.write_log("epoch", epoch=progress.epoch + 1, **values, best_epoch=best)
        if state.group.is_main:
            tqdm.write(epoch_line(state, values))
        progress.next_epoch()
        self.save()

    def _validate(self) -> VideoScores:
        """Score the validation list; each rank scores its shard.

        Raises:
            Stopped: A stop was requested.
        """
        state = self.state
        state.group.share_buffers(state.model)
        start = time.perf_counter()
        scorer = Scorer(
            state.model,
            state.device,
            state.precision,
            batch_size=state.recipe.batch_size,
            strict=False,
        )
        scored = score_videos(
            scorer,
            self.validation,
            num_clips=self.options.validation_clips,
            workers=self.options.workers,
            on_bad_video=self.options.on_bad_video,
            description="validating",
            group=state.group,
            stop=self.stop,
        )
        self.watch.add_validation(time.perf_counter() - start)
        return scored

    def _finite_probabilities(self, scored: VideoScores) -> Tensor:
        """Return probabilities in which a video with non-finite logits counts as wrong.

        Early in training the running statistics may still be far off, which must not end a run.
        """
        probabilities = scored.probabilities
        broken = ~probabilities.isfinite().all(1)
        if broken.any():
            probabilities[broken] = 0
            probabilities[broken, scored.labels[broken]] = -1
            if self.state.group.is_main:
                tqdm.write(
                    f"NOT FINITE: the scores of {int(broken.sum())} validation videos, which count "
                    "as wrong; if this continues, lower --lr or check the weights"
                )
        return probabilities

    def _keep_best(self, scored: VideoScores | None, top1: float | None) -> None:
        """Write the best network so far; if that fails, the previous best remains the best."""
        progress = self.state.progress
        saved = self.saver is None or self.saver.attempt(progress.step, self._write_best)
        if self.state.group.any(not saved):
            return
        progress.best_epoch = progress.epoch + 1
        if top1 is not None:
            progress.best_top1 = top1
        if self.saver is not None and scored is not None:
            path = self.options.out / VALIDATION_FILE
            if not self.saver.attempt(
                progress.step, lambda: write_scores(path, self.validation, scored)
            ):
                with suppress(OSError):  # it has the scores of a network that is gone
                    path.unlink()

    def _write_best(self) -> None:
        start = self.options.weights
        save_model(
            self.state.model,
            self.options.out / BEST_FILE,
            source="trained by p3d" if start is None else f"from {printable(start.name)}",
            recipe=asdict(self.state.recipe),
        )
