"""Clips as PyTorch data sets, compared with p3d's own loaders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from helpers.videos import write_video
from p3d.data.clip_dataset import EvalClipDataset, TrainClipDataset
from p3d.data.clips import read_eval_clips
from p3d.data.dataset import VideoDataset, VideoRecord
from p3d.data.loader import TrainLoader
from p3d.errors import BadVideoError, UserError
from p3d.preprocessing import IMAGENET
from p3d.video.decode import open_video

PREP = replace(IMAGENET, num_frames=4, resize=(18, 24), crop=16)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> VideoDataset:
    root = tmp_path_factory.mktemp("videos")
    records = [
        VideoRecord(write_video(root / f"{index}.avi", length), label=index % 2)
        for index, length in enumerate((9, 12, 3, 20))
    ]
    return VideoDataset(("a", "b"), tuple(records))


def test_training_clips_are_those_of_the_loader(videos: VideoDataset) -> None:
    dataset = TrainClipDataset(videos, PREP, seed=5, clips_per_video=2)
    loader = TrainLoader(videos, PREP, batch_size=8, seed=5, clips_per_video=2)
    dataset.set_epoch(3)
    ((batch,),) = loader.steps(3)
    own = sorted((clip.flatten().tolist(), label) for clip, label in dataset)
    theirs = zip(batch.clips.flatten(1).tolist(), batch.labels.tolist(), strict=True)
    assert own == sorted(theirs)
    clip, label = dataset[5]
    assert (clip.dtype, clip.shape, label) == (torch.uint8, (4, 16, 16, 3), 1)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_persistent_workers_follow_the_epoch(videos: VideoDataset, context: str) -> None:
    dataset = TrainClipDataset(videos, PREP)
    loader = DataLoader(
        dataset,
        batch_size=3,
        num_workers=1,
        persistent_workers=True,
        multiprocessing_context=context,
    )
    for epoch in (0, 4):
        dataset.set_epoch(epoch)
        clips = torch.cat([clips for clips, _ in loader])
        torch.testing.assert_close(clips, torch.stack([clip for clip, _ in dataset]))


@pytest.mark.parametrize("num_clips", [1, 3])
def test_evaluation_clips_are_those_of_the_videos(videos: VideoDataset, num_clips: int) -> None:
    dataset = EvalClipDataset(videos, PREP, num_clips=num_clips)
    ((clips, labels),) = DataLoader(dataset, batch_size=4)
    for record, video in zip(videos.records, clips, strict=True):
        with open_video(record.path) as opened:
            assert torch.equal(video, read_eval_clips(opened, PREP, num_clips))
    assert labels.tolist() == [record.label for record in videos.records]
    center = EvalClipDataset(videos, PREP)
    if num_clips == 1:
        torch.testing.assert_close(center[2][0], clips[2, 0])


def test_broken_video_and_wrong_arguments_are_errors(tmp_path: Path, videos: VideoDataset) -> None:
    bad = tmp_path / "bad.avi"
    bad.write_bytes(b"no video")
    mixed = VideoDataset(("a",), (*videos.records, VideoRecord(bad, 0)))
    for dataset in (TrainClipDataset(mixed, PREP), EvalClipDataset(mixed, PREP)):
        assert len(dataset) == 5
        with pytest.raises(BadVideoError, match=r"bad\.avi: "):
            dataset[4]
        with pytest.raises(IndexError):
            dataset[5]
    with pytest.raises(UserError, match="num_clips is 0; give 1 or more"):
        EvalClipDataset(videos, PREP, num_clips=0)
    with pytest.raises(UserError, match="flip_probability 2 from 0 to 1"):
        TrainClipDataset(videos, PREP, flip_probability=2)
