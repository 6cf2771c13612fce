"""Batches of training clips, clips of evaluation, their worker processes, and bad videos."""

from __future__ import annotations

import itertools
import math
import os
import pickle
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.videos import number_of, write_frames, write_video
from p3d.data import clips
from p3d.data import track as track_module
from p3d.data.dataset import VideoDataset, VideoRecord
from p3d.data.loader import Batch, TrainLoader
from p3d.data.sampling import uniform_windows
from p3d.data.workers import Videos
from p3d.errors import BadVideoError, UserError
from p3d.preprocessing import IMAGENET
from p3d.system.distributed import Group

PREP = replace(IMAGENET, num_frames=4, frame_stride=2, resize=(64, 80), crop=64)
SMALL = replace(IMAGENET, num_frames=4, resize=(18, 24), crop=16)
LENGTHS = (9, 12, 3, 20, 15, 8, 30)

# On a machine with few cores torch warns about four workers.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> VideoDataset:
    root = tmp_path_factory.mktemp("videos")
    records = [
        VideoRecord(write_video(root / f"ä {index}.avi", length), label=index % 3)
        for index, length in enumerate(LENGTHS)
    ]
    return VideoDataset(("a", "b", "c"), tuple(records))


@pytest.fixture(scope="module")
def with_bad(dataset, tmp_path_factory) -> VideoDataset:
    bad = tmp_path_factory.mktemp("bad") / "bad.avi"
    bad.write_bytes(b"no video")
    records = [*dataset.records[:2], VideoRecord(bad, 1), *dataset.records[2:4]]
    return VideoDataset(dataset.class_names, tuple(records))


def train(dataset, prep=SMALL, **options) -> TrainLoader:
    return TrainLoader(dataset, prep, **{"batch_size": 2, "seed": 5} | options)


def batches_of(loader: TrainLoader, epoch: int = 0, start_step: int = 0) -> Iterator[Batch]:
    """Yield the batches of all steps of an epoch."""
    return itertools.chain.from_iterable(loader.steps(epoch, start_step))


def assert_equal(actual: list[Batch], expected: list[Batch]) -> None:
    assert len(actual) == len(expected)
    for first, second in zip(actual, expected, strict=True):
        assert first.bad == second.bad
        for tensor, expected_tensor in zip(first[:3], second[:3], strict=True):
            assert tensor.dtype == expected_tensor.dtype
            assert torch.equal(tensor, expected_tensor)


def frame_numbers(clip: torch.Tensor) -> list[int]:
    """Return the frame numbers that a center-cropped clip shows, without the outer bits."""
    wide = torch.zeros((len(clip), 64, 80, 3), dtype=torch.uint8)
    wide[:, :, 8:72] = clip
    return [number_of(frame) for frame in wide]


def visible(number: int) -> int:
    # The center crop cuts off the lowest and the highest bit of the bar code.
    return number & ~1


def test_training_batches_have_the_documented_shapes(dataset):
    batches = list(batches_of(train(dataset), 0))
    assert len(batches) == train(dataset).steps_per_epoch == 3
    for batch in batches:
        assert batch.clips.shape == (2, 4, 16, 16, 3)
        assert batch.clips.dtype == torch.uint8
        assert batch.clips.is_contiguous()
        assert batch.labels.dtype == batch.indices.dtype == torch.int64
        assert batch.labels.tolist() == [index % 3 for index in batch.indices.tolist()]
        assert batch.bad == ()
    indices = torch.cat([batch.indices for batch in batches]).tolist()
    assert len(set(indices)) == 6, "each video once, except the one that fills no batch"


@pytest.mark.parametrize("workers", [1, 4])
def test_workers_do_not_change_training_batches(dataset, workers):
    expected = train(dataset, clips_per_video=2)
    loader = train(dataset, clips_per_video=2, workers=workers)
    for epoch in range(2):
        assert_equal(list(batches_of(loader, epoch)), list(batches_of(expected, epoch)))


