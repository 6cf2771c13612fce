"""A file reads the same in the open that indexes it, in later ones, and in a full decode."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.hostile import whole
from helpers.videos import cut_at_key_frame, number_of, write_video
from p3d.errors import BadVideoError
from p3d.video.decode import open_video
from p3d.video.index_cache import INDICES

X264 = {"codec": "libx264", "b_frames": 3, "gop": 10}
OPEN_GOP = {**X264, "options": {"x264-params": "open-gop=1"}}
X265 = {
    "codec": "libx265",
    "b_frames": 3,
    "gop": 10,
    "options": {"x265-params": "log-level=none:open-gop=1:pools=none"},
}


def cut(name: str, **arguments: Any) -> Callable[[Path], Path]:
    """Return a function that writes a video cut at its second key frame."""

    def make(path: Path) -> Path:
        source = write_video(path.with_name(f"whole-{name}"), 32, **arguments)
        return cut_at_key_frame(source, path)

    return make


def short(count: int, **arguments: Any) -> Callable[[Path], Path]:
    """Return a function that writes a video of a few frames."""
    return lambda path: write_video(path, count, **arguments)


KINDS: dict[str, Callable[[Path], Path]] = {
    "mpeg4-cut.avi": cut("a.avi", b_frames=2),
    "mpeg4-cut.mp4": cut("a.mp4", b_frames=2),
    "h264-cut.mp4": cut("a.mp4", **X264),
    "h264-open-gop-cut.mp4": cut("a.mp4", **OPEN_GOP),
    "h264-open-gop-cut.mkv": cut("a.mkv", **OPEN_GOP),
    "h264-open-gop-cut.ts": cut("a.ts", **OPEN_GOP),
    "hevc-open-gop-cut.mp4": cut("a.mp4", **X265),
    "hevc-open-gop-cut.mkv": cut("a.mkv", **X265),
    "one.h264": short(1, **X264),
    "two.h264": short(2, **X264),
    "one.hevc": short(1, **X265),
    "two.hevc": short(2, **X265),
    "one.m4v": short(1),
    "two.m4v": short(2, b_frames=1),
    "two.m2v": short(2, codec="mpeg2video"),
    "two.mjpeg": short(2, codec="mjpeg", pix_fmt="yuvj420p"),
    "vc2.mkv": short(6, codec="vc2", pix_fmt="yuv422p", options={"b": "5000000"}),
    "vc2.mov": short(6, codec="vc2", pix_fmt="yuv422p", options={"b": "5000000"}),
    "vc2.drc": short(6, codec="vc2", pix_fmt="yuv422p", options={"b": "5000000"}),
}


def decode_all(path: Path) -> NDArray[np.uint8]:
    """Return all frames of a file, damaged or not, by one decoder from start to end."""
    frames: list[NDArray[np.uint8]] = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for packet in [*(p for p in container.demux(stream) if p.size), None]:
            try:
                decoded = stream.codec_context.decode(packet)
            except av.FFmpegError:
                continue
            frames += [frame.to_ndarray(format="rgb24") for frame in decoded]
    return np.stack(frames)


def parts(count: int) -> list[list[int]]:
    """Return the frames of several reads of a video, each of which may need a seek."""
    return [[count - 1], [count // 2], [0], list(range(count // 3, count, 2))]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("kinds")
    return {
        name: make(folder / name)
        for name, make in KINDS.items()
        if "vc2" not in name or "vc2" in av.codecs_available
    }


@pytest.mark.parametrize("name", KINDS)
def test_first_and_later_opens_equal_a_full_decode(name: str, files: dict[str, Path]) -> None:
    if name not in files:
        pytest.skip("PyAV's FFmpeg has no VC-2 encoder here")
    expected = decode_all(files[name])
    for indices in parts(len(expected)):
        INDICES.clear()
        for _ in ("first open", "second open"):
            with open_video(files[name]) as video:
                for repeat in ("new decoder", "used decoder"):
                    np.testing.assert_array_equal(
                        video.read(indices), expected[indices], err_msg=f"{repeat} {indices}"
                    )
                assert video.num_frames == len(expected)


READ = """
import hashlib, json, sys
from p3d.video.decode import read_clip
for path, indices in json.load(sys.stdin):
    print(hashlib.sha256(read_clip(path, indices).numpy().tobytes()).hexdigest())
"""


def test_a_new_process_reads_the_same(files: dict[str, Path]) -> None:
    requests = []
    expected = []
    for path in files.values():
        frames = decode_all(path)
        indices = parts(len(frames))[-1]
        requests.append((str(path), indices))
        expected.append(hashlib.sha256(frames[indices].tobytes()).hexdigest())
    command = [sys.executable, "-c", READ]
    result = subprocess.run(
        command, input=json.dumps(requests), stdout=subprocess.PIPE, text=True, check=True
    )
    assert result.stdout.split() == expected


def test_an_avi_cut_at_a_key_frame_shows_its_own_frames(files: dict[str, Path]) -> None:
    INDICES.clear()
    with open_video(files["mpeg4-cut.avi"]) as video:
        shown = [number_of(frame) for frame in video.read(range(5))]
    assert shown == [12, 13, 14, 15, 16]


def damaged(count: int) -> list[bytes]:
    """Return MPEG-4 videos with one wrong bit each, in the data of a frame."""
    data = whole(b_frames=2)
    rng = np.random.default_rng(0)
    start, end = data.index(b"movi") + 64, data.index(b"idx1")
    videos = []
    for position in rng.integers(start, end, count):
        changed = bytearray(data)
        changed[position] ^= 1 << int(rng.integers(8))
        videos.append(bytes(changed))
    return videos


def test_videos_with_a_wrong_bit_read_the_same_every_time(tmp_path: Path) -> None:
    """After a seek, they may differ from a full decode; without one they do not."""
    path = tmp_path / "a.avi"
    readable = 0
    for data in damaged(40):
        path.write_bytes(data)
        expected = decode_all(path)
        for indices in ([len(expected) - 2, len(expected) - 1], range(len(expected))):
            results = []
            INDICES.clear()
            for _ in ("first open", "second open"):
                try:
                    with open_video(path) as video:
                        results += [video.read(indices).numpy() for _ in range(2)]
                except BadVideoError as error:
                    results.append(str(error))
            for result in results[1:]:
                np.testing.assert_array_equal(result, results[0])
        if not isinstance(results[0], str):
            readable += 1
            np.testing.assert_array_equal(results[0], expected)
    assert readable > 20
