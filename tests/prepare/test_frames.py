"""Conversion of videos into folders of frames that form a data set."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.videos import number_of, write_video
from p3d.data.layouts import DataOptions, read_dataset, read_videos
from p3d.data.splits import SplitRule
from p3d.errors import UserError
from p3d.prepare.frames import extract_frames, run, write_frames
from p3d.prepare.options import FramesOptions
from p3d.system.files import TEMPORARY
from p3d.video import sources as chunks_module
from p3d.video.decode import open_video

RULE = SplitRule(group_pattern=r"_g(\d+)", test_groups=("3",), validation_groups=("2",))
FOLDERS = {1: "train", 2: "validation", 3: "test"}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("originals")
    (root / "run").mkdir()
    for group in FOLDERS:
        write_video(root / "run" / f"run_g{group}.avi", 16 + group, size=(64, 80))
    return root


@pytest.fixture
def options(originals: Path, tmp_path: Path) -> FramesOptions:
    data = shutil.copytree(originals, tmp_path / "data")
    return FramesOptions(DataOptions(data, splits=RULE), tmp_path / "out", workers=2)


def folder(options: FramesOptions, group: int) -> Path:
    return options.out / FOLDERS[group] / "run" / f"run_g{group}"


def test_writes_every_frame_in_order(options: FramesOptions) -> None:
    summary = extract_frames(options)
    assert (summary.written, summary.kept, summary.frames) == (3, 0, 17 + 18 + 19)
    for group in FOLDERS:
        files = sorted(folder(options, group).iterdir())
        assert [f.name for f in files] == [
            f"run_g{group}-{n:04d}.jpg" for n in range(1, 17 + group)
        ]
        assert [number_of(Image.open(file)) for file in files] == list(range(16 + group))


def test_long_videos_are_read_in_chunks(
    originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks_module, "CHUNK_BYTES", 5 * 64 * 80 * 3)
    with open_video(originals / "run" / "run_g3.avi") as video:
        write_frames(video, tmp_path, "run_g3", (64, 80), 95)
    files = sorted(tmp_path.iterdir())
    assert [number_of(Image.open(file)) for file in files] == list(range(19))


def test_frames_look_like_the_video(options: FramesOptions) -> None:
    extract_frames(options)
    name = Path("run") / "run_g1.avi"
    with open_video(options.data.data / name) as video, open_video(folder(options, 1)) as frames:
        pairs = zip(video.read(range(17)).numpy(), frames.read(range(17)).numpy(), strict=True)
        assert all(np.abs(a.astype(int) - b.astype(int)).mean() < 4 for a, b in pairs)


def test_output_is_a_data_set(options: FramesOptions) -> None:
    extract_frames(options)
    for group, split in FOLDERS.items():
        (record,) = read_dataset(DataOptions(options.out), split).records  # type: ignore[arg-type]
        assert record.path == folder(options, group)
        assert (record.num_frames, record.fps, record.group) == (16 + group, 25.0, str(group))


@pytest.mark.parametrize(
    ("short_side", "expected"), [(32, (40, 32)), (64, (80, 64)), (500, (80, 64)), (None, (80, 64))]
)
def test_short_side_is_never_enlarged(
    options: FramesOptions, short_side: int | None, expected: tuple[int, int]
) -> None:
    extract_frames(replace(options, short_side=short_side))
    with Image.open(folder(options, 1) / "run_g1-0017.jpg") as image:
        assert image.size == expected


def test_lower_quality_gives_smaller_files(options: FramesOptions, tmp_path: Path) -> None:
    other = replace(options, out=tmp_path / "other", quality=20)
    extract_frames(options)
    extract_frames(other)
    name = "run_g1-0001.jpg"
    assert (folder(other, 1) / name).stat().st_size < (folder(options, 1) / name).stat().st_size


def test_second_run_keeps_complete_folders_and_writes_the_others(options: FramesOptions) -> None:
    extract_frames(options)
    (folder(options, 1) / "run_g1-0003.jpg").unlink()
    killed = folder(options, 2).with_name(f"{TEMPORARY}0-run_g2")
    folder(options, 2).rename(killed)
    assert extract_frames(options).kept == 1
    assert extract_frames(options).kept == 3
    assert not killed.exists()


def test_another_size_replaces_the_frames(options: FramesOptions) -> None:
    extract_frames(options)
    assert extract_frames(replace(options, short_side=32)).written == 3


def test_broken_video_is_reported_and_the_others_are_written(
    options: FramesOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = options.data.data / "run" / "run_g2.avi"
    broken.write_bytes(b"no video")
    assert run(options) == 1
    out = capsys.readouterr().out
    assert f"ERROR: {broken}: " in out
    assert "2 videos (0 kept, 1 broken)" in out
    assert not folder(options, 2).exists()
    assert len(read_dataset(DataOptions(options.out), "test").records) == 1


def test_other_files_are_not_removed(options: FramesOptions) -> None:
    folder(options, 1).mkdir(parents=True)
    notes = folder(options, 1) / "notes.txt"
    notes.write_text("mine")
    with pytest.raises(UserError, match="is not a frame of this video"):
        extract_frames(options)
    assert notes.read_text() == "mine"


def test_videos_with_the_same_output_folder_are_refused(options: FramesOptions) -> None:
    data = options.data.data
    shutil.copytree(data / "run", data / "more")
    rows = ["path,class,split", "run/run_g1.avi,run,train", "more/run_g1.avi,run,train"]
    rows += ["run/run_g2.avi,run,validation", "run/run_g3.avi,run,test"]
    (data / "manifest.csv").write_text("\n".join(rows))
    with pytest.raises(UserError, match="both would become"):
        extract_frames(replace(options, data=DataOptions(data)))


def test_ucf101_frames_next_to_the_videos(tmp_path: Path, originals: Path) -> None:
    """The lists are valid for the frames too. In the same folder, they are not changed."""
    root = tmp_path / "ucf101"
    for group, split in FOLDERS.items():
        (root / split / "Run").mkdir(parents=True)
        name = f"v_Run_g{group:02d}_c01.avi"
        shutil.copy(originals / "run" / f"run_g{group}.avi", root / split / "Run" / name)
    lists = root / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Run\n")
    for group, split in FOLDERS.items():
        (lists / f"{split}list01.txt").write_text(f"Run/v_Run_g{group:02d}_c01.avi\n")
    options = FramesOptions(DataOptions(root), root)

    assert extract_frames(options).written == 3
    assert extract_frames(options).kept == 3
    elsewhere = replace(options, out=tmp_path / "elsewhere")
    assert extract_frames(elsewhere).written == 3
    for out, is_folder in ((root, False), (elsewhere.out, True)):
        (record,) = read_dataset(DataOptions(out), "test").records
        assert record.path.is_dir() == is_folder
        assert not (out / "manifest.csv").exists()
    with pytest.raises(UserError, match="frames already"):
        extract_frames(FramesOptions(DataOptions(elsewhere.out), elsewhere.out))


@pytest.mark.parametrize(
    "wrong", [{"quality": 0}, {"quality": 101}, {"short_side": 0}, {"workers": -1}]
)
def test_wrong_options(options: FramesOptions, wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match="must be"):
        replace(options, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["../../evil", "a//b", "a/../b", "..", "/evil"])
def test_a_class_name_that_leaves_the_folder_is_an_error(name: str, tmp_path: Path) -> None:
    write_video(tmp_path / "a.avi", 3)
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(f"path,class,split\na.avi,{name},train\nb.avi,ok,test\n")
    write_video(tmp_path / "b.avi", 3)
    out = tmp_path / "deep" / "out"
    with pytest.raises(UserError, match="this class name cannot be a folder name"):
        run(FramesOptions(DataOptions(manifest), out))
    assert {path.name for path in tmp_path.rglob("*")} == {"a.avi", "b.avi", "manifest.csv"}


def test_nested_classes_keep_their_folders(options: FramesOptions) -> None:
    data = options.data.data
    shutil.copytree(data / "run", data / "sports" / "ball" / "golf")
    extract_frames(options)
    for split in ("train", "test"):
        dataset = read_dataset(DataOptions(options.out), split)  # type: ignore[arg-type]
        assert dataset.class_names == ("run", "sports/ball/golf")
        assert [record.label for record in dataset.records] == [0, 1]
        assert dataset.records[1].path.parent == options.out / split / "sports" / "ball" / "golf"
    assert extract_frames(options).kept == 6


def test_undivided_videos_stay_undivided(options: FramesOptions) -> None:
    data = DataOptions(options.data.data, class_pattern="(run|walk)_")
    shutil.copy(data.data / "run" / "run_g1.avi", data.data / "walk_g1.avi")
    assert extract_frames(replace(options, data=data)).written == 4
    dataset = read_videos(options.out)
    assert dataset.class_names == ("run", "walk")
    places = [record.path.parent.relative_to(options.out) for record in dataset.records]
    assert sorted(map(str, places)) == ["run", "run", "run", "walk"]


@pytest.mark.parametrize("out", [".", "..", "frames", "run/frames", "run", "link", "link/run/x"])
def test_frames_do_not_become_a_part_of_the_data_set(options: FramesOptions, out: str) -> None:
    data = options.data.data
    (data.parent / "link").symlink_to(data)
    place = data.parent if out.startswith("link") else data
    with pytest.raises(UserError, match=r"--out .*(; choose another folder|choose a folder elsew)"):
        extract_frames(replace(options, out=place / out))
    assert {path.name for path in data.iterdir()} == {"run"}
    assert len([*data.rglob("*")]) == 4


def test_frames_do_not_become_a_part_of_a_linked_class(options: FramesOptions) -> None:
    data = options.data.data
    elsewhere = data.parent / "elsewhere"
    (data / "run").rename(elsewhere)
    (data / "run").symlink_to(elsewhere)
    with pytest.raises(UserError, match="would become a part of the data set"):
        extract_frames(replace(options, out=elsewhere / "frames"))


def test_frames_may_be_beside_the_videos_of_a_csv_file(options: FramesOptions) -> None:
    labels = options.data.data / "labels.csv"
    labels.write_text("path,class\nrun/run_g1.avi,run\nrun/run_g2.avi,run\n")
    out = labels.parent / "frames"
    assert extract_frames(replace(options, data=DataOptions(labels), out=out)).written == 2


def test_ucf101_divided_by_a_rule_gets_a_manifest(tmp_path: Path, originals: Path) -> None:
    root = tmp_path / "ucf101"
    shutil.copytree(originals / "run", root / "run")
    lists = root / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 run\n")
    (lists / "trainlist01.txt").write_text("run/run_g1.avi\nrun/run_g2.avi\n")
    (lists / "testlist01.txt").write_text("run/run_g3.avi\n")
    out = tmp_path / "out"
    rule = SplitRule(r"_g(\d)", test_groups=("1",))
    extract_frames(FramesOptions(DataOptions(root, splits=rule), out))
    assert [record.path.name for record in read_dataset(out, "test").records] == ["run_g1"]
