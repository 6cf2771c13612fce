"""Frames picked by their presentation times, compared with exact fractions and real files."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.videos import write_frames, write_video
from p3d.data.clip_dataset import TrainClipDataset
from p3d.data.clips import EvalClips, Sample, read_eval_clips
from p3d.data.dataset import VideoDataset, VideoRecord
from p3d.data.rates import assumed_rates, rate_range
from p3d.data.track import Track, track_of
from p3d.data.workers import Videos
from p3d.preprocessing import IMAGENET
from p3d.video.decode import open_video
from p3d.video.sources import FrameSource

PREP = replace(IMAGENET, num_frames=6, resize=(48, 60), crop=40)
MILLISECOND = Fraction(1, 1000)


def video_of(times: list[Fraction], rate: float = 25.0) -> Any:
    """Return what a track reads of a video."""
    video = SimpleNamespace(times=np.array(list(map(float, times))), fps=rate)
    video.num_frames = len(times)
    video.duration = FrameSource.duration.fget(video)  # type: ignore[attr-defined]
    return video


def exact_frames(times: list[Fraction], fps: Fraction) -> list[int]:
    """Return the frame of every step: the last one at most a millisecond after its instant."""
    mean = times[-1] / (len(times) - 1) if len(times) > 1 else Fraction(1, 25)
    end = times[-1] + mean - min(MILLISECOND, Fraction(1, 2) / fps)
    frames, step = [], 0
    while step == 0 or step / fps < end:
        shown = [n for n, time in enumerate(times) if time <= step / fps + MILLISECOND]
        frames.append(shown[-1])
        step += 1
    return frames


BASES = st.sampled_from([1, 12, 25, 30, 50, 90, 600, 1000, 12800, 90000])


@given(
    BASES,
    st.lists(st.integers(1, 100), max_size=9),
    st.sampled_from([Fraction(n) for n in (1, 8, 12, 25, 30, 60)] + [Fraction(25, 2)]),
)
def test_tracks_of_variable_rates_are_exact(base: int, gaps: list[int], fps: Fraction) -> None:
    stamps = np.cumsum([0, *gaps]).tolist()
    times = [Fraction(stamp * (1001 if base == 30 else 1), base * 400) for stamp in stamps]
    track = track_of(video_of(times), float(fps))
    expected = exact_frames(times, fps)
    assert track.length == len(expected)
    assert track.frames(np.arange(track.length)).tolist() == expected


@given(st.integers(1, 60), st.integers(1, 500), st.sampled_from(["exact", "milliseconds"]))
def test_the_rate_of_the_video_gives_each_frame_once(count: int, fps: int, clock: str) -> None:
    times = [Fraction(number, fps) for number in range(count)]
    if clock == "milliseconds" and fps <= 300:
        times = [Fraction(round(1000 * time), 1000) for time in times]
    track = track_of(video_of(times, fps), fps)
    assert track.length == count
    assert track.frames(np.arange(count)).tolist() == list(range(count))
    assert np.allclose(track.seconds(np.arange(count)), np.arange(count) / fps)


@given(st.integers(2, 40), st.sampled_from([10, 25, 50]), st.integers(1, 3))
def test_rates_of_whole_ratios(count: int, fps: int, ratio: int) -> None:
    times = [Fraction(number, fps) for number in range(count)]
    repeated = track_of(video_of(times, fps), fps * ratio)
    steps = np.arange(repeated.length)
    assert repeated.frames(steps).tolist() == [n for n in range(count) for _ in range(ratio)]
    fast = [Fraction(number, fps * ratio) for number in range(count * ratio)]
    dropped = track_of(video_of(fast, fps * ratio), fps)
    assert dropped.frames(np.arange(count)).tolist() == list(range(0, count * ratio, ratio))


def test_a_native_track_is_the_video() -> None:
    track = track_of(video_of([Fraction(n, 25) for n in range(9)]), None)
    assert (track.length, track.frames(np.arange(9)).tolist()) == (9, list(range(9)))
    assert track.from_frame(4).frames(np.arange(5)).tolist() == [4, 5, 6, 7, 8]
    assert track.from_frame(4).length == 5


def test_a_part_of_a_track_begins_with_a_frame() -> None:
    track = track_of(video_of([Fraction(n, 50) for n in range(50)], 50), 25.0)
    part = track.from_frame(20)
    assert part.frames(np.arange(part.length)).tolist() == list(range(20, 50, 2))


def test_absurd_times_take_no_memory() -> None:
    track = Track(np.array([0.0, 1e12]), 10**15, fps=500.0)
    assert track.frames(np.array([0, 10**15 - 1])).tolist() == [0, 1]


def eval_clips(path: Path, fps: float | None, count: int = 3) -> torch.Tensor:
    with open_video(path) as video:
        return read_eval_clips(video, replace(PREP, fps=fps), count)


@pytest.mark.parametrize("suffix", ["avi", "mp4", "mkv"])
@pytest.mark.parametrize("rate", [25, 30])
def test_the_own_rate_of_a_file_changes_no_byte(tmp_path: Path, suffix: str, rate: int) -> None:
    path = write_video(tmp_path / f"a.{suffix}", 31, fps=rate)
    assert torch.equal(eval_clips(path, rate), eval_clips(path, None))
    dataset = VideoDataset(("a",), (VideoRecord(path, 0),))
    native, timed = (TrainClipDataset(dataset, replace(PREP, fps=fps)) for fps in (None, rate))
    for epoch in range(4):
        native.set_epoch(epoch)
        timed.set_epoch(epoch)
        assert torch.equal(native[0][0], timed[0][0]), "draws are those of native clips"


# The picture of a motion after n / 50 s, at several rates. Lossless, so that bytes can be compared.
RATES: dict[str, dict[str, Any]] = {
    "half": {"rate": 25, "shown": range(0, 48, 2)},
    "quarter": {"rate": 12.5, "shown": range(0, 48, 4)},
    "uneven": {"rate": 50, "shown": [*range(12), *range(12, 24, 2), *range(24, 48, 4)]},
}


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_clips_show_the_same_motion_at_all_rates(tmp_path: Path, name: str, suffix: str) -> None:
    lossless = {"codec": "libx264", "pix_fmt": "yuv444p", "options": {"qp": "0"}, "fps": 50}
    whole = write_video(tmp_path / f"whole.{suffix}", 48, **lossless)
    shown = list(RATES[name]["shown"])
    part = write_some(tmp_path / f"part.{suffix}", shown, **lossless)
    fps = 12.5 if name != "half" else 25.0
    assert torch.equal(eval_clips(part, fps, 1), eval_clips(whole, fps, 1))


def write_some(path: Path, shown: list[int], **options: Any) -> Path:
    """Write the pictures `shown`, each at its own time."""
    return write_video(path, len(shown), times=shown, numbers=shown, **options)


def test_a_phone_at_60_shows_the_motion_of_a_camera_at_25(tmp_path: Path) -> None:
    lossless = {"codec": "libx264", "pix_fmt": "yuv444p", "options": {"qp": "0"}}
    fast = write_video(tmp_path / "fast.mp4", 60, fps=60, **lossless)
    # At 25 frames a second, instant k shows the picture number floor(60 k / 25) of the fast one.
    shown = [60 * k // 25 for k in range(25)]
    slow = write_video(tmp_path / "slow.mp4", 25, fps=25, numbers=shown, **lossless)
    assert torch.equal(eval_clips(fast, 25.0), eval_clips(slow, 25.0))
    assert not torch.equal(eval_clips(fast, None), eval_clips(slow, None))


def test_a_folder_of_frames_has_the_listed_rate(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "frames", 30)

    def sample(rate: float | None) -> Sample:
        dataset = VideoDataset(("a",), (VideoRecord(folder, 0, fps=rate),))
        found = EvalClips(Videos(dataset), replace(PREP, fps=25.0), 2)[0]
        assert isinstance(found, Sample)
        return found

    assert (sample(50.0).length, sample(None).length, sample(25.0).length) == (15, 30, 30)
    assert torch.equal(sample(None).clips, sample(25.0).clips)
    assert sample(50.0).times == (0.0, 9 / 25)
    dataset = VideoDataset(("a",), (VideoRecord(folder, 0), VideoRecord(folder, 0, fps=10.0)))
    [line] = assumed_rates(dataset, replace(PREP, fps=25.0))
    assert line.startswith("NO RATE: 1 folder of frames taken as 25 a second; give --frame-rate")
    assert assumed_rates(dataset, PREP) == []


def test_range_of_rates(tmp_path: Path) -> None:
    files = [write_video(tmp_path / f"{fps}.avi", 3, fps=fps) for fps in (30, 12, 50)]
    listed = [VideoRecord(path, 0, fps=fps) for path, fps in zip(files, (30, 15, 24), strict=True)]
    assert rate_range(listed) == (15, 24 + 6)
    opened = [*listed[:1], *(replace(record, fps=None) for record in listed[1:])]
    assert rate_range(opened) == (12, 50)
    folder = write_frames(tmp_path / "frames", 3)
    assert rate_range([VideoRecord(folder, 0), VideoRecord(tmp_path / "none.avi", 0)]) is None