def test_spawned_workers_load_the_same_batches(dataset):
    """Windows and macOS spawn processes, so that all that a worker needs is pickled."""
    expected = list(batches_of(train(dataset)))
    method = torch.multiprocessing.get_start_method()
    torch.multiprocessing.set_start_method("spawn", force=True)
    try:
        loader = train(dataset, workers=1)
        assert_equal(list(batches_of(loader)), expected)
    finally:
        torch.multiprocessing.set_start_method(method, force=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_epoch_can_start_at_any_step_and_be_abandoned(dataset, workers):
    whole = list(batches_of(train(dataset, clips_per_video=3), 1))
    assert len(whole) == 10
    loader = train(dataset, clips_per_video=3, workers=workers)
    for _, batch in zip(range(2), batches_of(loader, 0), strict=False):
        assert len(batch.labels) == 2
    for start in (4, 9, 10):
        assert_equal(list(batches_of(loader, 1, start)), whole[start:])


def test_skipped_steps_are_not_decoded(dataset, monkeypatch):
    opened = count_opened(monkeypatch)
    list(batches_of(train(dataset), 0, start_step=2))
    assert sum(opened.values()) == 2


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_divide_the_batches_of_one_process(dataset, world_size):
    options = {"clips_per_video": 4, "seed": 1}
    whole = list(batches_of(train(dataset, batch_size=2 * world_size, **options), 3))
    ranks = [
        list(batches_of(train(dataset, group=Group(rank, world_size), **options), 3))
        for rank in range(world_size)
    ]
    assert {len(batches) for batches in ranks} == {len(whole)}
    for shards, batch in zip(zip(*ranks, strict=True), whole, strict=True):
        for rank, shard in enumerate(shards):
            assert torch.equal(shard.indices, batch.indices[rank::world_size])
            assert torch.equal(shard.clips, batch.clips[rank::world_size])


def test_clips_differ_between_epochs_and_between_seeds(dataset):
    first, second = (list(batches_of(train(dataset), epoch)) for epoch in (0, 1))
    other = list(batches_of(train(dataset, seed=6), 0))
    for batches in (second, other):
        assert any(not torch.equal(a.clips, b.clips) for a, b in zip(first, batches, strict=True))


def test_training_clips_are_windows_of_consecutive_frames(dataset):
    prep = replace(PREP, resize=(64, 64), num_frames=4)
    loader = train(dataset, prep, augmentation="random-crop", flip_probability=0.0, batch_size=1)
    for batch in batches_of(loader, 0):
        last = LENGTHS[int(batch.indices)] - 1
        found = [number_of(frame) for frame in batch.clips[0]]
        assert found == [min(found[0] + 2 * step, last) for step in range(4)]


def test_clips_of_a_video_show_different_windows(dataset):
    prep = replace(PREP, resize=(64, 64), num_frames=1)
    options = {"augmentation": "random-crop", "flip_probability": 0.0, "clips_per_video": 12}
    windows: dict[int, list[int]] = {}
    for batch in batches_of(train(dataset, prep, batch_size=1, **options), 0):
        windows.setdefault(int(batch.indices), []).append(number_of(batch.clips[0, 0]))
    assert {len(starts) for starts in windows.values()} == {12}
    assert all(len(set(starts)) > 1 for starts in windows.values())


def test_fewer_clips_than_the_batch_size_form_one_batch(dataset):
    (batch,) = batches_of(train(dataset, batch_size=100), 0)
    assert sorted(batch.indices.tolist()) == list(range(7))
    shards = [
        next(batches_of(train(dataset, batch_size=100, group=Group(rank, 2)), 0)) for rank in (0, 1)
    ]
    assert [len(shard.labels) for shard in shards] == [4, 3]
    with pytest.raises(UserError, match="7 training clips are too few for 8 processes"):
        train(dataset, group=Group(0, 8))


def test_loading_does_not_use_the_global_generator(dataset):
    before = torch.random.get_rng_state()
    list(batches_of(train(dataset), 0))
    assert torch.equal(torch.random.get_rng_state(), before)


def count_opened(monkeypatch) -> Counter[Path]:
    opened: Counter[Path] = Counter()
    open_video = track_module.open_video

    @contextmanager
    def counting(path, **options):
        opened[path] += 1
        with open_video(path, **options) as video:
            yield video

    monkeypatch.setattr(track_module, "open_video", counting)
    return opened


def test_evaluation_reads_uniform_windows_and_opens_each_video_once(dataset, monkeypatch):
    opened = count_opened(monkeypatch)
    read = clips.EvalClips(Videos(dataset), PREP, 5)
    for index, length in enumerate(LENGTHS):
        sample = read[index]
        assert sample.clips.shape == (5, 4, 64, 64, 3)
        assert sample.clips.is_contiguous()
        assert (sample.video, sample.label) == (index, index % 3)
        expected = uniform_windows(length, 4, 2, 5)
        assert sample.starts == tuple(expected[:, 0].tolist())
        assert sample.times == tuple(start / 25 for start in sample.starts)
        assert sample.length == length
        assert [frame_numbers(clip) for clip in sample.clips] == [
            [visible(number) for number in window] for window in expected.tolist()
        ]
    assert opened == {record.path: 1 for record in dataset.records}


def test_the_frame_rate_of_a_folder_of_frames_is_unknown(tmp_path):
    record = VideoRecord(write_frames(tmp_path / "frames", 9), 0)
    sample = clips.EvalClips(Videos(VideoDataset(("a",), (record,))), PREP, 2)[0]
    assert all(map(math.isnan, sample.times))
    assert len(sample.starts) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_video_raises_a_one_line_error(with_bad, workers):
    path = with_bad.records[2].path
    with pytest.raises(BadVideoError) as caught:
        list(batches_of(train(with_bad, workers=workers)))
    assert caught.value.path == path
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    assert "\n" not in str(caught.value)
    del caught  # a loader among cyclic garbage waits 5 s for each of its workers


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_video_can_be_skipped(with_bad, workers):
    options = {"workers": workers, "on_bad_video": "skip", "batch_size": 5}
    (batch,) = batches_of(train(with_bad, **options))
    assert sorted(batch.indices.tolist()) == [0, 1, 3, 4]
    assert len(batch.clips) == len(batch.labels) == 4
    (line,) = batch.bad
    assert line.startswith(f"{with_bad.records[2].path}: ")


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_bad_video_of_several_clips_is_reported_once_an_epoch(with_bad, world_size):
    options = {"on_bad_video": "skip", "clips_per_video": 4, "clips_per_step": 5}
    for epoch in range(3):
        batches = [
            batch
            for rank in range(world_size)
            for batch in batches_of(
                train(with_bad, group=Group(rank, world_size), **options), epoch
            )
        ]
        assert sum(len(batch.labels) for batch in batches) == 4 * 4
        assert sum(len(batch.bad) for batch in batches) == 1


def test_batch_of_only_bad_videos_is_empty(with_bad):
    bad = replace(with_bad, records=with_bad.records[2:3])
    (batch,) = batches_of(train(bad, on_bad_video="skip"), 0)
    assert batch.clips.shape == (0, 4, 16, 16, 3)
    assert batch.clips.dtype == torch.uint8
    assert batch.labels.shape == batch.indices.shape == (0,)
    assert batch.labels.dtype == batch.indices.dtype == torch.int64
    assert len(batch.bad) == 1


def test_loaders_can_be_sent_to_spawned_workers(dataset):
    # From Python 3.14 on, new processes are not forks by default and receive pickled arguments.
    loader = train(dataset)
    videos = pickle.loads(pickle.dumps(loader._loader.dataset)).videos
    assert [videos.path(index) for index in range(7)] == [r.path for r in dataset.records]
    pickle.dumps(loader._loader.collate_fn)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "--batch-size 0: must be at least 1"),
        ({"workers": -1}, "--workers -1: must be at least 0"),
    ],
)
def test_sizes_out_of_range_are_rejected(dataset, options, message):
    with pytest.raises(UserError, match=message):
        train(dataset, **options)


