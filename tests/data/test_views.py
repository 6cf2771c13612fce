"""The clips of an evaluation: crops, mirrored copies and orders of frames of real files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.videos import write_video
from p3d.data.clips import EvalClips, read_eval_clips
from p3d.data.crops import eval_crop_boxes
from p3d.data.dataset import VideoDataset, VideoRecord
from p3d.data.sampling import author_windows, reorder, uniform_windows
from p3d.data.transforms import EvalTransform
from p3d.data.views import CENTER, Crops, FrameOrder, Views
from p3d.data.workers import Videos
from p3d.preprocessing import IMAGENET
from p3d.video.decode import open_video
from p3d.video.geometry import Box, resize
from p3d.video.video_file import VideoFile

REAL = os.environ.get("P3D_REAL_VIDEOS")
PREP = replace(IMAGENET, num_frames=4, resize=45, crop=40)


@pytest.fixture(scope="module", params=["landscape.avi", "portrait.avi", "real"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "real":
        if not REAL:
            pytest.skip("P3D_REAL_VIDEOS is not set")
        return sorted(Path(REAL).rglob("*.avi"))[0]
    size = (64, 80) if request.param == "landscape.avi" else (80, 64)
    return write_video(tmp_path_factory.mktemp("videos") / request.param, 23, size=size)


def corners(height: int, width: int, crops: Crops) -> list[tuple[int, int]]:
    """Return top and left of the crops of a resized frame."""
    bottom, right = height - PREP.crop, width - PREP.crop
    top, left = bottom // 2, right // 2
    if crops == 1:
        return [(top, left)]
    if crops == 3 and height > width:
        return [(0, left), (top, left), (bottom, left)]
    if crops == 3:
        return [(top, 0), (top, left), (top, right)]
    return [(0, 0), (0, right), (bottom, 0), (bottom, right), (top, left)]


@pytest.mark.parametrize(
    ("crops", "mirror"), [(1, False), (1, True), (3, False), (3, True), (10, False)]
)
def test_crops_are_slices_of_the_resized_frames(path: Path, crops: Crops, mirror: bool) -> None:
    views = Views("authors", crops, mirror)
    with open_video(path) as video:
        clips = read_eval_clips(video, PREP, 3, views)
        whole = video.read(range(video.num_frames))
    frames = resize(whole, *PREP.resized(video.height, video.width)).numpy()
    expected = []
    for window in author_windows(len(frames), PREP.num_frames, 1, 3):
        plain = [
            frames[window, top : top + PREP.crop, left : left + PREP.crop]
            for top, left in corners(*frames.shape[1:3], crops)
        ]
        copies = [view[:, :, ::-1] for view in plain] if mirror or crops == 10 else []
        expected += [*plain, *copies]
    assert clips.is_contiguous()
    assert len(clips) == 3 * views.per_window
    np.testing.assert_array_equal(clips, expected)


@given(st.integers(1, 60), st.integers(0, 60), st.integers(0, 60), st.sampled_from([1, 3, 10]))
def test_crops_reach_the_edges_of_a_frame(size: int, more: int, wider: int, crops: Crops) -> None:
    height, width = size + more, size + wider
    boxes = eval_crop_boxes(height, width, size, crops)
    assert len(boxes) == {1: 1, 3: 3, 10: 5}[crops]
    covered = np.zeros((height, width, 1), np.uint8)
    for box in boxes:
        assert 0 <= box.top <= height - size
        assert 0 <= box.left <= width - size
        box.crop(covered)[:] = 1
    if crops == 10:
        assert covered[0, 0] == covered[0, -1] == covered[-1, 0] == covered[-1, -1] == 1
    if crops == 3 and min(height, width) == size and max(height, width) <= 3 * size:
        assert covered.any(1 if height > width else 0).all()


def test_mirrored_flow_moves_the_other_way() -> None:
    rng = np.random.default_rng(0)
    frames = torch.from_numpy(rng.integers(0, 256, (3, 6, 8, 2), np.uint8))
    frames[0, 0, 0] = torch.tensor([0, 0], dtype=torch.uint8)
    plain, mirrored = EvalTransform((6, 8), (Box(1, 1, 5, 5),), mirror=True)(frames).unbind(1)
    expected = plain.numpy()[:, :, ::-1].astype(int)
    # The level 0 (128 px to the left) has no opposite; it loses a level.
    expected[..., 0] = np.minimum(256 - expected[..., 0], 255)
    np.testing.assert_array_equal(mirrored, expected)


@pytest.mark.parametrize("order", get_args(FrameOrder))
def test_frames_of_clips_are_reordered(path: Path, order: FrameOrder) -> None:
    views = Views(order=order, seed=5, crops=3)
    with open_video(path) as video:
        clips = read_eval_clips(video, PREP, 4, views, index=9).unflatten(0, (4, 3))
        whole = read_eval_clips(video, replace(PREP, num_frames=video.num_frames), 1, views=CENTER)
    windows = uniform_windows(whole.shape[1], PREP.num_frames, 1, 4)
    expected = whole[0].numpy()[reorder(windows, order, 5, 9)]
    np.testing.assert_array_equal(clips[:, 1], expected)


def test_each_frame_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    pieces = VideoFile.pieces

    def counted(self: VideoFile, frames: Sequence[int], box: Box | None = None) -> object:
        asked.extend(frames)
        return pieces(self, frames, box)

    monkeypatch.setattr(VideoFile, "pieces", counted)
    with open_video(write_video(tmp_path / "a.avi", 12)) as video:
        clips = read_eval_clips(video, PREP, 20, Views(crops=10, order="shuffled"))
    assert len(clips) == 200
    assert asked == list(range(12))


def test_clips_of_a_data_set_have_all_views(tmp_path: Path) -> None:
    paths = [write_video(tmp_path / f"{length}.avi", length) for length in (9, 3)]
    dataset = VideoDataset(("a",), tuple(VideoRecord(path, 0) for path in paths))
    views = Views(crops=3, mirror=True, order="shuffled", seed=1)
    clips = EvalClips(Videos(dataset), PREP, 4, views)
    for index, path in enumerate(paths):
        with open_video(path) as video:
            expected = read_eval_clips(video, PREP, 4, views, index=index)
            starts = uniform_windows(video.num_frames, PREP.num_frames, 1, 4)[:, 0]
        assert expected.shape == (24, 4, 40, 40, 3)
        sample = clips.read(index)
        assert torch.equal(sample.clips, expected)
        assert sample.starts == tuple(start for start in starts.tolist() for _ in range(6))
        # Some of the windows are the same as those among all.
        assert torch.equal(clips.read(index, (3, 1)).clips[:6], expected[18:])
        assert torch.equal(clips.read(index, (3, 1)).clips[6:], expected[6:12])
