"""Palettes, fields, large frames, playlists, thumbnails and metadata in video files."""

from __future__ import annotations

import os
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from helpers.fields import write_fields
from helpers.videos import number_of, picture, rewrite_packets, write_frames, write_video
from p3d.errors import BadVideoError
from p3d.video.decode import open_video, read_clip
from p3d.video.h264 import may_have_fields
from p3d.video.index_cache import INDICES

MJPEG = {"codec": "mjpeg", "pix_fmt": "yuvj420p"}
NOT_A_VIDEO = r"not a video that FFmpeg can read \(.+\)"


def numbers(path: Path, indices: list[int]) -> list[int]:
    """Return the numbers that frames show in the open that indexes a file, and in a second one."""
    INDICES.clear()
    first, second = ([number_of(f) for f in read_clip(path, indices)] for _ in range(2))
    assert first == second
    return first


def write_palette(path: Path, num_frames: int, *, inverted_from: int | None = None) -> Path:
    """Write 8-bit video with a gray palette, which is inverted from a frame on."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = 80, 64, "pal8"
        for number in range(num_frames):
            gray = picture(number).mean(2).astype(np.uint8)
            levels = np.arange(256, dtype=np.uint32)
            if inverted_from is not None and number >= inverted_from:
                gray, levels = 255 - gray, levels[::-1]
            frame = av.VideoFrame(80, 64, "pal8")
            rows = np.zeros((64, frame.planes[0].line_size), np.uint8)
            rows[:, :80] = gray
            frame.planes[0].update(rows.tobytes())
            frame.planes[1].update((0xFF000000 + levels * 0x010101).astype(np.uint32).tobytes())
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("name", ["a.avi", "a.mov"])
@pytest.mark.parametrize("inverted_from", [None, 7])
def test_video_with_a_palette(name: str, inverted_from: int | None, tmp_path: Path) -> None:
    if name == "a.mov" and inverted_from:
        pytest.skip("FFmpeg writes one palette per MOV file")
    path = write_palette(tmp_path / name, 12, inverted_from=inverted_from)
    for indices in ([11], [6, 8], [3], list(range(12))):
        assert numbers(path, indices) == indices
    with open_video(path) as video:
        for frame in (9, 2, 8):
            np.testing.assert_array_equal(
                video.read([frame])[0],
                picture(frame).mean(2).astype(np.uint8)[..., None].repeat(3, 2),
            )


@pytest.mark.parametrize("name", ["a.h264", "a.mp4", "a.mkv", "a.ts", "a.avi"])
def test_h264_with_one_field_per_packet(name: str, tmp_path: Path) -> None:
    path = write_fields(tmp_path / name, 12)
    for indices in ([11], [4, 5, 6], [0], list(range(12))):
        assert numbers(path, indices) == indices
    with open_video(path) as video:
        assert video.num_frames == 12


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, False),
        ({"profile": "baseline"}, False),
        ({"x264-params": "cqm=jvt"}, False),
        ({"x264-params": "tff=1"}, True),
        ({"x264-params": "tff=1:cqm=jvt"}, True),
    ],
)
@pytest.mark.parametrize("name", ["a.mp4", "a.h264"])
def test_streams_that_may_have_fields(
    options: dict[str, str], expected: bool, name: str, tmp_path: Path
) -> None:
    path = write_video(tmp_path / name, 3, codec="libx264", options=options)
    with av.open(str(path)) as container:
        extradata = container.streams.video[0].codec_context.extradata or b""
    assert may_have_fields(extradata) is expected
    assert may_have_fields(b"")
    assert may_have_fields(extradata[: extradata.index(b"\x67") + 4])


def write_large_frame(path: Path, **arguments: str) -> Path:
    """Write a video of four small frames, of which frame 2 is replaced by one of 5900 x 5900."""
    still = BytesIO()
    Image.new("L", (5900, 5900)).save(still, "PNG" if arguments["codec"] == "png" else "JPEG")
    source = write_video(path.with_name("small.avi"), 4, **arguments)
    return rewrite_packets(
        source, path, lambda packets: [*packets[:2], still.getvalue(), packets[3]]
    )


def test_large_frames_after_the_first_are_not_decoded(tmp_path: Path) -> None:
    path = write_large_frame(tmp_path / "a.avi", **MJPEG)
    assert numbers(path, [0, 1, 3]) == [0, 1, 3]
    with pytest.raises(BadVideoError, match=r"frame 2 cannot be decoded$"):
        read_clip(path, [2])
    counted = write_large_frame(tmp_path / "b.avi", codec="png", pix_fmt="rgb24")
    assert numbers(counted, [0, 1, 2]) == [0, 1, 3]


PLAYLISTS = {
    "concat": "ffconcat version 1.0\nfile other.avi\n",
    "pipe": "ffconcat version 1.0\nfile pipe.avi\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nother.ts\n#EXT-X-ENDLIST\n",
    "text": "\x1b[31mcolored text\n" * 9,
}


@pytest.mark.parametrize("name", PLAYLISTS)
@pytest.mark.parametrize("suffix", [".avi", ".mp4", ".m3u8", ".txt"])
def test_a_playlist_is_not_a_video(name: str, suffix: str, tmp_path: Path) -> None:
    write_video(tmp_path / "other.avi", 5)
    write_video(tmp_path / "other.ts", 5, codec="mpeg2video")
    os.mkfifo(tmp_path / "pipe.avi")
    path = tmp_path / f"playlist{suffix}"
    path.write_text(PLAYLISTS[name])
    with pytest.raises(BadVideoError, match=NOT_A_VIDEO), open_video(path):
        pass


def test_a_picture_is_not_a_video(tmp_path: Path) -> None:
    picture_file = write_frames(tmp_path / "frames", 2) / "walk-0001.jpg"
    for name in ("a.avi", "a%04d.jpg", "a.jpg"):
        path = tmp_path / name
        path.write_bytes(picture_file.read_bytes())
        reason = (
            NOT_A_VIDEO if path.suffix == ".avi" else "is a picture; give a video, or the folder"
        )
        with pytest.raises(BadVideoError, match=reason), open_video(path):
            pass


@pytest.mark.parametrize("rotation", [1, 3, 6, 8])
def test_side_data_unknown_to_pyav(rotation: int, tmp_path: Path) -> None:
    """As in MJPEG whose pictures have EXIF metadata; FFmpeg reads their orientation."""
    exif = Image.Exif()
    exif[0x0112] = rotation
    pictures = []
    for number in range(4):
        file = BytesIO()
        Image.fromarray(picture(number)).save(file, "JPEG", exif=exif)
        pictures.append(file.getvalue())
    source = write_video(tmp_path / "source.avi", 4, **MJPEG)
    path = rewrite_packets(source, tmp_path / "a.avi", lambda _: pictures)
    upright = np.stack(
        [np.rot90(f, {1: 0, 3: 2, 6: 3, 8: 1}[rotation]) for f in map(picture, range(4))]
    )
    clip = read_clip(path, range(4)).numpy()
    assert clip.shape == upright.shape
    assert np.abs(clip.astype(int) - upright).mean() < 12


def write_tracks(path: Path, *tracks: tuple[Path, Disposition | None]) -> Path:
    """Copy the videos of several files into one, as its streams, with their dispositions."""
    with av.open(str(path), "w") as new:
        packets = []
        for source, disposition in tracks:
            with av.open(str(source)) as old:
                copy = new.add_stream_from_template(old.streams.video[0])
                if disposition is not None:
                    copy.disposition = disposition
                for packet in old.demux(video=0):
                    if packet.size:
                        packet.stream = copy
                        packets.append(packet)
        for packet in sorted(packets, key=lambda p: (p.dts or 0) * (p.time_base or Fraction(1))):
            new.mux(packet)
    return path


@pytest.mark.parametrize("thumbnail_first", [True, False])
@pytest.mark.parametrize("frames", [1, 20])
@pytest.mark.parametrize(
    "disposition",
    [None, Disposition.timed_thumbnails, Disposition.attached_pic | Disposition.default],
)
def test_a_thumbnail_track_is_not_the_video(
    disposition: Disposition | None, frames: int, thumbnail_first: bool, tmp_path: Path
) -> None:
    thumbnail = write_video(tmp_path / "thumbnail.mp4", frames, size=(32, 40), **MJPEG)
    main = write_video(tmp_path / "main.mp4", 20, codec="libx264")
    tracks = [(thumbnail, disposition), (main, None)]
    path = write_tracks(tmp_path / "a.mp4", *(tracks if thumbnail_first else tracks[::-1]))
    with open_video(path) as video:
        assert (video.num_frames, video.height, video.width) == (20, 64, 80)
        assert number_of(video.read([13])[0]) == 13
