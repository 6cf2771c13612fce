"""Presentation times, compared with the timestamps of PyAV's decoder."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from helpers.videos import picture, write_video
from p3d.data.sampling import frames_at
from p3d.video.decode import open_video
from p3d.video.video_index import PacketInfo, presentation_times

UNEVEN = [0, 1, 2, 5, 6, 10, 11, 12, 20, 21, 23, 24]


def decoded_times(path: Path) -> NDArray[np.float64]:
    with av.open(str(path)) as container:
        stamps = [frame.pts for frame in container.decode(video=0)]
        base = container.streams.video[0].time_base
    assert base is not None
    return np.array([float((stamp - stamps[0]) * base) for stamp in stamps])


def times_of(path: Path) -> NDArray[np.float64]:
    with open_video(path) as video:
        assert video.times.shape == (video.num_frames,)
        assert video.times.dtype == np.float64
        return video.times


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize("times", [None, UNEVEN])
def test_times_are_those_of_a_decode(
    tmp_path: Path, suffix: str, b_frames: int, times: list[int] | None
) -> None:
    path = tmp_path / f"walk.{suffix}"
    write_video(path, len(UNEVEN), codec="libx264", b_frames=b_frames, gop=6, times=times)
    found = times_of(path)
    assert np.array_equal(found, decoded_times(path))
    expected = np.array(range(len(UNEVEN)) if times is None else times) / 25
    assert np.allclose(found, expected, atol=0.001)


@pytest.mark.parametrize("b_frames", [0, 2])
def test_times_of_avi_follow_from_its_rate(tmp_path: Path, b_frames: int) -> None:
    path = write_video(tmp_path / "walk.avi", 12, b_frames=b_frames, fps=30)
    assert np.allclose(times_of(path), np.arange(12) / 30)


def test_a_folder_of_frames_has_the_assumed_rate(tmp_path: Path) -> None:
    for number in range(3):
        Image.fromarray(picture(number)).save(tmp_path / f"{number}.png")
    assert np.array_equal(times_of(tmp_path), np.arange(3) / 25)


def test_matroska_at_its_own_rate_shows_each_frame_once(tmp_path: Path) -> None:
    path = write_video(tmp_path / "walk.mkv", 40, codec="libx264", fps=30)
    times = times_of(path)
    for start in range(10):
        window = frames_at(times, times[start], 16, 30)
        assert window.tolist() == list(range(start, start + 16))


@pytest.mark.parametrize(
    ("stamps", "usable"),
    [
        ([0, 2, 3], True),
        ([7, 9, 12], True),
        ([0, 2, 2], False),
        ([0, 3, 2], False),
        ([0, None, 2], False),
        ([0, 1, 2**62], False),
        ([-(2**62), 0, 2**62], False),
    ],
)
def test_unusable_timestamps_are_not_used(stamps: list[int | None], usable: bool) -> None:
    packets = [PacketInfo(stamp, None, None, True, False, True, ()) for stamp in stamps]
    found = presentation_times(packets, np.arange(3, dtype=np.int32), Fraction(1, 4))
    if not usable:
        assert found is None
        return
    assert found is not None
    known = [stamp for stamp in stamps if stamp is not None]
    assert found.tolist() == [(stamp - known[0]) / 4 for stamp in known]