def test_other_values_out_of_range_are_rejected(dataset):
    for options in ({"clips_per_video": 0}, {"seed": -1}, {"flip_probability": 1.5}):
        with pytest.raises(UserError, match=r"clips_per_video .* at least 1, seed .* from 0 to 1"):
            train(dataset, **options)


SCRIPT = """
import pickle, signal, sys, time
from p3d.data.loader import TrainLoader

dataset, prep = pickle.load(open(sys.argv[1], "rb"))
loader = TrainLoader(dataset, prep, batch_size=1, seed=0, clips_per_video=6, workers=2)
batches = loader.steps(0)
next(batches), next(batches)  # one from each worker, so both have started
received = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: received.append(number))
print("ready", flush=True)
while len(received) < 2:
    time.sleep(0.01)
if sys.argv[2] == "finish":
    print(2 + len(list(batches)), sorted(received))
else:
    sys.leaked = batches, loader  # survives the interpreter's own cleanup
"""


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="this system has no sigwaitinfo")
@pytest.mark.parametrize(("then", "output"), [("finish", "42 [2, 15]\n"), ("exit", "")])
def test_workers_ignore_signals_and_exit_with_their_parent(dataset, tmp_path, then, output):
    arguments = tmp_path / "arguments"
    arguments.write_bytes(pickle.dumps((dataset, SMALL)))
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(arguments), then],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            os.killpg(process.pid, signal.SIGINT)
            os.killpg(process.pid, signal.SIGTERM)
            assert process.communicate(timeout=900) == (output, "")
            assert process.returncode == 0
        finally:
            process.kill()
