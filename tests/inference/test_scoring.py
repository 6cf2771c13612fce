"""Logits and probabilities of whole videos."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.videos import write_video
from p3d.data.clips import read_eval_clips
from p3d.data.dataset import VideoDataset, VideoRecord
from p3d.errors import BadVideoError, UserError
from p3d.inference.clip_plan import NumClips
from p3d.inference.scorer import Scorer, mean_probabilities
from p3d.inference.scoring import VideoScores, score_videos, write_scores
from p3d.inference.settled import clips_used, halving_order
from p3d.model.network import P3D, create_model
from p3d.preprocessing import IMAGENET
from p3d.report.record import read_predictions
from p3d.system.distributed import Group
from p3d.system.signals import Stopped, StopRequest
from p3d.video.decode import open_video

PREP = replace(IMAGENET, num_frames=4, resize=(18, 24), crop=16)
NUM_CLASSES = 3
NUM_CLIPS = 2


@pytest.fixture(scope="module")
def model() -> P3D:
    """Return an untrained network."""
    torch.manual_seed(0)
    model = create_model("p3d63", num_classes=NUM_CLASSES)
    model.preprocessing = PREP
    return model


@pytest.fixture(scope="module")
def scorer(model: P3D) -> Scorer:
    """Return a scorer of one video of two clips at a time."""
    return Scorer(model, torch.device("cpu"), batch_size=NUM_CLIPS)


@pytest.fixture(scope="module")
def unlabeled(tmp_path_factory: pytest.TempPathFactory) -> VideoDataset:
    folder = tmp_path_factory.mktemp("videos")
    paths = [write_video(folder / f"{length}.avi", length) for length in (9, 3, 20, 12, 6)]
    return VideoDataset(("a", "b", "c"), tuple(VideoRecord(path, -1) for path in paths))


@pytest.fixture(scope="module")
def scored(scorer: Scorer, unlabeled: VideoDataset) -> VideoScores:
    return score_videos(scorer, unlabeled, num_clips=NUM_CLIPS)


def with_bad_video(dataset: VideoDataset, folder: Path) -> VideoDataset:
    """Return a data set whose second video cannot be read."""
    bad = folder / "bad.avi"
    bad.write_bytes(b"no video")
    first, _, *others = dataset.records
    return replace(dataset, records=(first, VideoRecord(bad, -1), *others))


@pytest.mark.parametrize("scale", [0.1, 10.0, 1000.0])
@pytest.mark.parametrize("shape", [(0, 2, 3), (1, 1, 1), (4, 20, 9)])
def test_probabilities_are_the_mean_softmax_of_the_clips(
    shape: tuple[int, int, int], scale: float
) -> None:
    logits = scale * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    probabilities = mean_probabilities(logits)
    assert probabilities.dtype == torch.float32
    expected = logits.double().softmax(-1).mean(-2)
    torch.testing.assert_close(probabilities.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_probabilities_of_a_video_with_a_non_finite_logit_are_nan(value: float) -> None:
    logits = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    expected = mean_probabilities(logits)
    logits[1, 2, 3] = value
    labels = torch.full((3,), -1)
    found = VideoScores(logits, labels, torch.arange(3), ()).probabilities
    assert found[1].isnan().all()
    assert torch.equal(found[[0, 2]], expected[[0, 2]])


def test_unlabeled_videos_are_scored_in_order(
    scorer: Scorer, unlabeled: VideoDataset, scored: VideoScores
) -> None:
    assert scored.logits.shape == (5, NUM_CLIPS, NUM_CLASSES)
    assert scored.logits.dtype == torch.float32
    assert scored.labels.tolist() == [-1] * 5
    assert scored.indices.tolist() == list(range(5))
    assert scored.bad == ()
    for record, logits in zip(unlabeled.records, scored.logits, strict=True):
        with open_video(record.path) as video:
            assert torch.equal(logits, scorer(read_eval_clips(video, PREP, NUM_CLIPS)))
    assert torch.equal(scored.probabilities, mean_probabilities(scored.logits))


def test_each_rank_scores_its_shard(
    scorer: Scorer, unlabeled: VideoDataset, scored: VideoScores
) -> None:
    for rank in (0, 1):
        # Without a process group, a rank does not receive the scores of the other.
        shard = score_videos(scorer, unlabeled, num_clips=NUM_CLIPS, group=Group(rank, 2))
        assert shard.indices.tolist() == list(range(5))[rank::2]
        assert torch.equal(shard.logits, scored.logits[rank::2])


@pytest.mark.parametrize("clips", [1, 2, "auto"])
@pytest.mark.parametrize("count", [2, 3])
def test_scores_are_the_same_for_any_number_of_ranks(
    model: P3D, unlabeled: VideoDataset, tmp_path: Path, clips: NumClips, count: int
) -> None:
    """Ranks fill their batches with other videos, and the last one with fewer."""
    large = Scorer(model, torch.device("cpu"), batch_size=4)
    dataset = with_bad_video(unlabeled, tmp_path)

    def score(group: Group) -> VideoScores:
        return score_videos(
            large, dataset, num_clips=clips, settled=0.9, on_bad_video="skip", group=group
        )

    alone = score(Group())
    for rank in range(count):
        shard = score(Group(rank, count))
        mine = alone.indices % count == rank
        assert torch.equal(shard.indices, alone.indices[mine])
        assert torch.equal(shard.logits, alone.logits[mine])
        assert torch.equal(shard.clips_used, alone.clips_used[mine])


def test_bad_video_is_skipped_or_an_error(
    scorer: Scorer, unlabeled: VideoDataset, scored: VideoScores, tmp_path: Path
) -> None:
    dataset = with_bad_video(unlabeled, tmp_path)
    found = score_videos(scorer, dataset, num_clips=NUM_CLIPS, on_bad_video="skip")
    assert found.indices.tolist() == [0, 2, 3, 4]
    assert torch.equal(found.logits, scored.logits[[0, 2, 3, 4]])
    (line,) = found.bad
    assert line.startswith(f"{tmp_path / 'bad.avi'}: ")
    with pytest.raises(BadVideoError, match="--on-bad-video skip goes on without it"):
        score_videos(scorer, dataset, num_clips=NUM_CLIPS)
    only_bad = replace(dataset, records=dataset.records[1:2])
    with pytest.raises(UserError, match=r"none of the 1 videos could be read.*bad\.avi"):
        score_videos(scorer, only_bad, num_clips=NUM_CLIPS, on_bad_video="skip")


def test_written_scores_have_no_class_for_an_unlabeled_video(
    unlabeled: VideoDataset, tmp_path: Path
) -> None:
    """Class names that are formulas in a spreadsheet are read back as they were."""
    names = ("=1+1", "-run", "'@walk")
    dataset = replace(unlabeled, class_names=names)
    logits = torch.tensor([[[9.0, 0.0, 0.0]], [[0.0, 9.0, 0.0]]])
    labels, indices = torch.tensor([-1, 1]), torch.tensor([0, 1])
    path = tmp_path / "validation.csv"
    write_scores(path, dataset, VideoScores(logits, labels, indices, ()))
    header, first, second = path.read_text().splitlines()
    assert header == "path,class,'=1+1,'-run,''@walk,answer,result"
    assert first.split(",")[1::4] == ["", "'=1+1"]
    assert first.endswith(",")
    assert second.split(",")[1::4] == ["'-run", "'-run"]
    assert second.endswith(",right")
    read = read_predictions(path)
    assert read is not None
    assert read.class_names == names
    assert (read.labels.tolist(), read.num_damaged) == ([1], 1)


def test_written_scores_say_whether_each_answer_is_right(
    unlabeled: VideoDataset, tmp_path: Path
) -> None:
    dataset = replace(unlabeled, class_names=("a", "b", "c"))
    logits = torch.tensor([[[9.0, 0.0, 0.0]], [[0.0, 9.0, 0.0]], [[0.0, torch.nan, 0.0]]])
    labels, indices = torch.tensor([1, 1, 1]), torch.tensor([0, 1, 2])
    path = tmp_path / "scores.csv"
    write_scores(path, dataset, VideoScores(logits, labels, indices, ()))
    _, *rows = [line.split(",") for line in path.read_text().splitlines()]
    assert [row[-2:] for row in rows] == [["a", "wrong"], ["b", "right"], ["", "wrong"]]


def test_stop_request_ends_scoring(scorer: Scorer, unlabeled: VideoDataset) -> None:
    stop = StopRequest()
    stop.signal = signal.SIGTERM
    with pytest.raises(Stopped):
        score_videos(scorer, unlabeled, num_clips=NUM_CLIPS, stop=stop)


def test_non_finite_logits_are_an_error_if_strict() -> None:
    model = create_model("p3d63", num_classes=NUM_CLASSES)
    model.preprocessing = PREP
    model.fc.bias.data[1] = torch.inf
    clips = torch.zeros(2, 4, 16, 16, 3, dtype=torch.uint8)
    with pytest.raises(UserError, match="outputs are not finite in float32; check the weights"):
        Scorer(model, torch.device("cpu"))(clips)
    logits = Scorer(model, torch.device("cpu"), strict=False)(clips)
    assert logits.isfinite().tolist() == [[True, False, True]] * 2


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_threads_do_not_change_scores(
    workers: int, scorer: Scorer, unlabeled: VideoDataset, scored: VideoScores
) -> None:
    found = score_videos(scorer, unlabeled, num_clips=NUM_CLIPS, workers=workers)
    assert torch.equal(found.logits, scored.logits)
    assert found.clips_used.tolist() == [NUM_CLIPS] * 5


def test_auto_keeps_the_mean_of_the_clips_that_it_took(
    scorer: Scorer, unlabeled: VideoDataset
) -> None:
    every = score_videos(scorer, unlabeled, num_clips=20)
    found = score_videos(scorer, unlabeled, num_clips="auto", settled=0.7)
    assert found.logits.shape == (5, 1, NUM_CLASSES)
    for logits, used, probabilities in zip(
        every.logits[:, halving_order(20)], found.clips_used, found.probabilities, strict=True
    ):
        assert clips_used(logits, 0.7) == used
        expected = mean_probabilities(logits[:used])
        torch.testing.assert_close(probabilities, expected, atol=1e-5, rtol=0)


def test_numbers_out_of_range_are_errors(scorer: Scorer, unlabeled: VideoDataset) -> None:
    with pytest.raises(UserError, match="--workers -1: must be at least 0"):
        score_videos(scorer, unlabeled, num_clips=1, workers=-1)
    with pytest.raises(UserError, match="clips is 0; give 1 or more, or auto"):
        score_videos(scorer, unlabeled, num_clips=0)


MEMORY = """
import resource, sys
from pathlib import Path
import torch
from p3d.data.dataset import VideoDataset, VideoRecord
from p3d.inference.scorer import Scorer
from p3d.inference.scoring import score_videos
from p3d.model.network import P3D, create_model
from p3d.preprocessing import Preprocessing

torch.set_num_threads(1)
model = create_model("p3d63", num_classes=2)
model.preprocessing = Preprocessing(num_frames=16, resize=(112, 112), crop=112)
scorer = Scorer(model, torch.device("cpu"))
scorer._network = lambda clips: torch.zeros(len(clips), 2)
path = Path(sys.argv[1])

def score(count, clips):
    dataset = VideoDataset(("a", "b"), (VideoRecord(path, 0),) * count)
    score_videos(scorer, dataset, num_clips=clips, workers=2)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

before = score(3, 32)
print(score(30, 16) - before, score(1, 200) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit elsewhere")
def test_memory_does_not_grow_with_videos_and_their_length(tmp_path: Path) -> None:
    """30 videos of 16 clips, and a long one of 200 clips, are 276 and 115 MiB of clips."""
    path = write_video(tmp_path / "long.avi", 500, size=(64, 64))
    words = [sys.executable, "-c", MEMORY, str(path)]
    grown = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
    assert max(map(float, grown)) < 50, grown
