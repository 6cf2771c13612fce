"""The pipe from videos to logits: order, batches, threads, and bounds."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from p3d.errors import BadVideoError, UserError
from p3d.inference.clip_plan import ClipPlan, NumClips, plan_clips
from p3d.inference.pipe import Scored, num_threads, score_in_order
from p3d.inference.settled import clips_used, halving_order

CPU = torch.device("cpu")
WEIGHTS = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)) / 64


class LinearScorer:
    """Scores clips by a matrix, and records the sizes of its batches."""

    device = CPU

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.sizes: list[int] = []

    def __call__(self, clips: Tensor) -> Tensor:
        self.sizes.append(len(clips))
        return clips.float().mean((1, 2, 3)) @ WEIGHTS


def all_clips(video: int, num_clips: int) -> Tensor:
    generator = torch.Generator().manual_seed(video)
    return torch.randint(0, 256, (num_clips, 1, 2, 2, 3), dtype=torch.uint8, generator=generator)


class Reader:
    """Reads made-up clips; every fifth video is bad. Counts the clips that it reads."""

    def __init__(self, num_clips: int) -> None:
        self.num_clips = num_clips
        self.groups: list[tuple[int, tuple[int, ...]]] = []
        self._lock = threading.Lock()

    def __call__(self, video: int, numbers: Sequence[int]) -> tuple[Tensor, int]:
        with self._lock:
            self.groups.append((video, tuple(numbers)))
        if video % 5 == 4:
            raise BadVideoError(f"{video}.avi", "is bad")
        return all_clips(video, self.num_clips)[list(numbers)], video


def expected(video: int, plan: ClipPlan) -> Tensor:
    clips = all_clips(video, plan.num_clips)[list(plan.order)]
    logits = clips.float().mean((1, 2, 3)) @ WEIGHTS
    return logits if plan.settled is None else logits[: clips_used(logits, plan.settled)]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 12),
    st.sampled_from([1, 2, 7, 40, "auto"]),
    st.integers(1, 50),
    st.integers(0, 3),
)
def test_results_do_not_depend_on_batches_and_threads(
    videos: int, clips: NumClips, batch_size: int, threads: int
) -> None:
    scorer, plan = LinearScorer(batch_size), plan_clips(clips, 0.8, batch_size)
    results = list(score_in_order(scorer, range(videos), Reader(plan.num_clips), plan, threads))
    assert len(results) == videos
    for video, result in enumerate(results):
        if video % 5 == 4:
            assert isinstance(result, BadVideoError)
            assert str(result) == f"{video}.avi: is bad"
        else:
            assert isinstance(result, Scored)
            assert result.info == video
            torch.testing.assert_close(result.logits, expected(video, plan))
    assert max(scorer.sizes, default=1) <= batch_size


def test_batches_are_filled_across_videos_whatever_the_threads() -> None:
    found = []
    for threads in (0, 1, 3):
        scorer = LinearScorer(16)
        list(score_in_order(scorer, [0, 1, 2, 3], Reader(20), plan_clips(20, 1, 16), threads))
        found.append(scorer.sizes)
    assert found == [[16] * 5] * 3


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("clips", [20, "auto"])
def test_few_videos_are_taken_in_advance(clips: NumClips, threads: int) -> None:
    taken = 0

    def videos() -> Iterator[int]:
        nonlocal taken
        for _ in range(40):
            taken += 1
            yield 0

    scorer, plan = LinearScorer(1), plan_clips(clips, 0.8, 1)
    results = score_in_order(scorer, videos(), Reader(20), plan, threads)
    for done, _ in enumerate(results, start=1):
        assert taken <= done + 2
    assert taken == 40


def test_later_clips_are_read_only_if_they_are_needed() -> None:
    """Clips of one color settle at once; clips that differ do not."""
    reader = Reader(20)
    plan = plan_clips("auto", 1.0, 1)
    list(score_in_order(LinearScorer(1), [0], reader, plan, 1))
    assert [number for _, group in reader.groups for number in group] == list(halving_order(20))

    def read(_: int, numbers: Sequence[int]) -> tuple[Tensor, int]:
        return torch.full((len(numbers), 1, 2, 2, 3), 255, dtype=torch.uint8), len(numbers)

    scorer = LinearScorer(1)
    (result,) = score_in_order(scorer, [0], read, plan_clips("auto", 0.5, 1), 1)
    assert isinstance(result, Scored)
    assert (result.info, scorer.sizes) == (2, [1, 1])


@pytest.mark.parametrize("threads", [0, 2])
def test_other_errors_end_the_pipe_and_its_threads(threads: int) -> None:
    def read(video: int, numbers: Sequence[int]) -> tuple[Tensor, int]:
        if video == 2:
            raise UserError("no")
        return all_clips(video, 20)[list(numbers)], video

    results = score_in_order(LinearScorer(1), range(9), read, plan_clips(20, 1, 1), threads)
    with closing(results), pytest.raises(UserError, match="no"):
        list(results)
    assert not [t for t in threading.enumerate() if t.name.startswith("p3d-read")]


def test_threads_read_with_one_core_and_leave_the_others_alone() -> None:
    before, seen = torch.get_num_threads(), set()

    def read(video: int, _: Sequence[int]) -> tuple[Tensor, int]:
        seen.add(torch.get_num_threads())
        return all_clips(video, 1), video

    torch.set_num_threads(2)
    try:
        list(score_in_order(LinearScorer(1), range(9), read, plan_clips(1, 1, 1), 2))
        assert seen == {1}
        assert torch.get_num_threads() == 2
        found: list[int] = []
        new = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        new.start()
        new.join()
        assert found == [2]
    finally:
        torch.set_num_threads(before)


def test_number_of_threads_suits_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--workers -1: must be at least 0"):
        num_threads(-1, CPU)
    assert num_threads(5, CPU) == 5
    for cores, on_cpu, on_cuda in ((1, 0, 0), (2, 2, 2), (16, 2, 8)):
        monkeypatch.setattr("p3d.inference.pipe.num_cores", lambda cores=cores: cores)
        assert num_threads(None, CPU) == on_cpu
        assert num_threads(None, torch.device("cuda")) == on_cuda
