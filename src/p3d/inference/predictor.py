"""Prediction: the most likely classes of any video file."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from torch import Tensor
from tqdm import tqdm

from p3d.data.clips import check_source, read_eval_clips
from p3d.errors import BadVideoError, UserError, printable
from p3d.inference.backends.names import BackendChoice
from p3d.inference.networks import chosen_backend, load_network, make_scorer
from p3d.inference.scorer import mean_probabilities
from p3d.model.network import P3D
from p3d.preprocessing import Preprocessing
from p3d.system.device import DeviceName, Precision, resolve_device
from p3d.system.options import DeviceOptions
from p3d.system.text import format_percent, format_table, json_line
from p3d.video.decode import open_video
from p3d.video.flow import ComputedFlow
from p3d.video.sources import FrameSource


@dataclass(frozen=True)
class Prediction:
    """The classes that a network predicts for a video.

    Attributes:
        path: The video.
        scores: float32 `(num_classes,)`, mean probabilities over the clips.
        class_names: Name of each class; its number if no names are known.
    """

    path: Path
    scores: Tensor
    class_names: tuple[str, ...]

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """Return the k most likely classes with their probabilities, best first."""
        best = self.scores.topk(min(k, len(self.class_names)))
        return [
            (self.class_names[index], score)
            for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]


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
        backend = chosen_backend(backend, compiled=compiled)
        model = (
            model_or_path
            if isinstance(model_or_path, P3D)
            else load_network(model_or_path, backend)
        )
        self.clips = clips
        self.class_names = model.class_names or tuple(map(str, range(model.config.num_classes)))
        self._scorer = make_scorer(
            model,
            resolve_device(device),
            precision,
            backend=backend,
            batch_size=batch_size,
            clips=None if videos is None else videos * clips,
        )

    def __call__(self, video: Path | str) -> Prediction:
        """Classify a video file or a folder of its frames.

        A flow network also takes a file of optical flow (`p3d prepare flow`). For other videos it
        first computes the flow of the frames in the clips, which takes far longer than the network.

        Raises:
            BadVideoError: The video cannot be read.
            UserError: Flow must be computed and OpenCV is not installed.
        """
        preprocessing = self._scorer.preprocessing
        with open_video(video, prefer_flow=preprocessing.channels == "flow") as opened:
            source = _network_input(opened, preprocessing, Path(video))
            clips = read_eval_clips(source, preprocessing, self.clips)
        return Prediction(Path(video), mean_probabilities(self._scorer(clips)), self.class_names)


def _network_input(source: FrameSource, preprocessing: Preprocessing, path: Path) -> FrameSource:
    """Return the frames that the network takes: optical flow is computed from RGB if needed."""
    if preprocessing.channels == "flow" and source.flow is None:
        bar = partial(tqdm, desc=f"flow of {path.name}", unit="frame", disable=None, leave=False)
        return ComputedFlow(source, preprocessing.flow_short_side, each=bar)
    check_source(path, source, preprocessing)
    return source


@dataclass(frozen=True)
class PredictOptions:
    """Print the most likely classes of videos. Exit code 0: all were read; 2: some were not."""

    videos: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Video files or folders of frames; a flow network also takes files of flow."""
    weights: Path
    """Weight file, in any format that p3d reads, or a file of `p3d export`. A .pt2 is compiled
    code, which is run: use only one that you trust like a program."""
    top: int = 5
    """Number of classes to print."""
    json: bool = False
    """Print one JSON object a line instead of a table."""
    clips: int = 20
    """Clips of each video, uniformly spaced."""
    batch_size: int | None = None
    """Clips on the device at once; by default what suits it: 1 on a CPU."""
    backend: BackendChoice = "auto"
    """What computes the network; auto takes an exported file's, or compiles if that saves time."""
    compute: DeviceOptions = field(default_factory=DeviceOptions)


def run(options: PredictOptions) -> int:
    """Run `p3d predict` and return the exit code.

    Raises:
        UserError: An option is out of range, or the weights cannot be read.
    """
    if not options.videos:
        raise UserError("no videos were given; give one or more files after the options")
    if options.top < 1:
        raise UserError(f"--top is {options.top}; give 1 or more")
    predictor = Predictor(
        options.weights,
        device=options.compute.device,
        precision=options.compute.precision,
        clips=options.clips,
        batch_size=options.batch_size,
        compiled=options.compute.compile,
        backend=options.backend,
        videos=len(options.videos),
    )
    unread = 0
    for video in options.videos:
        try:
            _print(predictor(video), options)
        except BadVideoError as error:
            unread += 1
            print(f"p3d: error: {printable(error)}", file=sys.stderr)
            if options.json:
                print(json_line({"video": str(video), "error": error.reason}), flush=True)
    if unread and len(options.videos) > 1:
        print(f"p3d: {unread} of {len(options.videos)} videos were not read", file=sys.stderr)
    return 2 if unread else 0


def _print(prediction: Prediction, options: PredictOptions) -> None:
    top = prediction.top(options.top)
    if options.json:
        classes = [{"class": name, "score": round(score, 6)} for name, score in top]
        print(json_line({"video": str(prediction.path), "top": classes}), flush=True)
        return
    rows = [(name, format_percent(score)) for name, score in top]
    print(format_table((str(prediction.path), "score"), rows) + "\n", flush=True)
