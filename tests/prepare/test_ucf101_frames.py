"""UCF101 arranged from folders of frames, as other tools leave it, without the videos."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from helpers.ucf101_names import clips, make_lists
from helpers.videos import write_frames
from p3d.data.layouts import DataOptions, read_dataset
from p3d.errors import UserError
from p3d.prepare.options import LinkMode, Ucf101Options
from p3d.prepare.ucf101 import prepare_ucf101
from p3d.system.files import TEMPORARY
from p3d.video.decode import open_video

FRAMES = 3
CLIP = "YoYo/v_YoYo_g01_c01"


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_frames(tmp_path_factory.mktemp("frames") / "walk", FRAMES)


@pytest.fixture
def source(tmp_path: Path, frames: Path) -> Path:
    """`train/<Class>/<video>/<video>-0001.jpg` and so on, all videos in one split."""
    folder = tmp_path / "source"
    for clip in clips():
        video = folder / "train" / clip.removesuffix(".avi")
        video.mkdir(parents=True)
        for number in range(1, FRAMES + 1):
            shutil.copy(frames / f"walk-{number:04d}.jpg", video / f"{video.name}-{number:04d}.jpg")
    make_lists(folder / "ucfTrainTestlist", clips())
    return folder


def files(folder: Path) -> dict[str, int]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in found}


@pytest.mark.parametrize("link", ["hard", "symbolic", "copy"])
def test_folders_of_frames_are_arranged_and_read(
    source: Path, tmp_path: Path, link: LinkMode
) -> None:
    before, out = files(source), tmp_path / "ucf101"
    options = Ucf101Options(source, out, link=link)

    summary = prepare_ucf101(options)

    assert summary.present == {"train": 45, "validation": 9, "test": 21}
    assert f"note: {len(clips())} clips are folders of frames" in summary.lines()
    target, original = out / "test" / CLIP, source / "train" / CLIP
    assert target.is_symlink() == (link == "symbolic")
    frame = f"{target.name}-0001.jpg"
    assert (target / frame).samefile(original / frame) == (link != "copy")
    assert sorted(p.name for p in target.iterdir()) == sorted(p.name for p in original.iterdir())
    for split, count in summary.present.items():
        records = read_dataset(DataOptions(out), split).records
        assert len(records) == count
        with open_video(records[0].path) as video:
            assert video.num_frames == FRAMES
    assert files(source) == before
    assert prepare_ucf101(options).kept == len(clips())


def test_half_prepared_folder_of_frames_is_completed(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "ucf101"
    prepare_ucf101(Ucf101Options(source, out, link="copy"))
    shutil.rmtree(source)
    shutil.rmtree(out / "ucfTrainTestlist")
    make_lists(out / "ucfTrainTestlist", clips())
    (out / "videos").mkdir()
    shutil.move(out / "train" / "YoYo", out / "videos" / "YoYo")
    assert prepare_ucf101(Ucf101Options(out, out)).kept == len(clips()) - 15
    assert len(read_dataset(DataOptions(out), "train").records) == 45


def test_killed_run_is_resumed(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "ucf101"
    prepare_ucf101(Ucf101Options(source, out, link="copy"))
    finished = files(out)
    shutil.rmtree(out / "test" / "YoYo")
    partial = out / "test" / "Archery" / f"{TEMPORARY}0-v_Archery_g01_c01"
    (out / "test" / "Archery" / "v_Archery_g01_c01").rename(partial)
    (partial / "v_Archery_g01_c01-0003.jpg").unlink()
    assert prepare_ucf101(Ucf101Options(source, out, link="copy")).kept == len(clips()) - 8
    assert files(out) == finished


def test_video_replaces_its_frames(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "ucf101"
    prepare_ucf101(Ucf101Options(source, out))
    (source / "train" / f"{CLIP}.avi").write_bytes(b"a video")
    summary = prepare_ucf101(Ucf101Options(source, out))
    assert summary.kept == len(clips()) - 1
    assert f"note: {len(clips()) - 1} clips are folders of frames" in summary.lines()
    assert (out / "test" / f"{CLIP}.avi").read_bytes() == b"a video"
    assert prepare_ucf101(Ucf101Options(source, out)).kept == len(clips())


def test_folders_without_frames_are_missing(source: Path, tmp_path: Path) -> None:
    for frame in (source / "train" / CLIP).iterdir():
        frame.unlink()
    with pytest.raises(UserError, match=f"1 of 75 listed clips .*{CLIP}"):
        prepare_ucf101(Ucf101Options(source, tmp_path / "ucf101"))


def test_another_fold_needs_another_folder(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "ucf101"
    prepare_ucf101(Ucf101Options(source, out))
    before = files(out)
    with pytest.raises(UserError, match="belong to another split; give another --out"):
        prepare_ucf101(Ucf101Options(source, out, fold=2))
    assert files(out) == before


def test_repeated_frames(source: Path, tmp_path: Path) -> None:
    shutil.copytree(source / "train" / CLIP, source / "again" / CLIP)
    assert prepare_ucf101(Ucf101Options(source, tmp_path / "a", dry_run=True)).repeated == 1
    next((source / "again" / CLIP).iterdir()).unlink()
    with pytest.raises(UserError, match="remove the wrong one"):
        prepare_ucf101(Ucf101Options(source, tmp_path / "a", dry_run=True))


def test_existing_frames_are_not_replaced(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "ucf101"
    own = out / "test" / CLIP / "own.jpg"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"own")
    with pytest.raises(UserError, match="cannot be created from"):
        prepare_ucf101(Ucf101Options(source, out))
    assert own.read_bytes() == b"own"
