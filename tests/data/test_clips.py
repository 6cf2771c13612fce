"""Clips equal whole frames that are cropped and scaled after decoding, and take less memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import Interpolation
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from helpers.videos import write_frames, write_video
from p3d.data import transforms
from p3d.data.clips import read_eval_clips, read_train_clip
from p3d.data.sampling import clip_rng, random_window, uniform_windows
from p3d.data.transforms import Augmentation, train_transform
from p3d.preprocessing import IMAGENET
from p3d.video import rgb, sources
from p3d.video.decode import open_video
from p3d.video.geometry import Box
from p3d.video.rgb import block_box, converts_by_block
from p3d.video.sources import Piece, gather
from p3d.video.video_file import VideoFile

NUM_FRAMES = 14
PREP = replace(IMAGENET, num_frames=5, resize=(45, 60), crop=40)
X264 = {"codec": "libx264", "b_frames": 2}

VIDEOS: dict[str, dict[str, Any]] = {
    "mpeg4.avi": {"b_frames": 1},
    "wide.avi": {"size": (96, 352)},
    "h264.mp4": X264,
    "not-a-multiple-of-16.mp4": {**X264, "size": (66, 86)},
    "odd-width.mkv": {"codec": "ffv1", "size": (64, 83)},
    "odd-height.mkv": {"codec": "ffv1", "size": (63, 80)},
    "full-range.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p", "size": (72, 96)},
    "bt709.mp4": {**X264, "options": {"x264-params": "colormatrix=bt709:range=pc"}},
    "interlaced.mp4": {**X264, "options": {"x264-params": "interlaced=1"}},
    "422.mp4": {**X264, "pix_fmt": "yuv422p"},
    "phone.mp4": {"rotation": 90},
}


def decode_all(path: Path, rotation: int = 0) -> NDArray[np.uint8]:
    """Decode every frame of a file with PyAV's own loop."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.rot90(np.stack(frames), rotation // 90, axes=(1, 2))


@pytest.fixture(scope="module", params=VIDEOS)
def video(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, NDArray[np.uint8]]:
    """Return a file and its independently decoded frames."""
    options = VIDEOS[request.param]
    if options.get("codec", "mpeg4") not in av.codecs_available:
        pytest.skip(f"PyAV's FFmpeg has no {options['codec']} encoder here")
    path = tmp_path_factory.mktemp("videos") / request.param
    write_video(path, NUM_FRAMES, gop=6, **options)
    return path, decode_all(path, options.get("rotation", 0))


@st.composite
def boxes(draw: st.DrawFn, height: int, width: int) -> Box:
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    size = draw(st.integers(1, height - top)), draw(st.integers(1, width - left))
    return Box(top, left, *size)


@given(st.data())
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_crop_of_some_frames_equals_a_crop_of_fully_decoded_frames(
    video: tuple[Path, NDArray[np.uint8]], data: st.DataObject
) -> None:
    path, frames = video
    box = data.draw(boxes(*frames.shape[1:3]))
    indices = data.draw(st.lists(st.integers(0, NUM_FRAMES - 1), min_size=1, max_size=8))
    with open_video(path) as opened:
        clip = gather(opened, indices, box)
    assert clip.is_contiguous()
    np.testing.assert_array_equal(clip, [box.crop(frames[index]) for index in indices])


