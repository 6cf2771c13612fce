"""Prediction: the most likely classes of videos in files, folders of frames, or memory."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import get_args, overload

import numpy as np
from torch import Tensor

from p3d.data.rates import check_rate
from p3d.data.sampling import clips_to_see_all, seen_fraction, uniform_windows
from p3d.errors import BadVideoError, UserError, check_choice
from p3d.inference.arguments import local_path
from p3d.inference.backends.names import BackendChoice
from p3d.inference.clip_plan import NumClips, expected_clips, plan_clips, settled_threshold
from p3d.inference.exported import ExportedNetwork
from p3d.inference.networks import chosen_backend, load_network, make_scorer
from p3d.inference.pipe import Scored, num_threads, score_in_order
from p3d.inference.prediction import Prediction
from p3d.inference.scorer import Scorer, mean_probabilities
from p3d.inference.timeline.calibrated import calibrated_cut
from p3d.inference.timeline.cut_options import CutOptions
from p3d.inference.timeline.frames import check_fps, memory_frames, open_frames
from p3d.inference.timeline.scan import scan
from p3d.inference.timeline.timeline import Timeline, make_timeline
from p3d.inference.timeline.window_scorer import WindowScorer
from p3d.inference.timeline.windows import make_plan
from p3d.inference.videos import Video, VideoInfo, path_of, read_clips
from p3d.model.config import Layer
from p3d.model.network import P3D
from p3d.preprocessing import Preprocessing
from p3d.system.device import DeviceName, Precision, resolve_device


class Predictor:
    """A network that predicts the classes of videos, by the protocol of `p3d eval`.

    Args:
        model_or_path: A network, a weight file in any format that p3d reads, or a file of
            `p3d export`. A .pt2 is compiled code: load only one that you trust.
        device: "auto", "cpu", "cuda" or "mlu".
        precision: "fp32", "tf32", "bf16" or "fp16".
        clips: Uniformly spaced clips of each video; their probabilities are averaged. "auto" takes
            as many of 20 as the answer needs, from the middle outwards, see
            `p3d.inference.settled`.
        batch_size: Clips on the device at once; None for what suits the device.
        compiled: Compile the network: slow to start, then faster. Same as backend "compiled".
        backend: "eager", "compiled", "aot", "onnx" or "openvino"; the last three need a file of
            `p3d export`. "auto" takes the file's, or compiles if that pays for the videos.
        videos: Number of videos to come, for backend "auto"; None does not compile.
        workers: Threads that decode while the network computes; 0 decodes in turn with it. By
            default what suits the machine.

    Attributes:
        clips: As given.
        class_names: Name of each class; its number if no names are known.
        rates: Lowest and highest frame rate of the training videos; None if unknown.
        settled: Probability at which "auto" takes no more clips; None for a number of clips.
        describe_clips: The clips of a video, in words.

    Raises:
        UserError: The weights cannot be read, an option is wrong, or the device is not available.

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
        clips: NumClips = 20,
        batch_size: int | None = None,
        compiled: bool = False,
        backend: BackendChoice = "auto",
        videos: int | None = None,
        workers: int | None = None,
    ) -> None:
        check_choice("device", device, get_args(DeviceName))
        check_choice("precision", precision, get_args(Precision))
        check_choice("backend", backend, get_args(BackendChoice))
        _check_numbers(clips, batch_size)
        self._backend = chosen_backend(backend, compiled=compiled)
        self.clips: NumClips = clips
        self._source = model_or_path
        self._make_scorer = partial(
            make_scorer,
            device=resolve_device(device),
            precision=precision,
            backend=self._backend,
            batch_size=batch_size,
            clips=None if videos is None else videos * expected_clips(clips),
        )
        model = self._load()
        self.rates = model.rates
        self.class_names = model.class_names or tuple(map(str, range(model.config.num_classes)))
        self._scorers: dict[Layer | None, Scorer] = {None: self._make_scorer(model)}
        # Computing optical flow takes long, and only this thread can be interrupted in it.
        is_flow = self.preprocessing.channels == "flow"
        self._threads = num_threads(0 if is_flow else workers, self.scorer.device)
        settled, origin = settled_threshold(model.calibration)
        self._plan = plan_clips(clips, settled, self.scorer.batch_size)
        self.settled = self._plan.settled
        self._cut = calibrated_cut(model.calibration) or CutOptions()
        self.describe_clips = (
            f"{clips} clips a video"
            if self.settled is None
            else f"up to {self._plan.num_clips} clips, settled at {settled:g} ({origin})"
        )
        self._summary = (
            f"{model.config.name}, {len(self.class_names)} classes, {self.describe_clips}, "
            f"{self.scorer.device}, {precision}"
        )

    def __repr__(self) -> str:
        return f"<Predictor: {self._summary}>"

    @property
    def preprocessing(self) -> Preprocessing:
        """How clips are made from frames."""
        return self.scorer.preprocessing

    @property
    def scorer(self) -> Scorer:
        """The network as it was prepared."""
        return self._scorers[None]

    def _load(self) -> P3D | ExportedNetwork:
        if isinstance(self._source, P3D):
            return self._source
        return load_network(local_path(self._source, "weights"), self._backend)

    @overload
    def __call__(self, video: Video, *, fps: float | None = None) -> Prediction: ...

    @overload
    def __call__(
        self, video: list[Video] | tuple[Video, ...], *, fps: float | None = None
    ) -> list[Prediction]: ...

    def __call__(
        self, video: Video | list[Video] | tuple[Video, ...], *, fps: float | None = None
    ) -> Prediction | list[Prediction]:
        """Classify a video, or a list of videos.

        A flow network takes files of optical flow (`p3d prepare flow`). For other videos it first
        computes the flow of the frames in the clips, by the method of its training videos. That
        takes far longer than the network.

        Args:
            video: A video file, a folder of frames, or frames as a NumPy array or tensor: uint8
                `(T, H, W, 3)`, RGB from 0 to 255. For a flow network also uint8 `(T, H, W, 2)`,
                flow as p3d stores it. Or a list or tuple of these, whose clips share batches.
            fps: Frames per second of frames in memory and of folders of frames. Networks that take
                frames at a rate (`preprocessing.fps`) need it for frames in memory, and take a
                folder as 25 frames a second without it. Files have their own.

        Returns:
            The prediction; a list of them, in the same order, for a list.

        Raises:
            BadVideoError: A video cannot be read. `stream` goes on after such videos.
            UserError: An array has another shape or type, or lacks a rate, the name is empty or an
                address, or flow must be computed by OpenCV, which is not installed.
        """
        if not isinstance(video, (list, tuple)):
            (prediction,) = self([video], fps=fps)
            return prediction
        predictions: list[Prediction] = []
        threads = self._threads if len(video) > 1 else 0
        with closing(self._stream(video, threads, fps)) as results:
            for result in results:
                if isinstance(result, BadVideoError):
                    raise result
                predictions.append(result)
        return predictions

    def stream(
        self, videos: Iterable[Video], *, fps: float | None = None
    ) -> Iterator[Prediction | BadVideoError]:
        """Classify many videos, and go on after those that cannot be read.

        Args:
            videos: As for a call. While the results are taken, a few videos more are taken from it
                and read in advance; for a live source, call the predictor for each video.
            fps: As for a call.

        Yields:
            For each video, in order, its prediction, or the error that says why it has none.

        Raises:
            UserError: As for a call.
        """
        return self._stream(videos, self._threads, fps)

    def _stream(
        self, videos: Iterable[Video], threads: int, fps: float | None
    ) -> Generator[Prediction | BadVideoError]:
        results = score_in_order(self.scorer, videos, self._reader(fps), self._plan, threads)
        with closing(results):
            for result in results:
                if isinstance(result, BadVideoError):
                    yield result
                else:
                    yield self._prediction(result)

    def _reader(
        self, fps: float | None
    ) -> Callable[[Video, Sequence[int]], tuple[Tensor, VideoInfo]]:
        """Return a function that reads some of the clips of a video."""
        check_rate("fps", fps)
        return partial(
            read_clips,
            num_clips=self._plan.num_clips,
            prep=self.preprocessing,
            device=self.scorer.device,
            fps=fps,
        )

    def _prediction(self, scored: Scored[VideoInfo]) -> Prediction:
        path, num_frames, num_steps, fps = scored.info
        numbers = sorted(self._plan.order[: len(scored.logits)])
        prep = self.preprocessing
        size = (num_steps, prep.num_frames, prep.frame_stride)
        windows = uniform_windows(*size, self._plan.num_clips)[numbers]
        return Prediction(
            path,
            mean_probabilities(scored.logits / self.scorer.temperature),
            self.class_names,
            num_frames,
            seen_fraction(windows, num_steps),
            len(numbers),
            clips_to_see_all(*size),
            fps,
        )

    def timeline(
        self,
        video: Video,
        *,
        fps: float | None = None,
        window: float | None = None,
        stride: float | None = None,
        cut: CutOptions | None = None,
    ) -> Timeline:
        """Find when the classes are seen in a long video, as `p3d timeline` does.

        Args:
            video: As for a call, but a single one.
            fps: Rate of frames in memory or of a folder of frames, in frames per second. A file has
                its own times.
            window: Seconds of a window; None for a clip of the weights, see `make_plan`.
            stride: Seconds from one window to the next; None for half a window.
            cut: How scores become segments; None for what `p3d calibrate` has kept with the
                weights, else the defaults. `Timeline.cut` cuts them again.

        Raises:
            BadVideoError: The video cannot be read.
            UserError: A number is out of range, the video is no video, or frames in memory come
                without their rate.
        """
        prep = self.preprocessing
        scorer = WindowScorer(make_plan(prep, window, stride), [self.scorer])
        check_fps(fps)
        with ExitStack() as stack:
            if isinstance(video, (np.ndarray, Tensor)):
                path, frames = None, memory_frames(video, prep, fps)
            else:
                path = path_of(video)
                frames = stack.enter_context(open_frames(path, [prep], fps=fps))
            scores = scan(scorer, scorer.windows(frames), self._threads)
            batches = stack.enter_context(closing(scores))
            windows = [window for batch in batches for window in batch]
        timeline = make_timeline(path, windows, frames.end, self.class_names, scorer.temperature)
        return timeline.cut(cut or self._cut)

    def features(self, video: Video, layer: Layer = "pool5", *, fps: float | None = None) -> Tensor:
        """Return the features of a video's clips, for search, clustering or another classifier.

        Args:
            video: As for a call, but a single one.
            layer: "pool5", the pooled features before the classifier, or the output of a stage,
                "res2" to "res5".
            fps: As for a call.

        Returns:
            float32 `(clips, 2048)` for "pool5"; average over the clips for one vector a video.
            `(clips, channels, T', H', W')` for a stage. All 20 clips for "auto".

        Raises:
            BadVideoError: The video cannot be read.
            UserError: As for a call, or there is no such layer.
        """
        check_choice("layer", layer, get_args(Layer))
        if layer not in self._scorers:
            network = self._load()
            if isinstance(network, ExportedNetwork):
                raise UserError(
                    f"{network.path}: an exported file has no features; give the weights that it "
                    "was made from"
                )
            self._scorers[layer] = Scorer(
                network,
                self.scorer.device,
                self.scorer.precision,
                layer=layer,
                batch_size=self.scorer.batch_size,
            )
        scorer = self._scorers[layer]
        plan = plan_clips(self._plan.num_clips, 1, scorer.batch_size)
        (result,) = score_in_order(scorer, [video], self._reader(fps), plan, 0)
        if isinstance(result, BadVideoError):
            raise result
        # A copy can be used under gradients, unlike a tensor of inference mode.
        return result.logits.clone()


def _check_numbers(clips: NumClips, batch_size: int | None) -> None:
    if not isinstance(clips, Integral) and clips != "auto":
        raise UserError(f"clips is {clips!r}; give a number or auto")
    if any(isinstance(number, int) and number < 1 for number in (clips, batch_size)):
        raise UserError(f"clips ({clips}) and batch_size ({batch_size}) must be 1 or more")
