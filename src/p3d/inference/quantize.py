"""8-bit networks: ONNX files whose convolutions compute with 8-bit integers.

The ranges of the activations are measured on clips of the training list of a data set (static
quantization); weights get a scale for each output channel. Accuracy is measured before and after.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from p3d.data.clips import check_source, read_eval_clips
from p3d.data.dataset import VideoDataset
from p3d.data.layouts import DataOptions, read_splits
from p3d.data.track import open_record
from p3d.errors import BadVideoError, UserError
from p3d.inference.export import draft_folder, export_network
from p3d.inference.export_spec import ExportSpec, noise_clip
from p3d.inference.exported import ExportedNetwork
from p3d.inference.networks import check_classes
from p3d.inference.scorer import Scorer
from p3d.inference.scoring import VideoScores, score_videos
from p3d.model.network import P3D
from p3d.preprocessing import Preprocessing
from p3d.system.extras import load_extra
from p3d.weights.reading import prefix_errors

_TOLERANCE = 0.05
"""Limit of the difference between processors, whose 8-bit kernels round differently."""


@dataclass(frozen=True)
class Int8Result:
    """Accuracy of a network before and after quantization.

    Attributes:
        videos: Videos of the test list.
        before: Top-1 accuracy in fp32, from 0 to 1.
        after: Top-1 accuracy in int8.
        calibration_clips: Clips that the ranges were measured on.
        unread: A line for each video that could not be read.
    """

    videos: int
    before: float
    after: float
    calibration_clips: int
    unread: tuple[str, ...] = ()

    @property
    def lost_points(self) -> float:
        """Percentage points of top-1 accuracy that quantization loses."""
        return 100 * (self.before - self.after)


class _ClipReader:
    """Clips to calibrate on, in the form that ONNX Runtime asks for.

    They are the middle clips of videos that are spread evenly over a list.

    Args:
        videos: The list.
        preprocessing: How clips are made from frames.
        spec: The form of the file.
        limit: Largest number of clips.

    Attributes:
        count: Number of clips that were given.
        unread: A line for each video that could not be read.

    Raises:
        UserError: No video can be read.
    """

    def __init__(
        self, videos: VideoDataset, preprocessing: Preprocessing, spec: ExportSpec, limit: int
    ) -> None:
        self.count = 0
        self.unread: list[str] = []
        inputs = self._read(videos, preprocessing, spec, limit)
        first = next(inputs, None)
        if first is None:
            raise UserError(
                f"no video of the training list that was tried can be read ({self.unread[0]}); "
                "check the set (p3d prepare check)"
            )
        self._inputs = chain([first], inputs)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """Return the next input of the network; None at the end."""
        clip = next(self._inputs, None)
        if clip is None:
            return None
        self.count += 1
        return {"clips": np.ascontiguousarray(clip.numpy())}

    def _read(
        self, videos: VideoDataset, preprocessing: Preprocessing, spec: ExportSpec, limit: int
    ) -> Iterator[Tensor]:
        records = videos.records
        count = min(limit, len(records))
        for index in range(count):
            record = records[index * len(records) // count]
            try:
                is_flow = preprocessing.channels == "flow"
                with open_record(record, prefer_flow=is_flow) as video:
                    check_source(Path(record.path), video, preprocessing)
                    clips = read_eval_clips(video, preprocessing, 1, segment=record.segment)
            except BadVideoError as error:
                self.unread.append(str(error))
                continue
            yield spec.prepare(clips, preprocessing)


def _quantize(source: Path, target: Path, reader: _ClipReader) -> None:
    load_extra("onnxruntime", "onnx")
    quantization = load_extra("onnxruntime.quantization", "onnx")
    logging.disable(logging.WARNING)  # it advises to fold normalizations first, which they are
    try:
        quantization.quantize_static(
            str(source),
            str(target),
            reader,
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
    finally:
        logging.disable(logging.NOTSET)


def _relabel(path: Path, source: Path, spec: ExportSpec, model: P3D) -> None:
    """Write the metadata of an 8-bit file, with its own logits of the reference clip."""
    onnx = load_extra("onnx", "onnx")
    metadata = {entry.key: entry.value for entry in onnx.load(source).metadata_props}
    metadata["export"] = json.dumps(asdict(replace(spec, int8=True)))
    reference: dict[str, Any] = json.loads(metadata["reference"])
    quantized = onnx.load(path)
    runtime = load_extra("onnxruntime", "onnx")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    clip = noise_clip(model.config, reference["frames"], reference["size"])
    inputs = spec.prepare(clip, model.preprocessing)
    (logits,) = session.run(None, {"clips": np.ascontiguousarray(inputs.numpy())})
    reference |= {"logits": logits[0].tolist(), "tolerance": _TOLERANCE}
    metadata["reference"] = json.dumps(reference)
    onnx.helper.set_model_props(quantized, metadata)
    onnx.save(quantized, path)


def export_int8(
    model: P3D,
    path: Path,
    spec: ExportSpec,
    data: DataOptions,
    *,
    source: str | None = None,
    clips: int = 64,
    clips_per_video: int = 5,
    max_loss: float = 1.0,
) -> Int8Result:
    """Write a network as an 8-bit ONNX file, and measure what that costs.

    Args:
        model: The network.
        path: The .onnx file to write.
        spec: Its form: a batch of 1, pixels in, logits out, and the network's own clip size.
        data: Data set with the network's classes; the training list calibrates, the test list
            measures.
        source: Where the weights come from.
        clips: Clips to calibrate on, one of each video.
        clips_per_video: Clips of each test video.
        max_loss: Percentage points of top-1 accuracy that may be lost.

    Raises:
        UserError: A package or the calibration videos are missing, the set has other classes, or
            too much accuracy is lost; then nothing is written.
    """
    _check_form(spec, model.preprocessing)
    lists = read_splits(data, ("train", "test"))
    check_classes(model, lists["train"].class_names, Path(source or "the network"))
    with prefix_errors(data.data):
        reader = _ClipReader(lists["train"], model.preprocessing, spec, clips)
    with draft_folder(path, model) as folder:
        plain_file, draft = folder / "plain.onnx", folder / path.name
        export_network(model, plain_file, spec, source=source)
        _quantize(plain_file, draft, reader)
        _relabel(draft, plain_file, spec, model)
        before = _score(model, lists["test"], clips_per_video)
        after = _score(ExportedNetwork(draft), lists["test"], clips_per_video)
        unread = (*reader.unread, *before.bad)
        result = Int8Result(len(before.labels), _top1(before), _top1(after), reader.count, unread)
        _check_loss(result, max_loss)
        draft.replace(path)
    return result


def _check_form(spec: ExportSpec, prep: Preprocessing) -> None:
    plain = (spec.batch, spec.frames, spec.size) == (1, prep.num_frames, prep.crop)
    if spec.backend != "onnx" or not plain or spec.with_preprocessing:
        raise UserError(
            "--int8 is for .onnx files with a batch of 1, pixels in and the network's own clip "
            "size; omit --batch, --frames, --size and --with-preprocessing"
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
