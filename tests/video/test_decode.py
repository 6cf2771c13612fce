"""Frames are exact, and a broken video is one clear error."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from helpers.hostile import cut, whole
from helpers.videos import (
    EMPTY_VOP,
    number_of,
    pack,
    picture,
    rewrite_packets,
    write_audio,
    write_broken_jpeg,
    write_frames,
    write_header_only,
    write_undecodable,
    write_unnumbered_frame,
    write_video,
)
from p3d.errors import BadVideoError
from p3d.video import index_cache, video_file
from p3d.video.decode import open_video, read_clip
from p3d.video.index_cache import IndexCache

NUM_FRAMES = 30
X264 = {"codec": "libx264", "b_frames": 3}
UNEVEN = [2 * i + i * i // 3 for i in range(NUM_FRAMES)]
LATE = [100 + i for i in range(NUM_FRAMES)]

STREAMS: dict[str, dict[str, Any]] = {
    "mpeg4.avi": {},
    "mpeg4-b.avi": {"b_frames": 2},
    "mpeg4-b.mp4": {"b_frames": 2},
    "mpeg4-b.m4v": {"b_frames": 2},
    "h264.mp4": X264,
    "h264.avi": X264,  # AVI timestamps are in decoding order
    "h264.h264": X264,  # no timestamps, no seeking
    "h264-open-gop.mp4": {**X264, "options": {"x264-params": "open-gop=1"}},
    "h264-open-gop.ts": {**X264, "options": {"x264-params": "open-gop=1"}},
    "h264-no-key-frames.ts": {**X264, "options": {"x264-params": "intra-refresh=1"}},
    "h264-uneven.mp4": {**X264, "times": UNEVEN},
    "h264-uneven.mkv": {**X264, "times": UNEVEN},
    "h264-late.mkv": {**X264, "times": LATE},
    "h264-late.ts": {**X264, "times": LATE},
    "hevc-open-gop.mp4": {
        "codec": "libx265",
        "b_frames": 3,
        "options": {"x265-params": "log-level=none:open-gop=1:pools=none"},
    },
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj422p"},
    "vp8-hidden-frames.webm": {
        "codec": "libvpx",
        "options": {"auto-alt-ref": "1", "lag-in-frames": "16"},
    },
    "mpeg2.mpg": {"codec": "mpeg2video", "b_frames": 2},
    "wmv2.wmv": {"codec": "wmv2"},
}


def decode_all(path: Path) -> NDArray[np.uint8]:
    """Return all frames of a file, decoded by PyAV's own loop."""
    with av.open(str(path)) as container:
        frames = container.decode(video=0)
        return np.stack([frame.to_ndarray(format="rgb24") for frame in frames])


def assert_exact(path: Path, *, step: int = 1, length: int = 3) -> None:
    """Compare clips from every `step`th frame with a decode of the whole file."""
    expected = decode_all(path)
    with open_video(path) as video:
        assert video.num_frames == len(expected)
        assert (video.height, video.width) == expected.shape[1:3]
    for start in range(0, len(expected), step):
        indices = np.minimum(np.arange(start, start + length), len(expected) - 1)
        clip = read_clip(path, indices.tolist())
        np.testing.assert_array_equal(clip, expected[indices], err_msg=f"from frame {start}")


def write_encodable(path: Path, **arguments: Any) -> Path:
    if "codec" in arguments and arguments["codec"] not in av.codecs_available:
        pytest.skip(f"PyAV's FFmpeg has no {arguments['codec']} encoder here")
    return write_video(path, NUM_FRAMES, **arguments)


