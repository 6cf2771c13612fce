"""Prediction by two networks together, one for pictures and one for optical flow.

Frames are decoded once: those that both networks need are scaled and turned gray as they go by on
their way to the network for pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from p3d.data.clips import check_source, read_eval_clips
from p3d.data.sampling import clips_to_see_all, seen_fraction, uniform_windows
from p3d.data.track import track_of
from p3d.errors import BadVideoError, UserError
from p3d.inference.arguments import local_path
from p3d.inference.export_spec import SUFFIXES
from p3d.inference.fusion import Fusion, read_fusion
from p3d.inference.network_input import computed_flow
from p3d.inference.prediction import Prediction
from p3d.inference.scorer import Scorer
from p3d.run_folder import BEST_FILE, LAST_FILE
from p3d.system.files import file_sha256
from p3d.video.decode import open_video
from p3d.video.flow import ComputedFlow, scaled_gray
from p3d.video.geometry import Box
from p3d.video.sources import FrameSource, Piece
from p3d.weights.loading import find_weights

_WEIGHTS = (".safetensors", ".pt", ".pth", ".tar", ".ckpt", ".caffemodel")
"""Endings of weight files, in lower case; other words are videos."""


class Stream(NamedTuple):
    """A network, and how the user calls it."""

    name: str
    scorer: Scorer
    class_names: tuple[str, ...]


class TwoStreams:
    """Two networks that predict the classes of videos together.

    The logits of both are fused as they are, as `p3d fuse` does with scores: temperatures of
    `p3d calibrate` are not used.

    Args:
        first: One network.
        second: The other. One of the two takes pictures, the other optical flow.
        fusion: How their scores are fused.
        clips: Uniformly spaced clips of each video.

    Raises:
        UserError: The networks do not belong together.
    """

    def __init__(self, first: Stream, second: Stream, fusion: Fusion, clips: int) -> None:
        check_streams(first, second)
        self._class_names = first.class_names
        self._clips = clips
        takes_flow = first.scorer.preprocessing.channels == "flow"
        self._pictures, self._flow = (second, first) if takes_flow else (first, second)
        self._fusion = fusion.swapped() if takes_flow else fusion

    def stream(
        self, videos: Iterable[Path], /, *, fps: float | None = None
    ) -> Iterator[Prediction | BadVideoError]:
        """Classify many videos, and go on after those that cannot be read.

        Args:
            videos: Video files, or folders of frames. Optical flow is computed, or taken from a
                folder that holds both frames and their flow.
            fps: Frames per second of folders of frames, see `Predictor`.

        Yields:
            For each video, in order, its prediction, or the error that says why it has none.
        """
        for video in videos:
            try:
                yield self(video, fps=fps)
            except BadVideoError as error:
                yield error

    def __call__(self, path: Path, *, fps: float | None = None) -> Prediction:
        """Classify a video.

        Args:
            path: As for `stream`.
            fps: As for `stream`.

        Raises:
            BadVideoError: It cannot be read.
        """
        path = local_path(path, "video")
        with open_video(path, fps=fps) as video, _prepared_flow(path, fps) as prepared:
            prep = self._pictures.scorer.preprocessing
            check_source(path, video, prep)
            clips, flow_clips = self._read(path, video, prepared)
            length = track_of(video, prep.fps).length
        logits = self._pictures.scorer(clips), self._flow.scorer(flow_clips)
        scores = self._fusion.log_probabilities(*logits).exp().float()
        size = (length, prep.num_frames, prep.frame_stride)
        return Prediction(
            path,
            scores,
            self._class_names,
            video.num_frames,
            seen_fraction(uniform_windows(*size, self._clips), length),
            self._clips,
            clips_to_see_all(*size),
            video.fps if video.knows_fps else 0.0,
        )

    def _read(
        self, path: Path, video: FrameSource, prepared: FrameSource | None
    ) -> tuple[Tensor, Tensor]:
        """Return the clips of both networks."""
        prep, flow_prep = (each.scorer.preprocessing for each in (self._pictures, self._flow))
        if prepared is not None:
            check_source(path, prepared, flow_prep)
            clips = read_eval_clips(video, prep, self._clips)
            return clips, read_eval_clips(prepared, flow_prep, self._clips)
        device = self._flow.scorer.device
        flow = computed_flow(video, flow_prep, path.name, device)
        track = track_of(flow, flow_prep.fps)
        steps = uniform_windows(
            track.length, flow_prep.num_frames, flow_prep.frame_stride, self._clips
        )
        kept = flow.video_frames(track.frames(steps).ravel().tolist())
        frames = _WithGrays(video, flow, kept)
        clips = read_eval_clips(frames, prep, self._clips)
        flow = computed_flow(video, flow_prep, path.name, device, frames.grays)
        return clips, read_eval_clips(flow, flow_prep, self._clips)


def split_weights(first: Path, words: Iterable[str | Path]) -> tuple[list[Path], list[str]]:
    """Separate further networks from videos: words that name a file of weights, or a run's folder.

    Args:
        first: The first network.
        words: The other networks and the videos.

    Returns:
        The networks and the videos.
    """
    networks, videos = [first], list[str]()
    for word in map(str, words):
        if _is_weights(Path(word)):
            networks.append(Path(word))
        else:
            videos.append(word)
    return networks, videos


def check_networks(networks: Sequence[Path], fusion: str | None) -> None:
    """Check the number of networks of a command.

    Args:
        networks: Result of `split_weights`.
        fusion: Its option `--fusion`.

    Raises:
        UserError: There are too many, or too few for the option.
    """
    if len(networks) > 2:
        raise UserError(f"{len(networks)} files of weights were given; give one or two")
    if len(networks) == 1 and fusion is not None:
        raise UserError("--fusion is for two networks; give --weights RGB FLOW, or leave it out")


def chosen_fusion(text: str | None, networks: Sequence[Path]) -> Fusion:
    """Return what `--fusion` asks for.

    Args:
        text: Its value: a folder of `p3d fuse --out`, or the weight of the second network.
        networks: The weights of both networks.

    Raises:
        UserError: There is no such folder, it is about other networks, or the weight is wrong.
    """
    if text is None:
        return Fusion()
    try:
        weight = float(text)
    except ValueError:
        first, second = (file_sha256(find_weights(path)) for path in networks)
        return read_fusion(Path(text), (first, second))
    return Fusion(weight)


def _is_weights(path: Path) -> bool:
    named = path.suffix.lower() in (*_WEIGHTS, *SUFFIXES)
    return named or any((path / name).is_file() for name in (BEST_FILE, LAST_FILE))


def check_streams(first: Stream, second: Stream) -> None:
    """Check that one of two networks takes pictures, the other flow, and both the same classes.

    Raises:
        UserError: They do not belong together.
    """
    names = f"{first.name} and {second.name}"
    kinds = [stream.scorer.preprocessing.channels == "flow" for stream in (first, second)]
    if kinds[0] == kinds[1]:
        what = "optical flow" if kinds[0] else "pictures"
        raise UserError(
            f"{names} both take {what}; give one network for pictures and one for optical flow"
        )
    if first.class_names != second.class_names:
        raise UserError(f"{names} have other classes; train both on one data set")


@contextmanager
def _prepared_flow(path: Path, fps: float | None) -> Iterator[FrameSource | None]:
    """Open the optical flow in a folder of frames; None if there is none."""
    if not path.is_dir():
        yield None
        return
    with open_video(path, prefer_flow=True, fps=fps) as video:
        yield video if video.flow is not None else None


class _WithGrays(FrameSource):
    """A video that keeps some of its frames for optical flow.

    Args:
        video: The video.
        flow: Its flow.
        kept: Frames that are kept once any are read.

    Attributes:
        grays: The frames that were kept, see `scaled_gray`.
    """

    def __init__(self, video: FrameSource, flow: ComputedFlow, kept: Sequence[int]) -> None:
        self._video, self._kept = video, frozenset(kept)
        self._size = flow.height, flow.width
        self.num_frames, self.height, self.width = video.num_frames, video.height, video.width
        self.fps, self.knows_fps = video.fps, video.knows_fps
        self.grays = dict[int, Tensor]()

    @property
    def times(self) -> NDArray[np.float64]:
        """See `FrameSource`."""
        return self._video.times

    def pieces(self, frames: Sequence[int], box: Box | None = None) -> Iterator[Piece]:
        """See `FrameSource`."""
        wanted, box = set(frames), box or Box(0, 0, self.height, self.width)
        part = (
            slice(box.top, box.top + box.height),
            slice(box.left, box.left + box.width),
        )
        for numbers, pixels in self._video.pieces(sorted(wanted | self._kept)):
            self._keep(numbers, pixels)
            rows = [row for row, number in enumerate(numbers) if number in wanted]
            if rows:
                found = pixels if len(rows) == len(numbers) else pixels[rows]
                yield [numbers[row] for row in rows], found[(slice(None), *part)]

    def _keep(self, numbers: Sequence[int], pixels: Tensor) -> None:
        rows = [row for row, number in enumerate(numbers) if number in self._kept]
        if rows:
            grays = scaled_gray(pixels[rows], *self._size)
            self.grays |= zip((numbers[row] for row in rows), grays, strict=True)