@pytest.fixture(params=["default", "not by block", "small pieces"])
def code_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Force each code path: conversion by block or by frame, all frames at once or in pieces."""
    if request.param == "not by block":
        monkeypatch.setattr(rgb, "converts_by_block", lambda *_: False)
    elif request.param == "small pieces":
        monkeypatch.setattr(sources, "PIECE_BYTES", 2 * 3 * 64 * 80)


@pytest.mark.parametrize("augmentation", get_args(Augmentation))
@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.usefixtures("code_path")
def test_training_clips_equal_augmented_whole_frames(
    video: tuple[Path, NDArray[np.uint8]], augmentation: Augmentation, stride: int
) -> None:
    path, frames = video
    options: dict[str, Any] = {"augmentation": augmentation, "flip_probability": 0.5}
    for number in range(3):
        rng = clip_rng(0, 0, number)
        window = random_window(len(frames), PREP.num_frames, stride, rng)
        whole = torch.from_numpy(frames[window])
        expected = train_transform(whole, PREP, rng=rng, **options)
        rng = clip_rng(0, 0, number)
        random_window(len(frames), PREP.num_frames, stride, rng)
        with open_video(path) as opened:
            clip = read_train_clip(opened, window, PREP, rng=rng, **options)
        assert clip.is_contiguous()
        assert torch.equal(clip, expected)


@pytest.mark.parametrize(("num_clips", "resize"), [(1, (45, 60)), (4, (45, 60)), (4, 45)])
@pytest.mark.usefixtures("code_path")
def test_evaluation_clips_equal_transformed_whole_frames(
    video: tuple[Path, NDArray[np.uint8]], num_clips: int, resize: int | tuple[int, int]
) -> None:
    path, frames = video
    prep = replace(PREP, resize=resize)
    windows = uniform_windows(len(frames), prep.num_frames, 1, num_clips)
    whole = torch.from_numpy(np.ascontiguousarray(frames))
    transform = transforms.eval_transform(*frames.shape[1:3], prep)
    expected = transform(whole)[:, 0][torch.from_numpy(windows)]
    with open_video(path) as opened:
        assert torch.equal(read_eval_clips(opened, prep, num_clips), expected)


def test_frame_folders_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_frames(tmp_path / "frames", 9)
    box = Box(3, 5, 50, 61)
    with open_video(folder) as opened:
        expected = opened.read(range(9))[:, 3:53, 5:66]
        monkeypatch.setattr(sources, "PIECE_BYTES", 4 * 3 * 50 * 61)
        assert [len(found) for found, _ in opened.pieces(range(9), box)] == [4, 4, 1]
        assert torch.equal(gather(opened, range(9), box), expected)


class Shuffled:
    """A source whose frames arrive out of order, as in some damaged files."""

    num_frames, height, width, fps, flow = 6, 2, 2, 25.0, None
    pixels = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 2, 2, 3)

    def read(self, indices: Sequence[int]) -> Tensor:
        return gather(self, indices)

    def pieces(self, frames: Sequence[int], box: Box | None = None) -> Iterator[Piece]:
        del box
        for found in (list(frames)[3:], list(frames)[:3]):
            yield found, self.pixels[found]


def test_pieces_may_arrive_in_any_order() -> None:
    assert Shuffled().read([5, 1, 1, 0, 3])[:, 0, 0, 0].tolist() == [5, 1, 1, 0, 3]


@given(st.data())
def test_block_box_contains_the_box_and_is_aligned_to_blocks(data: st.DataObject) -> None:
    height, width = 2 * data.draw(st.integers(1, 100)), data.draw(st.integers(1, 200))
    box = data.draw(boxes(height, width))
    outer = block_box(box, width)
    assert 0 <= outer.top <= box.top
    assert 0 <= outer.left <= box.left
    assert box.top + box.height <= outer.top + outer.height <= height
    assert box.left + box.width <= outer.left + outer.width <= width
    assert outer.top % 2 == outer.height % 2 == 0
    assert (outer.left, outer.width) == (0, width) or outer.left % 16 == outer.width % 16 == 0


@pytest.mark.skipif(
    not hasattr(Interpolation, "ACCURATE_RND"), reason="this PyAV cannot smooth colors"
)
def test_conversion_that_smooths_colors_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    def smoothing(
        reformatter: Any, picture: av.VideoFrame, width: int, height: int
    ) -> NDArray[np.uint8]:
        flags = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
        frame = reformatter.reformat(picture, width, height, "rgb24", interpolation=flags)
        pixels: NDArray[np.uint8] = frame.to_ndarray()
        return pixels

    monkeypatch.setattr(rgb, "_to_rgb", smoothing)
    assert not converts_by_block.__wrapped__("yuv420p", 320)


@pytest.mark.parametrize(
    ("options", "indices", "num_seeks"),
    [
        ({"gop": 4}, range(3, 14), 1),
        ({"gop": 4}, (0, 1, 12, 13), 2),
        ({"codec": "mjpeg", "pix_fmt": "yuvj420p"}, range(14), 1),
        ({"codec": "mjpeg", "pix_fmt": "yuvj420p"}, range(0, 14, 2), 1),
        ({"codec": "mjpeg", "pix_fmt": "yuvj420p"}, (0, 6, 12), 3),
    ],
)
def test_decoder_seeks_only_to_distant_frames(
    options: dict[str, Any],
    indices: Sequence[int],
    num_seeks: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_video(tmp_path / "a.avi", NUM_FRAMES, **options)
    seeks_to: list[int] = []
    seek: Callable[[VideoFile, int], Any] = VideoFile._seek
    monkeypatch.setattr(VideoFile, "_seek", lambda self, n: seeks_to.append(n) or seek(self, n))
    with open_video(path) as opened:
        clip = opened.read(indices)
    assert len(seeks_to) == num_seeks
    np.testing.assert_array_equal(clip, decode_all(path)[list(indices)])


MEMORY = """
import resource, sys
from p3d.data.clips import read_eval_clips
from p3d.video.decode import open_video
from p3d.preprocessing import IMAGENET

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

with open_video(sys.argv[1]) as video:
    video.read([0])
    before = peak()
    clips = read_eval_clips(video, IMAGENET, 20)
print(tuple(clips.shape), peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's memory statistics")
def test_large_frames_are_not_in_memory_together(tmp_path: Path) -> None:
    path = tmp_path / "large.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        gray = av.VideoFrame.from_ndarray(np.full((1080, 1920, 3), 90, np.uint8))
        for number in range(80):
            gray.pts = number
            container.mux(stream.encode(gray))
        container.mux(stream.encode(None))
    process = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True
    )
    shape, _, mebibytes = process.stdout.rpartition(" ")
    assert shape == "(20, 16, 160, 160, 3)"
    # The clips take 25 MiB; their frames at full size would take 475 MiB.
    assert int(mebibytes) < 150
