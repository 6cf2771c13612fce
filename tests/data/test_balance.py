"""Balanced order of training clips, and weights of classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from helpers.videos import write_video
from p3d.data.balance import balanced_order, class_weights
from p3d.data.dataset import VideoDataset, VideoRecord
from p3d.data.loader import TrainLoader
from p3d.data.sampler import StepSampler
from p3d.preprocessing import Preprocessing

LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=12)


@given(labels=LABELS, num_clips=st.integers(1, 40), seed=st.integers(0, 9))
def test_classes_and_their_videos_are_drawn_equally_often(
    labels: list[int], num_clips: int, seed: int
) -> None:
    order = balanced_order(np.array(labels), num_clips, seed, epoch=4)
    assert order.shape == (num_clips,)
    videos = order % len(labels)
    classes = sorted(set(labels))
    counts = [sum(labels[video] == label for video in videos) for label in classes]
    assert max(counts) - min(counts) <= 1
    for label in classes:
        members = [video for video, own in enumerate(labels) if own == label]
        drawn = [int((videos == video).sum()) for video in members]
        assert max(drawn) - min(drawn) <= 1
    for video in set(videos.tolist()):
        draws = order[videos == video] // len(labels)
        assert draws.tolist() == list(range(len(draws)))


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    labels = np.array([0] * 20 + [1] * 5)
    first = balanced_order(labels, 25, 1, 0)
    np.testing.assert_array_equal(first, balanced_order(labels, 25, 1, 0))
    assert (first != balanced_order(labels, 25, 1, 1)).any()
    assert (first != balanced_order(labels, 25, 2, 0)).any()
    rare = [(balanced_order(labels, 25, 1, epoch) % 25 >= 20).sum() for epoch in range(200)]
    assert set(rare) == {12, 13}
    assert 12.3 < np.mean(rare) < 12.7


@given(
    labels=LABELS,
    per_step=st.integers(1, 20),
    batch_size=st.integers(1, 9),
    world_size=st.integers(1, 4),
    start=st.integers(0, 2),
)
def test_ranks_and_restarts_do_not_change_the_steps(
    labels: list[int], per_step: int, batch_size: int, world_size: int, start: int
) -> None:
    def sampler(rank: int, ranks: int, size: int) -> StepSampler:
        made = StepSampler(
            2 * len(labels),
            clips_per_step=per_step,
            batch_size=size,
            seed=3,
            rank=rank,
            world_size=ranks,
            labels=np.array(labels),
        )
        made.epoch = 2
        return made

    whole = list(sampler(0, 1, 100))
    ranks = [sampler(rank, world_size, batch_size) for rank in range(world_size)]
    for each in ranks:
        each.start_step = min(start, each.steps_per_epoch)
    rest = whole[ranks[0].start_step :]
    found = [clip for each in ranks for batch in each for clip in batch]
    assert sorted(found) == sorted(clip for batch in rest for clip in batch)


def test_a_rare_class_fills_half_of_the_clips(tmp_path: Path) -> None:
    good = [write_video(tmp_path / f"{number}.avi", 4) for number in range(5)]
    bad = tmp_path / "bad.avi"
    bad.write_bytes(b"no video")
    records = [VideoRecord(path, int(path == good[-1])) for path in good] + [VideoRecord(bad, 1)]
    loader = TrainLoader(
        VideoDataset(("many", "few"), tuple(records)),
        Preprocessing(num_frames=2, resize=(18, 24), crop=16),
        batch_size=24,
        seed=0,
        clips_per_video=4,
        balance=True,
        on_bad_video="skip",
    )
    [[batch]] = loader.steps(0)
    assert np.bincount(batch.labels).tolist() == [12, 6]
    assert np.bincount(batch.indices).tolist() == [3, 3, 3, 3, 6]
    assert len(batch.bad) == 1, "six clips of the broken video, one line"
    clips = batch.clips[batch.indices == 4]
    assert len({clip.numpy().tobytes() for clip in clips}) > 1, "all draws are the same clip"


@given(labels=LABELS)
def test_weights_give_every_class_the_same_sum(labels: list[int]) -> None:
    weights = class_weights(np.array(labels), 8)
    sums = np.bincount(labels, weights[labels], minlength=8)
    present = sums[sorted(set(labels))]
    np.testing.assert_allclose(present, len(labels) / len(present))
    assert weights.shape == (8,)
    assert not weights[6:].any()
