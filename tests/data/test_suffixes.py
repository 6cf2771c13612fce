"""Videos of each kind of suffix are found in a class folder and decoded."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from p3d.data.layouts import DataOptions, read_dataset, read_videos
from p3d.data.splits import SplitRule
from p3d.errors import BadVideoError
from p3d.video.decode import open_video

# Suffix: format, codec.
WRITABLE = {
    "3g2": ("3g2", "mpeg4"),
    "3gp": ("3gp", "mpeg4"),
    "asf": ("asf", "msmpeg4"),
    "divx": ("avi", "mpeg4"),
    "dv": ("dv", "dvvideo"),
    "f4v": ("mp4", "mpeg4"),
    "gif": ("gif", "gif"),
    "m1v": ("mpeg1video", "mpeg1video"),
    "m2t": ("mpegts", "mpeg2video"),
    "m2ts": ("mpegts", "mpeg2video"),
    "m2v": ("mpeg2video", "mpeg2video"),
    "mjpeg": ("mjpeg", "mjpeg"),
    "mts": ("mpegts", "mpeg2video"),
    "mxf": ("mxf", "mpeg2video"),
    "nut": ("nut", "mpeg4"),
    "qt": ("mov", "mpeg4"),
    "rm": ("rm", "rv20"),
    "vob": ("vob", "mpeg2video"),
    "wtv": ("wtv", "mpeg2video"),
    "y4m": ("yuv4mpegpipe", "rawvideo"),
}
PIXEL_FORMATS = {"gif": "rgb8", "mjpeg": "yuvj420p"}


@pytest.mark.parametrize("suffix", WRITABLE)
def test_files_are_found_by_their_suffix_and_decoded(tmp_path: Path, suffix: str) -> None:
    container, codec = WRITABLE[suffix]
    path = tmp_path / "walk" / f"a.{suffix.upper()}"
    path.parent.mkdir()
    width, height = (720, 576) if suffix == "dv" else (176, 144)
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=25)
        stream.width, stream.height = width, height
        stream.pix_fmt = PIXEL_FORMATS.get(suffix, "yuv420p")
        for number in range(6):
            pixels = np.full((height, width, 3), 40 * number, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        out.mux(stream.encode(None))
    (tmp_path / "walk" / "other.avi").touch()
    options = DataOptions(tmp_path, splits=SplitRule("^(.)", test_groups=("o",)))
    (record,) = read_dataset(options, "train").records
    assert record.path == path
    for _ in range(2):
        with open_video(record.path) as video:
            gray = video.read(range(video.num_frames))[:, 8, 8, 0].numpy()
        assert np.abs(gray - 40.0 * np.arange(6)).max() < 30


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "png", "bmp", "webp", "tif"])
def test_a_picture_is_no_video(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (64, 48), (9, 99, 199)).save(path)
    with (
        pytest.raises(BadVideoError, match="is a picture; give a video, or the folder of its fra"),
        open_video(path),
    ):
        pass


def test_pictures_in_class_folders_are_ignored(tmp_path: Path) -> None:
    for name in ("walk", "run"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.avi").touch()
        (tmp_path / name / "thumbnail.jpg").touch()
    dataset = read_videos(tmp_path)
    assert [record.path.name for record in dataset.records] == ["1.avi", "1.avi"]
    assert dataset.remarks() == [
        "IGNORED: 2 files that are not videos: run/thumbnail.jpg, walk/thumbnail.jpg"
    ]


def test_a_moving_picture_is_a_video(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    frames = [Image.new("RGB", (64, 48), (90 * n, 0, 0)) for n in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with open_video(path) as video:
        assert video.num_frames == 3
