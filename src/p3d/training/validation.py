"""Scoring the validation list after an epoch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from tqdm import tqdm

from p3d.data.dataset import VideoDataset
from p3d.inference.scorer import Scorer
from p3d.inference.scoring import VideoScores, score_videos
from p3d.scores.accuracy import Accuracy, measure
from p3d.system.signals import StopRequest
from p3d.training.comparison import answers_of
from p3d.training.options import TrainOptions
from p3d.training.state import TrainState


@dataclass(frozen=True)
class Validation:
    """Result of an epoch's network on the validation list.

    Attributes:
        scored: Logits of the videos.
        accuracy: Metrics over the videos; scores that are not finite count as wrong.
        answers: Which videos are right, see `p3d.training.comparison.answers_of`.
    """

    scored: VideoScores
    accuracy: Accuracy
    answers: str


def validate(
    state: TrainState, dataset: VideoDataset, options: TrainOptions, stop: StopRequest
) -> Validation:
    """Score the validation list; each rank scores its shard, and all get the result.

    Args:
        state: The run.
        dataset: The validation list.
        options: Clips of each video, workers, and what to do with broken videos.
        stop: Checked after every batch.

    Raises:
        Stopped: A stop was requested.
        UserError: No video could be read.
    """
    state.group.share_buffers(state.result)
    scorer = Scorer(
        state.result,
        state.device,
        state.precision,
        batch_size=state.recipe.batch_size,
        strict=False,
    )
    scored = score_videos(
        scorer,
        dataset,
        num_clips=options.validation_clips,
        workers=options.workers,
        on_bad_video=options.on_bad_video,
        description="validating",
        group=state.group,
        stop=stop,
    )
    probabilities, broken = _finite_probabilities(scored)
    if broken and state.group.is_main:
        tqdm.write(
            f"NOT FINITE: the scores of {broken} validation videos, which count as wrong; "
            "if this continues, lower --lr or check the weights"
        )
    answers = answers_of(probabilities, scored.labels, scored.indices, len(dataset.records))
    return Validation(scored, measure(probabilities, scored.labels), answers)


def _finite_probabilities(scored: VideoScores) -> tuple[Tensor, int]:
    """Return probabilities in which videos with non-finite logits count as wrong, and their number.

    Early in training the running statistics may still be far off, which must not end a run.
    """
    probabilities = scored.probabilities
    broken = ~probabilities.isfinite().all(1)
    probabilities[broken] = 0
    probabilities[broken, scored.labels[broken]] = -1
    return probabilities, int(broken.sum())
