"""`scores.npz`: what a network says of each clip, from which every metric can be computed again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from p3d.data.dataset import UNLABELED, VideoDataset
from p3d.errors import UserError
from p3d.inference.scorer import mean_probabilities
from p3d.inference.scoring import VideoScores
from p3d.run_folder import LOGITS_FILE
from p3d.system.npz_file import NOT_AN_NPZ, NpzFormat

FORMAT = NpzFormat("p3d scores", version=1, remedy="p3d eval --out writes it")
"""The format; its version grows when older readers would misread a file."""

PART = 256
"""Videos whose logits are converted to float64 at a time; it bounds the memory."""

_TEXTS = ("class_names", "paths", "groups")
_OPTIONAL = ("starts", "times")


@dataclass(frozen=True)
class ScoreFile:
    """The logits of V videos, with what is needed to measure and compare them.

    Attributes:
        logits: float32 `(V, num_clips, num_classes)`, finite.
        labels: int64 `(V,)`; `UNLABELED` for a video without a label.
        class_names: Class names by index.
        paths: Names of the videos, each once: their paths, see `VideoRecord.name` for segments.
        groups: What each video shares with others, see `VideoRecord.group`; "" if unknown.
        protocol: How the videos were scored: split, clips and preprocessing.
        weights_sha256: SHA-256 of the weight file; "" for scores of several networks.
        starts: int64 `(V, num_clips)`, first frame of each clip, from 0; None in files of earlier
            versions, and for scores that are not of clips.
        times: float64 `(V, num_clips)`, start of each clip in seconds, NaN if the frame rate is
            unknown; None where `starts` is.
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    paths: tuple[str, ...]
    groups: tuple[str, ...]
    protocol: Mapping[str, Any]
    weights_sha256: str
    starts: NDArray[np.int64] | None = None
    times: NDArray[np.float64] | None = None

    @property
    def split(self) -> str:
        """The split that was scored; "" if unknown."""
        return str(self.protocol.get("split", ""))

    @property
    def holds_means(self) -> bool:
        """Whether the logits are of means over clips: of `--clips auto`, fused, or pooled such."""
        parts = self.protocol.get("pooled", [self.protocol])
        return any(part.get("clips") == "auto" or "fused" in part for part in parts)

    def probabilities(self, temperature: float = 1.0) -> NDArray[np.float64]:
        """Return the class probabilities of the videos: the mean of their clips' softmax.

        Args:
            temperature: Divides every clip's logits.

        Returns:
            float64 `(V, num_classes)`.
        """
        parts = torch.from_numpy(self.logits).split(PART)
        return torch.cat(
            [mean_probabilities(part.double() / temperature) for part in parts]
        ).numpy()

    def select(self, videos: NDArray[np.int64]) -> ScoreFile:
        """Return the scores of some videos, given by their positions, in that order."""
        positions = videos.tolist()
        return replace(
            self,
            logits=self.logits[videos],
            labels=self.labels[videos],
            paths=tuple(self.paths[i] for i in positions),
            groups=tuple(self.groups[i] for i in positions),
            starts=None if self.starts is None else self.starts[videos],
            times=None if self.times is None else self.times[videos],
        )

    def labeled(self) -> ScoreFile:
        """Return the scores of the videos that have a label."""
        return self.select(np.flatnonzero(self.labels != UNLABELED))

    def problem(self) -> str | None:
        """Return what is wrong with the scores, in a phrase, or None."""
        logits, labels = self.logits, self.labels
        videos, classes = len(self.paths), len(self.class_names)
        if logits.ndim != 3 or logits.dtype != np.float32 or labels.dtype != np.int64:
            return f"logits are {logits.dtype} {logits.shape}, labels {labels.dtype}"
        if (
            logits.shape[::2] != (videos, classes)
            or labels.shape != (videos,)
            or len(self.groups) != videos
            or 0 in logits.shape
        ):
            return (
                f"logits {logits.shape}, {len(labels)} labels, {videos} paths, {len(self.groups)} "
                f"groups and {classes} class names do not belong together"
            )
        if ((labels < UNLABELED) | (labels >= classes)).any():
            return f"labels are not all in {UNLABELED}..{classes - 1}"
        if problem := self._problem_of_starts():
            return problem
        finite = np.isfinite(logits).all((1, 2))
        if not finite.all():
            return f"the scores of {self.paths[int(finite.argmin())]} are not finite numbers"
        seen: set[str] = set()
        for path in self.paths:
            if path in seen:
                return f"{path} is there twice"
            seen.add(path)
        return None

    def _problem_of_starts(self) -> str | None:
        if self.starts is None or self.times is None:
            is_alone = self.starts is not None or self.times is not None
            return "only one of starts and times is there" if is_alone else None
        shapes = (self.starts.shape, self.times.shape)
        if shapes != (self.logits.shape[:2],) * 2:
            return f"starts {shapes[0]} and times {shapes[1]} are not those of the clips"
        if self.starts.dtype != np.int64 or self.times.dtype != np.float64:
            return f"starts are {self.starts.dtype}, times {self.times.dtype}"
        if (self.starts < 0).any() or (self.times < 0).any() or np.isinf(self.times).any():
            return "a clip starts before its video, or never"
        return None


