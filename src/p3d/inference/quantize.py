"""8-bit networks in files: calibrated on videos, compared with PyTorch, measured on a test list.

The ranges of the activations are measured on clips of the training list of a data set (static
quantization, `p3d.model.int8`). Accuracy is measured before and after.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from p3d.data.clips import check_source, read_eval_clips
from p3d.data.dataset import VideoDataset
from p3d.data.layouts import DataOptions, read_splits
from p3d.data.track import open_record
from p3d.errors import BadVideoError, UserError
from p3d.inference.export import draft_folder, export_network
from p3d.inference.export_spec import ExportSpec
from p3d.inference.exported import ExportedNetwork
from p3d.inference.networks import check_classes
from p3d.inference.scorer import Scorer
from p3d.inference.scoring import VideoScores, score_videos
from p3d.inference.verify import Verification
from p3d.model.int8 import quantize_network
from p3d.model.network import P3D
from p3d.preprocessing import Preprocessing, normalize
from p3d.system.files import move_together
from p3d.weights.reading import prefix_errors


@dataclass(frozen=True)
class Int8Result:
    """Accuracy of a network before and after quantization.

    Attributes:
        videos: Videos of the test list.
        before: Top-1 accuracy in fp32, from 0 to 1.
        after: Top-1 accuracy in int8.
        calibration_clips: Clips that the ranges were measured on.
        verification: How the file compares with the 8-bit form in PyTorch.
        unread: A line for each video that could not be read.
    """

    videos: int
    before: float
    after: float
    calibration_clips: int
    verification: Verification
    unread: tuple[str, ...] = ()

    @property
    def lost_points(self) -> float:
        """Percentage points of top-1 accuracy that quantization loses."""
        return 100 * (self.before - self.after)


class _Clips:
    """Clips to calibrate on: the middle ones of videos that are spread evenly over a list.

    Args:
        videos: The list.
        preprocessing: How clips are made from frames.
        limit: Largest number of clips.

    Attributes:
        count: Number of clips that were read.
        unread: A line for each video that could not be read.
    """

    def __init__(self, videos: VideoDataset, preprocessing: Preprocessing, limit: int) -> None:
        self._records, self._preprocessing = videos.records, preprocessing
        self._limit = min(limit, len(videos.records))
        self.count = 0
        self.unread: list[str] = []

    def __iter__(self) -> Iterator[Tensor]:
        """Yield each as the network's input, `(1, C, T, H, W)`.

        Raises:
            UserError: None can be read.
        """
        prep = self._preprocessing
        for index in range(self._limit):
            record = self._records[index * len(self._records) // self._limit]
            try:
                with open_record(record, prefer_flow=prep.channels == "flow") as video:
                    check_source(Path(record.path), video, prep)
                    clips = read_eval_clips(video, prep, 1, segment=record.segment)
            except BadVideoError as error:
                self.unread.append(str(error))
                continue
            self.count += 1
            yield normalize(clips, prep)
        if not self.count:
            raise UserError(
                f"no video of the training list that was tried can be read ({self.unread[0]}); "
                "check the set (p3d prepare check)"
            )


def export_int8(
    model: P3D,
    path: Path,
    spec: ExportSpec,
    data: DataOptions,
    *,
    source: str | None = None,
    tolerance: float | None = None,
    clips: int = 64,
    clips_per_video: int = 5,
    max_loss: float = 1.0,
) -> Int8Result:
    """Write the 8-bit form of a network to a file, and measure what that costs.

    Args:
        model: The network, on the CPU.
        path: The file to write; its folder must exist.
        spec: Its form, for clips of the network's own length and size.
        data: Data set with the network's classes; the training list calibrates, the test list
            measures.
        source: Where the weights come from.
        tolerance: Limit of the error between the file and the 8-bit form in PyTorch.
        clips: Clips to calibrate on, one of each video.
        clips_per_video: Clips of each test video.
        max_loss: Percentage points of top-1 accuracy that may be lost.

    Raises:
        UserError: A package or the calibration videos are missing, the set has other classes, or
            too much accuracy is lost; then nothing is written.
    """
    spec = replace(spec, int8=True)
    _check_form(spec, model.preprocessing)
    lists = read_splits(data, ("train", "test"))
    check_classes(model, lists["train"].class_names, Path(source or "the network"))
    calibration = _Clips(lists["train"], model.preprocessing, clips)
    with prefix_errors(data.data):
        quantized = quantize_network(model, calibration)
    with draft_folder(path, model) as folder:
        draft = folder / path.name
        found = export_network(
            model, draft, spec, source=source, tolerance=tolerance, form=quantized
        )
        before = _score(model, lists["test"], clips_per_video)
        after = _score(ExportedNetwork(draft), lists["test"], clips_per_video)
        result = Int8Result(
            len(before.labels),
            _top1(before),
            _top1(after),
            calibration.count,
            found,
            (*calibration.unread, *before.bad),
        )
        _check_loss(result, max_loss)
        move_together(folder, path.parent, last=path.name)
    return result


def _check_form(spec: ExportSpec, prep: Preprocessing) -> None:
    if (spec.frames, spec.size) != (prep.num_frames, prep.crop):
        raise UserError(
            f"--int8 takes clips of the network's own {prep.num_frames} frames of {prep.crop} px; "
            "omit --frames and --size"
        )


def _check_loss(result: Int8Result, max_loss: float) -> None:
    if result.lost_points > max_loss:
        raise UserError(
            f"int8 loses {result.lost_points:.1f} points of top-1 ({100 * result.before:.1f}% to "
            f"{100 * result.after:.1f}% of {result.videos} videos), allowed are {max_loss:g}; "
            "nothing is written. Give more --calibration-clips, or raise --max-loss"
        )


def _score(network: P3D | ExportedNetwork, videos: VideoDataset, clips: int) -> VideoScores:
    scorer = Scorer(network, torch.device("cpu"))
    return score_videos(scorer, videos, num_clips=clips, on_bad_video="skip")


def _top1(scored: VideoScores) -> float:
    return float((scored.probabilities.argmax(-1) == scored.labels).float().mean())
