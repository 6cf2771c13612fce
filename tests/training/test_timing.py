"""Estimates of a run's time; the times are injected, none is asserted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.runs import TINY, options, tiny_run
from p3d.data.dataset import VideoDataset, VideoRecord
from p3d.data.loader import TrainLoader
from p3d.preprocessing import Preprocessing
from p3d.system.text import format_duration
from p3d.training.console import frames_seen, step_text
from p3d.training.progress import Progress
from p3d.training.state import TrainState
from p3d.training.timing import TIMED_STEPS, RunTime, Stopwatch
from p3d.training.train import run

pytestmark = pytest.mark.usefixtures("narrow_networks")


@pytest.fixture(scope="module")
def state(sample: Path) -> TrainState:
    """Return the state of a run of 10 steps of 8 clips in 5 epochs."""
    return tiny_run(sample, replace(TINY, epochs=5))[0]


def stopwatch(state: TrainState, workers: int = 0, videos: int = 0) -> Stopwatch:
    prep = Preprocessing(num_frames=4, resize=(20, 20), crop=16)
    loader = TrainLoader(state.dataset, prep, batch_size=8, seed=1)
    return Stopwatch(loader, workers, videos, clips=2)


def test_slow_first_step_does_not_count(state: TrainState) -> None:
    watch = stopwatch(state)
    assert watch.rest(state) is None
    for seconds in (60.0, 2.0, 3.0, 4.0):
        watch.add_step(seconds, 0.0)
    assert watch.rest(state) == RunTime(3.0, 10, 0.0, 0, 0)


def test_validations_are_a_third_of_a_training_step_until_they_are_timed(state: TrainState) -> None:
    watch = stopwatch(state, videos=12)
    for _ in range(3):
        watch.add_step(4.0, 0.0)
    rest = watch.rest(state)
    assert rest is not None
    assert rest.validation == pytest.approx(4.0 / 8 / 3 * 12 * 2)
    assert str(rest) == "about 60 s: 4 s a step, 10 steps, 5 validations of 12 videos"
    watch.add_validation(7.0)
    resumed = replace(state, progress=Progress(epoch=3, step_in_epoch=1, step=7))
    rest = watch.rest(resumed)
    assert rest is not None
    assert rest.seconds == pytest.approx(3 * 4.0 + 2 * 7.0)


def test_slow_loader_shows_before_its_prepared_batches_are_used(state: TrainState) -> None:
    """Two workers need 6 s for their first two batches, and a step takes 1 s."""
    watch = stopwatch(state, workers=2)
    watch.add_step(7.0, 6.0)
    for _ in range(TIMED_STEPS - 1):
        watch.add_step(1.0, 0.0)
    assert watch.is_settled
    assert watch.step == pytest.approx(3.0)
    for _ in range(10):
        watch.add_step(2.0, 1.0)
    assert watch.step < 3.0


def test_one_slow_step_is_enough(state: TrainState) -> None:
    watch = stopwatch(state)
    assert not watch.is_settled
    watch.add_step(21.0, 0.0)
    assert watch.is_settled


@settings(deadline=None, max_examples=30)
@given(times=st.lists(st.floats(0.01, 100), min_size=2, max_size=90))
def test_step_is_the_mean_of_all_but_the_first(state: TrainState, times: list[float]) -> None:
    watch = stopwatch(state)
    for seconds in times:
        watch.add_step(seconds, 0.0)
    assert watch.step == pytest.approx(sum(times[1:]) / len(times[1:]))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (99.4, "99 s"),
        (99.6, "2 min"),
        (3569, "59 min"),
        (3571, "1 h 0 min"),
        (7800, "2 h 10 min"),
        (3 * 86400 + 4 * 3600, "3 d 4 h"),
    ],
)
def test_durations_in_plain_words(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_step_text_begins_with_the_time_of_the_run() -> None:
    progress = Progress(clips=10, loss=15.0, top1=5)
    values = {"clips_per_second": 5.2, "data_wait": 0.1, "lr": 0.01, "memory_mib": 99.0}
    text = step_text(progress, values, RunTime(3.1, 2400, 6.0, 60, 300))
    assert text.startswith("run 2 h 10 min left, loss 1.500, top-1 50.0%, 5.2 clips/s, ")
    assert step_text(progress, values, None).startswith("loss 1.500")


def test_frames_that_an_epoch_sees() -> None:
    recipe = replace(TINY, num_frames=4, clips_per_video=2)
    records = tuple(VideoRecord(Path("a"), 0, num_frames=n) for n in (4, 76))
    assert frames_seen(VideoDataset(("a",), records), recipe) == pytest.approx(12 / 80)
    unknown = VideoDataset(("a",), (*records, VideoRecord(Path("b"), 0)))
    assert frames_seen(unknown, recipe) is None


def test_run_tells_its_time_and_leaves_out_top5_of_few_classes(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = replace(TINY, epochs=3)
    assert run(options(sample, tmp_path, recipe)) == 0
    output = capsys.readouterr().out
    assert "time left: about" in output
    assert "2 steps, 2 validations of 8 videos" in output
    assert "top-5" not in output
