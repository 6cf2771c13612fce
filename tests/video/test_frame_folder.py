"""Folders of frames: their names, formats and orientation, and flow of other tools."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.videos import number_of, picture
from p3d.data.clips import check_source
from p3d.data.layouts import DataOptions
from p3d.errors import BadVideoError
from p3d.prepare.check import check_dataset
from p3d.prepare.options import CheckOptions
from p3d.preprocessing import AUTHORS_FLOW, IMAGENET
from p3d.video.decode import open_video, read_clip


def write(folder: Path, *names: str) -> Path:
    """Write pictures that show 0, 1, ... under these names."""
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        image = Image.fromarray(picture(number))
        image.save(folder / name, **({"lossless": True} if name.endswith("webp") else {}))
    return folder


def shown(folder: Path) -> list[int]:
    with open_video(folder) as video:
        return [number_of(frame) for frame in video.read(range(video.num_frames))]


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("cam1_1.png", "cam2_1.png"), r"cam1_1\.png and cam2_1\.png differ in more than"),
        (("color-1.png", "depth-2.png"), r"color-1\.png and depth-2\.png differ in more than"),
        (("00-59.png", "01-00.png"), r"00-59\.png and 01-00\.png differ in more than"),
        (("img_1.png", "flow_x_1.png"), r"flow_x_1\.png and img_1\.png differ in more than"),
        (("a1.jpg", "a1.png"), r"a1\.jpg and a1\.png have the same number; remove one"),
        (("a1.png", "a01.png"), r"a01\.png and a1\.png have the same number; remove one"),
        (("a0.50.jpg", "a0.50.png"), r"a0\.50\.jpg and a0\.50\.png have the same number"),
        (("t_0.5.png", "t_0.25.png"), r"the numbers of t_0\.25\.png and t_0\.5\.png differ in the"),
        (("t_1.png", "t_0.5.png"), r"the numbers of t_0\.5\.png and t_1\.png differ in the digits"),
        (("x_1.png", "y_1.png", "x_2.png"), r"x_2\.png has no partner for the other direction"),
    ],
)
def test_frames_without_a_clear_order_are_an_error(
    names: tuple[str, ...], reason: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "frames", *names)
    with pytest.raises(BadVideoError, match=reason), open_video(folder):
        pass


@pytest.mark.parametrize(
    "names",
    [
        ("t_0.50.png", "t_1.00.png", "t_1.25.png", "t_1.50.png", "t_10.00.png"),
        ("1305031102.175304.png", "1305031102.211214.png", "1305031103.000000.png"),
        ("0,9.png", "1,0.png"),
        ("shot.0001.png", "shot.0002.png"),
        ("Frame1.png", "frame2.png", "frame10.png"),
        ("a9.bmp", "a10.png", "a11.webp"),
    ],
)
def test_frames_are_ordered_by_their_numbers(names: tuple[str, ...], tmp_path: Path) -> None:
    assert shown(write(tmp_path / "frames", *names)) == list(range(len(names)))


@pytest.mark.parametrize(
    ("numbers", "missing"), [((1, 2, 3, 7, 8), 3), ((0, 5, 10, 20), 1), ((4,), 0), ((7, 8, 9), 0)]
)
def test_check_reports_gaps(numbers: tuple[int, ...], missing: int, tmp_path: Path) -> None:
    for split in ("train", "test"):
        write(tmp_path / split / "walk" / "a", *(f"{number}.png" for number in numbers))
    with open_video(tmp_path / "train" / "walk" / "a") as video:
        assert video.num_missing == missing
    report = check_dataset(CheckOptions(DataOptions(tmp_path), workers=1))
    assert report.fit
    found = [finding for finding in report.findings() if "gaps" in finding.kind]
    assert len(found) == (2 if missing else 0)
    if missing:
        assert found[0].level == "WARNING"
        assert found[0].detail == f"{missing} missing, {len(numbers)} there"


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp"])
def test_lossless_formats_keep_every_pixel(suffix: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "frames", f"1{suffix}", f"2{suffix}")
    np.testing.assert_array_equal(read_clip(folder, [1])[0], picture(1))


def test_16_bit_gray_is_scaled(tmp_path: Path) -> None:
    levels = np.array([[0, 3000, 32768, 65535]], np.uint16)
    folder = tmp_path / "frames"
    folder.mkdir()
    Image.fromarray(levels).save(folder / "1.png")
    assert read_clip(folder, [0])[0, 0].tolist() == [[level] * 3 for level in (0, 12, 128, 255)]


TURNS = {
    2: lambda image: image[:, ::-1],
    3: lambda image: np.rot90(image, 2),
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, 3),
    8: lambda image: np.rot90(image, 1),
}


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("orientation", [2, 3, 4, 5, 6, 8])
def test_exif_orientation_is_applied(orientation: int, suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in (1, 2):
        Image.fromarray(picture(number)).save(folder / f"{number}{suffix}", exif=exif, quality=95)
    expected = np.stack([TURNS[orientation](picture(number)) for number in (1, 2)])
    with open_video(folder) as video:
        assert (video.height, video.width) == expected.shape[1:3]
        difference = video.read([0, 1]).numpy().astype(int) - expected
    assert np.abs(difference).mean() < 8


@pytest.mark.filterwarnings("ignore:.*EXIF")  # by Pillow
def test_a_picture_with_damaged_exif_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, exif in enumerate(
        (b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0nonsense", b"Exif\0\0")
    ):
        Image.fromarray(picture(number)).save(folder / f"{number}.jpg", exif=exif, quality=95)
    assert shown(folder) == [0, 1, 2]


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 80 64\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("content", [EPS, b"GIF89a" + bytes(99), b"P6 1 1 255 abc"])
def test_other_formats_do_not_reach_pillow(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", run)
    folder = write(tmp_path / "frames", "1.jpg", "2.jpg")
    (folder / "2.jpg").write_bytes(content)
    with pytest.raises(BadVideoError, match=r"2\.jpg cannot be read \(cannot identify"):
        read_clip(folder, [1])


def write_flow_pairs(folder: Path, *, with_frames: bool) -> Path:
    """Write flow as other tools do: 2 px to the right, and 20 px up or none in turn."""
    write(folder, *(f"img_{number:05d}.png" for number in range(4 if with_frames else 0)))
    for number in range(3):
        for axis, motion in (("x", 2.0), ("y", -20.0 * (number % 2))):
            level = round((motion + 20) / 40 * 255)
            image = Image.new("L", (80, 64), level)
            image.save(folder / f"flow_{axis}_{number:05d}.jpg", quality=95)
    return folder


@pytest.mark.parametrize("with_frames", [False, True])
def test_flow_pairs_of_other_tools_are_flow(with_frames: bool, tmp_path: Path) -> None:
    folder = write_flow_pairs(tmp_path / "a", with_frames=with_frames)
    with open_video(folder, prefer_flow=True) as video:
        assert (video.num_frames, video.height, video.width) == (3, 64, 80)
        assert video.flow is not None
        clip = video.read([0, 1])
        check_source(folder, video, replace(AUTHORS_FLOW, flow_short_side=256))
    assert clip.shape == (2, 64, 80, 2)
    assert clip[0, 0, 0].tolist() == [140, 128]  # 22 / 40 * 255 = 140; none is 127 or 128
    assert clip[1, 0, 0].tolist() == [140, 1]
    assert torch.equal(clip, clip[:, :1, :1].expand_as(clip))
    with open_video(folder) as video:
        assert (video.flow is None) == with_frames
        assert video.num_frames == (4 if with_frames else 3)
        if with_frames:
            assert [number_of(frame) for frame in video.read(range(4))] == [0, 1, 2, 3]
            check_source(folder, video, IMAGENET)