@pytest.fixture(scope="module")
def avi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An AVI file like those of UCF101, with B-frames."""
    return write_video(tmp_path_factory.mktemp("avi") / "walk.avi", NUM_FRAMES, b_frames=2)


@pytest.mark.parametrize("name", STREAMS)
def test_frames_equal_a_full_decode_from_every_start(name: str, tmp_path: Path) -> None:
    path = write_encodable(tmp_path / name, **STREAMS[name])
    assert_exact(path)
    clip = read_clip(path, range(NUM_FRAMES))
    assert [number_of(frame) for frame in clip] == list(range(NUM_FRAMES))


@pytest.mark.parametrize("hidden", [5, 12, 17])
@pytest.mark.parametrize(
    "encoder", [{}, {"b_frames": 2}, X264, {"codec": "mjpeg", "pix_fmt": "yuvj422p"}]
)
@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_trimmed_files_show_what_players_show(
    suffix: str, encoder: dict[str, Any], hidden: int, tmp_path: Path
) -> None:
    """The frames before time 0 are in the file, but the edit list hides them."""
    path = tmp_path / f"trimmed{suffix}"
    write_video(path, NUM_FRAMES, times=range(-hidden, NUM_FRAMES - hidden), **encoder)
    assert_exact(path)
    clip = read_clip(path, range(NUM_FRAMES - hidden))
    assert [number_of(frame) for frame in clip] == list(range(hidden, NUM_FRAMES))


PACKETS: dict[str, Callable[[list[bytes]], Any]] = {
    "two frames per packet": pack,
    "frames not coded": lambda packets: [*packets[:7], EMPTY_VOP, *packets[7:], EMPTY_VOP],
    "first key frame lost": lambda packets: packets[1:],
    "starts with a B-frame": lambda packets: [packets[0], *packets[2:]],
}


@pytest.mark.parametrize("change", PACKETS.values(), ids=PACKETS)
def test_irregular_mpeg4_streams_equal_a_full_decode(
    change: Callable[[list[bytes]], Any], avi: Path, tmp_path: Path
) -> None:
    path = rewrite_packets(avi, tmp_path / "irregular.avi", change)
    assert_exact(path)


def test_a_packed_stream_keeps_all_its_frames(avi: Path, tmp_path: Path) -> None:
    path = rewrite_packets(avi, tmp_path / "packed.avi", pack)
    assert [number_of(frame) for frame in read_clip(path, range(NUM_FRAMES))] == [
        *range(NUM_FRAMES)
    ]


@given(indices=st.lists(st.integers(0, NUM_FRAMES - 1), max_size=12))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_frames_are_read_in_any_order_with_repeats(avi: Path, indices: list[int]) -> None:
    clip = read_clip(avi, indices)
    assert clip.shape == (len(indices), 64, 80, 3)
    assert clip.dtype == torch.uint8
    assert clip.is_contiguous()
    assert [number_of(frame) for frame in clip] == indices


def test_several_reads_of_one_open_file(avi: Path) -> None:
    with open_video(avi) as video:
        for start in (20, 3, 29, 0):
            assert number_of(video.read([start])[0]) == start


@pytest.mark.parametrize("outside", [-1, NUM_FRAMES])
def test_a_frame_number_out_of_range_is_an_index_error(avi: Path, outside: int) -> None:
    with pytest.raises(IndexError, match=rf"frame {outside} is not in \[0, 30\)"):
        read_clip(avi, [0, outside])


def test_few_frames_are_decoded_to_reach_one(avi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    original = video_file.decode
    with open_video(avi) as video:
        monkeypatch.setattr(video_file, "decode", lambda *a: decoded.append(a) or original(*a))
        video.read([25])
    assert len(decoded) <= 5  # key frame 24, and what the decoder holds back


def test_a_file_is_indexed_once_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed = []
    original = index_cache.build_index
    monkeypatch.setattr(index_cache, "build_index", lambda *a: indexed.append(a) or original(*a))
    path = write_video(tmp_path / "a.avi", 10)
    for _ in range(2):
        with open_video(path) as video:
            assert video.num_frames == 10
    assert len(indexed) == 1
    write_video(path, 14)
    with open_video(path) as video:
        assert video.num_frames == 14


def test_a_file_replaced_by_one_of_equal_size_and_time_is_indexed_again(tmp_path: Path) -> None:
    mjpeg = {"codec": "mjpeg", "pix_fmt": "yuvj420p"}
    path = write_video(tmp_path / "a.avi", 10, **mjpeg)
    other = write_video(tmp_path / "b.avi", 12, **mjpeg)
    size = max(path.stat().st_size, other.stat().st_size)
    for file in (path, other):  # as a tool that pads its files
        file.write_bytes(file.read_bytes().ljust(size, b"\0"))
        os.utime(file, ns=(10**18, 10**18))
    assert len(read_clip(path, [9])) == 1
    other.replace(path)
    assert number_of(read_clip(path, [11])[0]) == 11
    content = write_video(tmp_path / "c.avi", 8, **mjpeg).read_bytes().ljust(size, b"\0")
    path.write_bytes(content)  # the same inode
    os.utime(path, ns=(10**18, 10**18))
    with open_video(path) as video:
        assert video.num_frames == 8


def test_the_cache_of_indices_is_limited_in_bytes(tmp_path: Path) -> None:
    paths = [write_video(tmp_path / f"{n}.avi", 10) for n in range(4)]
    cache = IndexCache(max_bytes=2500)
    indices = [cache.get(path, path.stat()) for path in paths]
    assert len(cache) == 2
    assert cache.get(paths[3], paths[3].stat()) is indices[3]
    assert cache.get(paths[0], paths[0].stat()) is not indices[0]
    cache.limit(1200)
    assert len(cache) == 1
    cache.clear()
    assert len(cache) == 0


def test_a_damaged_file_reads_the_same_every_time(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    path.write_bytes(cut("packet15", whole(b_frames=2)))
    expected = decode_all(path)
    for _ in range(2):
        with open_video(path) as video:
            np.testing.assert_array_equal(video.read(range(video.num_frames)), expected)


@pytest.mark.parametrize("fps", [25, 12])
def test_frame_rate(fps: int, tmp_path: Path) -> None:
    with open_video(write_video(tmp_path / "a.mp4", 10, fps=fps)) as video:
        assert video.fps == pytest.approx(fps)


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_rotation_is_applied(rotation: int, tmp_path: Path) -> None:
    path = write_video(tmp_path / "phone.mp4", 3, rotation=rotation)
    with open_video(path) as video:
        upright = np.rot90(decode_all(path), rotation // 90, axes=(1, 2))
        assert (video.height, video.width) == upright.shape[1:3]
        np.testing.assert_array_equal(video.read(range(3)), upright)


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "size"),
    [
        ("libx264", "yuv422p", (64, 80)),
        ("libx264", "yuv420p10le", (64, 80)),
        ("libx264", "yuv444p", (51, 67)),
        ("ffv1", "gray", (64, 80)),
        ("ffv1", "gray10le", (33, 45)),
        ("ffv1", "bgr0", (64, 80)),
    ],
)
def test_pixel_formats(codec: str, pix_fmt: str, size: tuple[int, int], tmp_path: Path) -> None:
    path = write_encodable(tmp_path / "a.mkv", codec=codec, pix_fmt=pix_fmt, size=size)
    assert_exact(path, step=10)
    assert number_of(read_clip(path, [21])[0]) == 21


def test_a_stream_that_changes_size_is_scaled_to_its_first_frame(tmp_path: Path) -> None:
    mjpeg = {"codec": "mjpeg", "pix_fmt": "yuvj420p"}
    small = write_video(tmp_path / "small.avi", 5, **mjpeg)
    large = write_video(tmp_path / "large.avi", 9, size=(128, 160), **mjpeg)
    with av.open(str(large)) as container:
        more = [bytes(packet) for packet in container.demux(video=0) if packet.size][5:]
    path = rewrite_packets(small, tmp_path / "both.avi", lambda packets: packets + more)
    clip = read_clip(path, range(9))
    assert clip.shape == (9, 64, 80, 3)
    assert [number_of(frame) for frame in clip] == [*range(9)]


@pytest.mark.parametrize("name", ["a:b.avi", "http:x.avi", "100%03d.avi", "-i ü 走.avi"])
def test_unusual_file_names(name: str, avi: Path, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(avi.read_bytes())
    assert number_of(read_clip(path, [7])[0]) == 7


def test_a_folder_of_frames_reads_like_a_video(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "walk")
    (folder / "walk.avi").write_bytes(b"not a frame")
    (folder / "._walk-0001.jpg").write_bytes(b"metadata of macOS")
    with open_video(folder) as video:
        assert (video.num_frames, video.height, video.width, video.fps) == (12, 64, 80, 25.0)
        clip = video.read([11, 0, 0, 5])
    assert clip.dtype == torch.uint8
    assert [number_of(frame) for frame in clip] == [11, 0, 0, 5]


def test_frames_are_ordered_by_number_not_name(tmp_path: Path) -> None:
    folder = tmp_path / "walk"
    folder.mkdir()
    for number in (2, 10, 1):
        Image.fromarray(picture(number)).save(folder / f"f{number}.png")
    assert [number_of(frame) for frame in read_clip(folder, range(3))] == [1, 2, 10]


def test_gray_frames_become_rgb(tmp_path: Path) -> None:
    folder = tmp_path / "walk"
    folder.mkdir()
    Image.fromarray(picture(5)).convert("L").save(folder / "f1.jpg")
    assert number_of(read_clip(folder, [0])[0]) == 5


NOT_A_VIDEO = r"not a video that FFmpeg can read \(.+\)"
PAGE = b"<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>" * 9
PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nwhole.ts\n#EXT-X-ENDLIST\n"
HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing.avi": (lambda _: None, "no such file or folder"),
    "empty.avi": (lambda path: path.touch(), r"the file is empty \(0 bytes\)"),
    "page.avi": (lambda path: path.write_bytes(PAGE), NOT_A_VIDEO),
    "text.mp4": (lambda path: path.write_text("hello\n" * 99), NOT_A_VIDEO),
    "noise.avi": (
        lambda path: path.write_bytes(np.random.default_rng(0).bytes(99_999)),
        NOT_A_VIDEO,
    ),
    "playlist.mp4": (lambda path: path.write_bytes(PLAYLIST), NOT_A_VIDEO),
    "sound.mp4": (write_audio, "has no video stream"),
    "header.avi": (write_header_only, "holds no frame"),
    "undecodable.avi": (write_undecodable, "none of its 4 packets decodes: damaged, .+"),
    "codec.avi": (
        lambda path: path.write_bytes(write_video(path).read_bytes().replace(b"FMP4", b"ZZZZ")),
        "its video codec is unknown to FFmpeg",
    ),
    "no-moov.mp4": (
        lambda path: path.write_bytes(write_video(path).read_bytes()[:2000]),
        NOT_A_VIDEO,
    ),
    "stub.avi": (lambda path: path.write_bytes(write_video(path).read_bytes()[:60]), NOT_A_VIDEO),
    "pipe.avi": (os.mkfifo, "neither a file nor a folder"),
    "no-frames": (
        lambda path: path.mkdir(),
        r"a folder without frames \(JPEG, PNG, BMP or WebP files\)",
    ),
    "broken-jpeg": (write_broken_jpeg, r"walk-0001.jpg cannot be read \(.+\)"),
    "unnumbered": (
        write_unnumbered_frame,
        "the name of cover.jpg does not end with a frame number",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_broken_video_is_one_clear_line(name: str, tmp_path: Path) -> None:
    make, reason = HOSTILE[name]
    path = tmp_path / name
    make(path)
    with pytest.raises(BadVideoError, match=rf"{path}: ({reason})$") as caught:
        read_clip(path, [0])
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root can read every file"
)
def test_a_missing_permission_is_one_clear_line(avi: Path, tmp_path: Path) -> None:
    path = tmp_path / "secret.avi"
    path.write_bytes(avi.read_bytes())
    path.chmod(0)
    with pytest.raises(BadVideoError, match=r"cannot be opened \(Permission denied\)"):
        read_clip(path, [0])


def test_a_broken_jpeg_does_not_affect_other_frames(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "walk")
    (folder / "walk-0006.jpg").write_bytes(b"\xff\xd8")
    assert number_of(read_clip(folder, [4])[0]) == 4
    with pytest.raises(BadVideoError, match=r"walk-0006\.jpg cannot be read"):
        read_clip(folder, [4, 5])


def test_frames_of_different_sizes_are_an_error(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "walk")
    Image.fromarray(picture(5, height=32)).save(folder / "walk-0006.jpg")
    with pytest.raises(
        BadVideoError, match=r"walk-0006\.jpg is 80x32, but the first frame is 80x64"
    ):
        read_clip(folder, range(12))


@pytest.mark.parametrize("name", ["a.avi", "a.mkv", "a.ts"])
@pytest.mark.parametrize("kept", [0.7, 0.85])
def test_a_file_that_is_cut_off_has_the_remaining_frames(
    name: str, kept: float, tmp_path: Path
) -> None:
    path = write_video(tmp_path / name, NUM_FRAMES, **({} if name == "a.avi" else X264))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    left = decode_all(path)
    with open_video(path) as video:
        assert 1 <= video.num_frames < NUM_FRAMES
        assert video.num_frames == len(left)
        # The last frame may be incomplete; how the rest is filled depends on the decoder.
        clip = video.read(range(video.num_frames - 1))
    assert [number_of(frame) for frame in clip] == [number_of(frame) for frame in left[:-1]]


def test_a_frame_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.avi", codec="libx264", gop=10)
    path = rewrite_packets(
        whole,
        tmp_path / "a.avi",
        lambda packets: [*packets[:15], bytes(len(packets[15])), *packets[16:]],
    )
    with open_video(path) as video:
        assert video.num_frames == 40
        assert [number_of(frame) for frame in video.read([14, 16, 25])] == [14, 16, 25]
        with pytest.raises(BadVideoError, match=r"frame 15 cannot be decoded$"):
            video.read([15])


def test_ffmpeg_prints_nothing(
    avi: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(avi.read_bytes())
    middle = slice(len(data) // 2, None, 7)
    data[middle] = bytes(len(data[middle]))
    for name, content in {"damaged.avi": data, "page.avi": PAGE}.items():
        path = tmp_path / name
        path.write_bytes(content)
        with suppress(BadVideoError), open_video(path) as video:
            video.read(range(video.num_frames))
    assert capfd.readouterr() == ("", "")


REAL = os.environ.get("P3D_REAL_VIDEOS")


@pytest.mark.skipif(not REAL, reason="P3D_REAL_VIDEOS is not set")
@pytest.mark.parametrize(
    "name",
    [
        "ucf101/videos/Archery/v_Archery_g03_c03.avi",  # two frames per packet, one key frame
        "ucf101/videos/JavelinThrow/v_JavelinThrow_g22_c01.avi",
        "weizmann/run/daria_run.avi",
    ],
)
def test_real_clips_equal_a_full_decode_from_every_start(name: str) -> None:
    assert_exact(Path(REAL or "") / name, length=1)


def private_kib() -> int:
    """Return the private memory of this process after freeing what it can."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_repeated_reading_does_not_leak_memory(tmp_path: Path) -> None:
    """PyAV leaks with each demuxing that is not exhausted, unless it is closed explicitly."""
    path = write_video(tmp_path / "intra.avi", 40, codec="mjpeg", pix_fmt="yuvj420p")
    readings = []
    for _ in range(7):
        for _ in range(60):
            read_clip(path, range(0, 40, 2))
        readings.append(private_kib())
    # The leak would be 300 KiB in every round; the allocator may take more memory once.
    assert np.median(np.diff(readings)) < 150, readings