def collect_scores(
    dataset: VideoDataset, scored: VideoScores, protocol: Mapping[str, Any], weights_sha256: str
) -> ScoreFile:
    """Collect the content of a file of scores.

    Args:
        dataset: The videos that were scored.
        scored: Their scores.
        protocol: How they were scored, as plain values.
        weights_sha256: SHA-256 of the weight file.
    """
    records = [dataset.records[index] for index in scored.indices.tolist()]
    return ScoreFile(
        scored.logits.numpy(),
        scored.labels.numpy(),
        dataset.class_names,
        tuple(record.name for record in records),
        tuple(record.group for record in records),
        protocol,
        weights_sha256,
        *_starts_and_times(scored),
    )


def _starts_and_times(
    scored: VideoScores,
) -> tuple[NDArray[np.int64], NDArray[np.float64]] | tuple[None, None]:
    """Return when the clips start; None where the logits are not of single clips."""
    if scored.starts.shape != scored.logits.shape[:2]:
        return None, None
    return scored.starts.numpy(), scored.times.numpy()


def write_score_file(path: Path, scores: ScoreFile) -> None:
    """Write a file of scores completely or not at all.

    Raises:
        UserError: The scores are not valid, or the file cannot be written.
    """
    if problem := scores.problem():
        raise UserError(f"{path}: not written, since {problem}")
    header = {
        **{name: getattr(scores, name) for name in _TEXTS},
        "protocol": scores.protocol,
        "weights_sha256": scores.weights_sha256,
    }
    arrays = {name: getattr(scores, name) for name in ("logits", "labels", *_OPTIONAL)}
    present = {name: array for name, array in arrays.items() if array is not None}
    FORMAT.write(path, header, present)


def read_score_file(path: Path) -> ScoreFile:
    """Read a file of scores.

    Args:
        path: The file, or the folder of an evaluation, which holds it as `scores.npz`.

    Raises:
        UserError: The file cannot be read, was written by a newer p3d, or is not valid.
    """
    path = path / LOGITS_FILE if path.is_dir() else path
    header, arrays = FORMAT.read(path)
    try:
        class_names, paths, groups = (tuple(map(str, header[name])) for name in _TEXTS)
        scores = ScoreFile(
            arrays["logits"],
            arrays["labels"],
            class_names,
            paths,
            groups,
            dict(header["protocol"]),
            str(header["weights_sha256"]),
            starts=arrays.get("starts"),
            times=arrays.get("times"),
        )
    except NOT_AN_NPZ as error:
        raise FORMAT.damaged(path) from error
    if problem := scores.problem():
        raise UserError(f"{path}: {problem}; write it again with p3d eval --out")
    return scores
