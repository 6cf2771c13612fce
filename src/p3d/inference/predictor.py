"""Prediction: the most likely classes of videos in files, folders of frames, or memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias, overload

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from p3d.data.clips import check_source, eval_windows, read_eval_clips
from p3d.data.sampling import seen_fraction
from p3d.errors import BadVideoError, UserError, printable
from p3d.inference.arguments import local_path
from p3d.inference.arrays import Frames, FramesInMemory
from p3d.inference.backends.names import BackendChoice
from p3d.inference.exported import ExportedNetwork
from p3d.inference.networks import chosen_backend, load_network, make_scorer
from p3d.inference.prediction import Prediction
from p3d.inference.scorer import Scorer, mean_probabilities
from p3d.model.network import P3D, Layer
from p3d.preprocessing import Preprocessing
from p3d.system.device import DeviceName, Precision, resolve_device
from p3d.video.decode import open_video
from p3d.video.flow import ComputedFlow
from p3d.video.sources import FrameSource

Video: TypeAlias = "Path | str | os.PathLike[str] | Frames"
"""A video file, a folder of its frames, or its frames: uint8 `(T, H, W, C)`."""


class _Read(NamedTuple):
    """The clips of a video, uint8 `(num_clips, T, H, W, C)`, and what is known about it."""

    path: Path | None
    clips: Tensor
    num_frames: int
    seen: float


class Predictor:
    """A network that predicts the classes of videos, by the protocol of `p3d eval`.

    Args:
        model_or_path: A network, a weight file in any format that p3d reads, or a file of
            `p3d export`. A .pt2 is compiled code: load only one that you trust.
        device: "auto", "cpu", "cuda" or "mlu".
        precision: "fp32", "tf32", "bf16" or "fp16".
        clips: Uniformly spaced clips of each video; their probabilities are averaged.
        batch_size: Clips on the device at once; None for what suits the device.
        compiled: Compile the network: slow to start, then faster. Same as backend "compiled".
        backend: "eager", "compiled", "aot", "onnx" or "openvino"; the last three need a file of
            `p3d export`. "auto" takes the file's, or compiles if that pays for the videos.
        videos: Number of videos to come, for backend "auto"; None does not compile.

    Raises:
        UserError: The weights cannot be read, or the device is not available.

    Example:
        >>> predictor = Predictor("best.safetensors")  # doctest: +SKIP
        >>> predictor("walk.avi").top(1)  # doctest: +SKIP
        [('walk', 0.93)]
        >>> [found.answer() for found in predictor(["walk.avi", frames])]  # doctest: +SKIP
        ['walk', 'run']
    """

    def __init__(
        self,
        model_or_path: P3D | Path | str,
        *,
        device: DeviceName = "auto",
        precision: Precision = "fp32",
        clips: int = 20,
        batch_size: int | None = None,
        compiled: bool = False,
        backend: BackendChoice = "auto",
        videos: int | None = None,
    ) -> None:
        if min(clips, 1 if batch_size is None else batch_size) < 1:
            raise UserError(f"clips ({clips}) and batch_size ({batch_size}) must be 1 or more")
        self._backend = chosen_backend(backend, compiled=compiled)
        self.clips = clips
        self._source = model_or_path
        self._make_scorer = partial(
            make_scorer,
            device=resolve_device(device),
            precision=precision,
            backend=self._backend,
            batch_size=batch_size,
            clips=None if videos is None else videos * clips,
        )
        model = self._load()
        self.class_names = model.class_names or tuple(map(str, range(model.config.num_classes)))
        self._scorers: dict[Layer | None, Scorer] = {None: self._make_scorer(model)}
        self._summary = (
            f"{model.config.name}, {len(self.class_names)} classes, {clips} clips a video, "
            f"{self._scorer.device}, {precision}"
        )

    def __repr__(self) -> str:
        return f"<Predictor: {self._summary}>"

    @property
    def preprocessing(self) -> Preprocessing:
        """How clips are made from frames."""
        return self._scorer.preprocessing

    @property
    def _scorer(self) -> Scorer:
        return self._scorers[None]

    def _load(self) -> P3D | ExportedNetwork:
        if isinstance(self._source, P3D):
            return self._source
        return load_network(local_path(self._source, "weights"), self._backend)

    @overload
    def __call__(self, video: Video) -> Prediction: ...

    @overload
    def __call__(self, video: list[Video] | tuple[Video, ...]) -> list[Prediction]: ...

    def __call__(
        self, video: Video | list[Video] | tuple[Video, ...]
    ) -> Prediction | list[Prediction]:
        """Classify a video, or a list of videos.

        A flow network takes files of optical flow (`p3d prepare flow`). For other videos it first
        computes the flow of the frames in the clips, which takes far longer than the network.

        Args:
            video: A video file, a folder of frames, or frames as a NumPy array or tensor: uint8
                `(T, H, W, 3)`, RGB from 0 to 255. For a flow network also uint8 `(T, H, W, 2)`,
                flow as p3d stores it. Or a list or tuple of these, whose clips share batches.

        Returns:
            The prediction; a list of them, in the same order, for a list.

        Raises:
            BadVideoError: A video cannot be read. `stream` goes on after such videos.
            UserError: An array has another shape or type, the name is empty or an address, or flow
                must be computed and OpenCV is not installed.
        """
        if not isinstance(video, (list, tuple)):
            (prediction,) = self([video])
            return prediction
        predictions: list[Prediction] = []
        for result in self.stream(video):
            if isinstance(result, BadVideoError):
                raise result
            predictions.append(result)
        return predictions

    def stream(self, videos: Iterable[Video]) -> Iterator[Prediction | BadVideoError]:
        """Classify many videos, and go on after those that cannot be read.

        Args:
            videos: As for a call. They are read as the results are taken, a batch at a time.

        Yields:
            For each video, in order, its prediction, or the error that says why it has none.

        Raises:
            UserError: As for a call.
        """
        waiting: list[_Read | BadVideoError] = []
        for video in videos:
            try:
                waiting.append(self._read(video))
            except BadVideoError as error:
                waiting.append(error)
            read = [item for item in waiting if isinstance(item, _Read)]
            if not read or len(read) * self.clips >= self._scorer.batch_size:
                yield from self._predict(waiting)
                waiting = []
        yield from self._predict(waiting)

    def _predict(
        self, waiting: list[_Read | BadVideoError]
    ) -> Iterator[Prediction | BadVideoError]:
        """Score the clips of several videos together."""
        read = [item for item in waiting if isinstance(item, _Read)]
        scores: Iterator[Tensor] = iter(())
        if read:
            logits = self._scorer(torch.cat([item.clips for item in read]))
            scores = iter(mean_probabilities(logits.unflatten(0, (len(read), self.clips))))
        for item in waiting:
            if isinstance(item, BadVideoError):
                yield item
            else:
                path, _, num_frames, seen = item
                yield Prediction(path, next(scores), self.class_names, num_frames, seen)

    def features(self, video: Video, layer: Layer = "pool5") -> Tensor:
        """Return the features of a video's clips, for search, clustering or another classifier.

        Args:
            video: As for a call, but a single one.
            layer: "pool5", the pooled features before the classifier, or the output of a stage,
                "res2" to "res5".

        Returns:
            float32 `(clips, 2048)` for "pool5"; average over the clips for one vector a video.
            `(clips, channels, T', H', W')` for a stage.

        Raises:
            BadVideoError: The video cannot be read.
            UserError: As for a call.
        """
        clips = self._read(video).clips
        if layer not in self._scorers:
            network = self._load()
            if isinstance(network, ExportedNetwork):
                raise UserError(
                    f"{network.path}: an exported file has no features; give the weights that it "
                    "was made from"
                )
            self._scorers[layer] = Scorer(
                network,
                self._scorer.device,
                self._scorer.precision,
                layer=layer,
                batch_size=self._scorer.batch_size,
            )
        # A copy can be used under gradients, unlike a tensor of inference mode.
        return self._scorers[layer](clips).clone()

    def _read(self, video: Video) -> _Read:
        """Read the clips of a video."""
        prep = self.preprocessing
        with self._open(video) as (path, opened):
            source = _network_input(opened, self._scorer, path)
            clips = read_eval_clips(source, prep, self.clips)
            seen = seen_fraction(eval_windows(source, prep, self.clips), source.num_frames)
        return _Read(path, clips, opened.num_frames, seen)

    @contextmanager
    def _open(self, video: Video) -> Iterator[tuple[Path | None, FrameSource]]:
        prep = self.preprocessing
        if isinstance(video, (np.ndarray, Tensor)):
            yield None, FramesInMemory(video, prep)
        elif isinstance(video, (str, os.PathLike)):
            path = local_path(video, "video")
            with open_video(path, prefer_flow=prep.channels == "flow") as opened:
                yield path, opened
        else:
            raise UserError(
                f"a video cannot be of type {printable(type(video).__name__)}; give a path, or "
                "uint8 frames (T, H, W, 3) as an array or tensor, or a list of these"
            )


def _network_input(source: FrameSource, scorer: Scorer, path: Path | None) -> FrameSource:
    """Return the frames that the network takes: optical flow is computed from RGB if needed."""
    prep = scorer.preprocessing
    name = "frames in memory" if path is None else path.name
    if prep.channels == "flow" and source.flow is None:
        bar = partial(tqdm, desc=f"flow of {name}", unit="frame", disable=None, leave=False)
        return ComputedFlow(source, prep.flow_short_side, each=bar)
    check_source(path or name, source, prep)
    return source
