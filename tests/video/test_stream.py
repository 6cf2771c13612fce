"""Frames of a stream, compared with reading the indexed file."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch

from helpers.videos import pack, rewrite_packets, write_video
from p3d.errors import BadVideoError
from p3d.video.decode import open_video
from p3d.video.stream import Clock, file_seconds, stream_file

UNEVEN = [0, 1, 2, 5, 6, 10, 11, 12, 20, 21, 23, 24]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.avi", {}),
        ("b.avi", {"b_frames": 2}),
        ("a.mp4", {"codec": "libx264", "b_frames": 2, "fps": 30}),
        ("a.mkv", {"codec": "libx264", "times": UNEVEN, "num_frames": 12}),
        ("a.mp4", {"rotation": 90}),
        ("a.ts", {"codec": "mpeg2video", "b_frames": 2}),
    ],
)
@pytest.mark.parametrize("threads", [1, 3])
def test_frames_and_times_are_those_of_the_file(
    tmp_path: Path, name: str, options: dict[str, object], threads: int
) -> None:
    path = write_video(tmp_path / name, **{"num_frames": 30, **options})  # type: ignore[arg-type]
    with open_video(path) as video, stream_file(path, threads) as stream:
        pairs = [(time, stream.rgb(frame)) for time, frame in stream]
        assert [time for time, _ in pairs] == video.times.tolist()
        assert torch.equal(torch.cat([rgb for _, rgb in pairs]), video.read(range(len(pairs))))
        assert (stream.height, stream.width) == (video.height, video.width)
        assert not stream.clock.describe_faults()
    assert file_seconds(path) == pytest.approx(pairs[-1][0], abs=0.1)


def test_packed_frames_have_the_times_of_the_file(tmp_path: Path) -> None:
    plain = write_video(tmp_path / "plain.avi", 30, b_frames=2)
    packed = rewrite_packets(plain, tmp_path / "packed.avi", pack)
    with open_video(packed) as video, stream_file(packed) as stream:
        pairs = [(time, stream.rgb(frame)) for time, frame in stream]
        assert [time for time, _ in pairs] == pytest.approx(video.times.tolist())
        assert torch.equal(torch.cat([rgb for _, rgb in pairs]), video.read(range(len(pairs))))
        assert not stream.clock.describe_faults()


def tell(*stamps: int | None) -> tuple[list[float], Clock]:
    clock = Clock(Fraction(1, 100), 25.0)
    return [clock.tell(stamp) for stamp in stamps], clock


def test_clock_counts_from_the_first_frame() -> None:
    times, clock = tell(-4, 0, 4, 12)
    assert times == [0, 0.04, 0.08, 0.16]
    assert clock.gap == pytest.approx(0.08)
    assert clock.describe_faults() == ""


def test_clock_counts_frames_without_timestamps() -> None:
    times, clock = tell(None, None, None)
    assert times == [0, 0.04, 0.08]
    expected = "3 frames without a timestamp, counted at 25 frames per second"
    assert clock.describe_faults() == expected
    assert tell(None, None, 500, 504, None)[0] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])


def test_clock_goes_on_where_timestamps_go_back() -> None:
    times, clock = tell(100, 104, 108, 0, 4, 8)
    assert times == pytest.approx([0, 0.04, 0.08, 0.12, 0.16, 0.2])
    assert clock.describe_faults() == "timestamps went back 1 time, time goes on"
    times, clock = tell(0, 4, 90_000, 90_004)
    assert times == pytest.approx([0, 0.04, 0.08, 0.12])
    assert clock.describe_faults() == "timestamps jumped ahead 1 time, time goes on"


def test_clock_shows_the_last_of_equal_times() -> None:
    times, clock = tell(0, 4, 4, 8)
    assert times == [0, 0.04, 0.04, 0.08]
    assert clock.describe_faults() == "1 frame with the timestamp of the one before"


def test_bad_files_are_one_line(tmp_path: Path) -> None:
    empty, text = tmp_path / "empty.mp4", tmp_path / "text.mp4"
    empty.touch()
    text.write_bytes(b"no video")
    for path, reason in (
        (tmp_path / "absent.mp4", "no such file"),
        (empty, "the file is empty"),
        (text, "not a video"),
        (tmp_path, "neither a file"),
    ):
        with pytest.raises(BadVideoError, match=reason), stream_file(path):
            pass
