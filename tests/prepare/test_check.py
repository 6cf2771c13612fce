"""Checks of data sets: all problems are reported, and set the exit code."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from helpers.videos import write_video
from p3d.data.layouts import DataOptions, read_dataset, read_videos
from p3d.data.splits import SplitRule
from p3d.errors import UserError
from p3d.prepare.check import check_dataset, run
from p3d.prepare.check_report import CheckReport
from p3d.prepare.options import CheckOptions

RULE = SplitRule(group_pattern=r"_g(\d+)", test_groups=("3",), validation_groups=("2",))


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of three videos of different lengths."""
    root = tmp_path_factory.mktemp("originals")
    for index, name in enumerate(("jump", "run")):
        (root / name).mkdir()
        for group in (1, 2, 3):
            length = 18 + 3 * index + group
            write_video(root / name / f"{name}_g{group}.avi", length, size=(48, 64))
    return root


@pytest.fixture
def data(originals: Path, tmp_path: Path) -> Path:
    return shutil.copytree(originals, tmp_path / "data")


def options(data: Path) -> CheckOptions:
    return CheckOptions(DataOptions(data, splits=RULE), workers=2)


def text_of(report: CheckReport) -> str:
    return "\n".join(report.lines())


@pytest.mark.parametrize("frames", ["ends", "all"])
def test_sound_data_set(data: Path, frames: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(replace(options(data), frames=frames)) == 0  # type: ignore[arg-type]
    out = capsys.readouterr().out
    assert "train: 2 videos, 1 in each of 2 classes" in out
    assert "frames: 19 to 24 (median 22); sizes: 64x48 (6); rates: 25 (6)" in out
    assert "WARNING" not in out
    assert out.splitlines()[-1] == "fit for training"


def test_broken_videos_are_named_but_skipped(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = data / "run" / "run_g1.avi"
    broken.write_bytes(b"no video at all")
    assert run(options(data)) == 0
    out = capsys.readouterr().out
    assert "WARNING: broken: 1, which training skips, and p3d eval with --on-bad-video skip" in out
    assert f"\n  {broken}: " in out
    assert "WARNING: classes without a training video: 1\n  run" in out
    assert out.splitlines()[-1] == "fit for training, which skips 1 video"


@pytest.mark.parametrize(("group", "split"), [(1, "training"), (2, "validation")])
def test_a_split_of_broken_videos_keeps_training_from_starting(
    data: Path, capsys: pytest.CaptureFixture[str], group: int, split: str
) -> None:
    for name in ("jump", "run"):
        (data / name / f"{name}_g{group}.avi").write_bytes(b"no video at all")
    assert run(options(data)) == 1
    out = capsys.readouterr().out
    assert f"ERROR: none of the 2 {split} videos can be read" in out
    assert out.splitlines()[-1] == "NOT fit for training, which cannot start: fix the errors above"


def test_broken_test_videos_do_not_concern_training(data: Path) -> None:
    for name in ("jump", "run"):
        (data / name / f"{name}_g3.avi").write_bytes(b"no video at all")
    report = check_dataset(options(data))
    assert report.lines()[-1] == "fit for training"


def test_no_split_rule_is_needed(data: Path, tmp_path: Path) -> None:
    (data / "run" / "run_g1.avi").write_bytes(b"no video at all")
    out = tmp_path / "m.csv"
    rule = SplitRule(group_pattern=r"_(g\d)")
    report = check_dataset(CheckOptions(DataOptions(data, splits=rule), out=out))
    assert report.fit
    text = text_of(report)
    assert "all: 5 videos, 2 to 3 (median 2) in each of 2 classes" in text
    assert "groups: 3, g1, g2, g3" in text
    assert report.lines()[-1] == (
        "fit for training, which skips 1 video; to divide the videos, give it --test-fraction or "
        "another rule"
    )
    dataset = read_videos(out)
    assert len(dataset.records) == 5
    assert {record.group for record in dataset.records} == {"g1", "g2", "g3"}


def test_classes_without_a_video_in_a_split_are_named(listed: Path) -> None:
    manifest = listed / "manifest.csv"
    lines = manifest.read_text().splitlines()
    lines = [line for line in lines if line != "run/run_g3.avi,run,test"]
    manifest.write_text(
        "\n".join(lines).replace("jump_g2.avi,jump,validation", "jump_g2.avi,jump,train")
    )
    text = text_of(check_dataset(CheckOptions(DataOptions(listed))))
    assert "WARNING: classes without a validation video: 1\n  jump\n" in text
    assert "WARNING: classes without a test video: 1\n  run\n" in text
    assert "without a training video" not in text


def test_unequal_classes_are_described(data: Path) -> None:
    for number in range(4, 10):
        write_video(data / "run" / f"run_g{number}.avi", 20 + number, size=(48, 64))
    report = check_dataset(CheckOptions(DataOptions(data)))
    assert (
        "WARNING: unequal classes: 1\n  run has 3 times the videos of jump (9 and 3); consider "
        "more videos of jump, and compare by mean class accuracy"
    ) in text_of(report)
    (data / "run" / "run_g9.avi").unlink()
    assert "unequal classes" not in text_of(check_dataset(CheckOptions(DataOptions(data))))


def test_long_videos_are_reported(data: Path) -> None:
    write_video(data / "run" / "long_g1.avi", 81, size=(48, 64))
    report = check_dataset(replace(options(data), clip_frames=1))
    assert (
        f"note: longer than 80 frames: 1\n  {data / 'run' / 'long_g1.avi'}: 81; 20 clips see 25% "
        "of it, cut out what matters"
    ) in text_of(report)


@pytest.mark.parametrize("option", ["out", "findings"])
def test_files_that_cannot_be_written_are_found_before_the_work(
    data: Path, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p3d.prepare.check.run_work", lambda *_: pytest.fail("has begun"))
    (data / "file").touch()
    (data / "manifest.csv").write_text("path,class\nrun/a.avi,run\n")
    for place, message in (
        (data / "file" / "x.csv", f"file: is a file, no folder; choose another --{option}"),
        (data / "run", "is a folder; give the name of a CSV file in it"),
        (data / "manifest.csv", f"--{option} .*: is the input itself, which would be replaced"),
    ):
        with pytest.raises(UserError, match=message):
            check_dataset(replace(options(data), **{option: place}))


def test_wrong_options_are_errors(data: Path) -> None:
    for wrong in ({"workers": -1}, {"clip_frames": 0}):
        with pytest.raises(UserError, match="must be at least"):
            replace(options(data), **wrong)


def test_truncated_video_is_reported(data: Path) -> None:
    path = data / "run" / "run_g1.avi"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 8 // 10])
    report = check_dataset(options(data))
    assert [facts.record.path for facts in report.incomplete] == [path]
    assert "WARNING: cut off or damaged: 1" in text_of(report)


def test_class_names_in_another_encoding_are_reported(data: Path) -> None:
    """A list that a Chinese or an old spreadsheet saved: training would keep the bytes."""
    lines = ["path,class", "run/run_g1.avi,跑", "jump/jump_g1.avi,jump"]
    (data / "list.csv").write_bytes("\n".join(lines).encode("gbk"))
    text = text_of(check_dataset(CheckOptions(DataOptions(data / "list.csv"))))
    assert "WARNING: class names that are not UTF-8; save the list or name the folder" in text
    assert "\n  \udcc5\udcdc\n" in text


def test_trimmed_video_is_whole(data: Path) -> None:
    """Phones trim without encoding again: the file keeps all frames, and what is shown."""
    trimmed = write_video(data / "run" / "trim_g1.mp4", 40, times=range(-10, 30))
    report = check_dataset(options(data))
    assert {facts.record.path: facts.record.num_frames for facts in report.videos}[trimmed] == 30
    assert not report.incomplete
    fast = {"movflags": "faststart"}
    cut = data / "run" / "cut_g1.mp4"
    write_video(cut, 40, gop=4, times=range(-10, 30), container_options=fast)
    content = cut.read_bytes()
    cut.write_bytes(content[: len(content) * 8 // 10])
    report = check_dataset(options(data))
    assert [(facts.record.path, facts.promised) for facts in report.incomplete] == [(cut, 30)]


def test_broken_frame_is_found_if_all_are_decoded(originals: Path) -> None:
    """The middle file of a folder of frames is not a picture."""
    root = originals.parent / "frames"
    for split in ("train", "test"):
        folder = root / split / "run" / f"run_{split}"
        folder.mkdir(parents=True)
        for number in range(1, 18):
            Image.new("RGB", (32, 24), (number, 0, 0)).save(folder / f"run-{number:04d}.jpg")
    (root / "train" / "run" / "run_train" / "run-0009.jpg").write_bytes(b"not a picture")
    check = CheckOptions(DataOptions(root))
    assert check_dataset(check).fit
    report = check_dataset(replace(check, frames="all"))
    assert [facts.record.path.name for facts in report.broken] == ["run_train"]


def test_short_videos_are_reported_but_fit(data: Path) -> None:
    report = check_dataset(replace(options(data), clip_frames=20))
    assert [facts.record.path.name for facts in report.short] == ["jump_g1.avi"]
    assert report.fit


def test_same_content_in_two_splits_is_reported(data: Path) -> None:
    shutil.copy(data / "run" / "run_g1.avi", data / "run" / "copy_g3.avi")
    report = check_dataset(options(data))
    (group,) = report.duplicates
    assert {facts.split for facts in group} == {"train", "test"}
    assert "WARNING: the same content in two splits: 1" in text_of(report)


def test_different_videos_of_equal_size_are_not_duplicates(data: Path) -> None:
    content = (data / "run" / "run_g1.avi").read_bytes()
    changed = content[:-1] + bytes([content[-1] ^ 1])
    (data / "run" / "other_g1.avi").write_bytes(changed)
    assert not check_dataset(options(data)).duplicates


@pytest.fixture
def listed(data: Path) -> Path:
    """The same data set with a manifest that has no frames and rates."""
    rows = ["path,class,split"]
    splits = {1: "train", 2: "validation", 3: "test"}
    for group, split in splits.items():
        rows += [f"{name}/{name}_g{group}.avi,{name},{split}" for name in ("jump", "run")]
    (data / "manifest.csv").write_text("\n".join(rows))
    return data


def test_missing_and_unlisted_videos(listed: Path) -> None:
    missing = listed / "run" / "run_g1.avi"
    missing.rename(listed / "run" / "unknown.avi")
    check = CheckOptions(DataOptions(listed))
    report = check_dataset(check)
    assert not report.fit
    assert f"ERROR: missing: 1, see --allow-missing\n  {missing}" in text_of(report)
    assert "note: in the folder, but in no list: 1" in text_of(report)
    assert len(report.sound) == 5

    allowed = check_dataset(replace(check, data=replace(check.data, allow_missing=True)))
    assert allowed.fit
    assert f"note: missing: 1\n  {missing}" in text_of(allowed)


def test_split_without_any_video(listed: Path) -> None:
    for path in listed.glob("*/*_g3.avi"):
        path.unlink()
    check = CheckOptions(DataOptions(listed))
    report = check_dataset(check)
    assert [split for split, _ in report.missing] == ["test", "test"]
    assert not report.fit
    allowed = check_dataset(replace(check, data=replace(check.data, allow_missing=True)))
    assert allowed.fit
    assert "WARNING: 2 of 2 listed videos are not under" in text_of(allowed)
    assert report.lines()[-1].startswith("fit for training, but p3d eval cannot start")


def test_all_findings_are_written(listed: Path, tmp_path: Path) -> None:
    out = tmp_path / "found" / "findings.csv"
    with (listed / "manifest.csv").open("a") as file:
        file.writelines(f"\nrun/gone_{number}.avi,run,train" for number in range(12))
    (listed / "run" / "run_g3.avi").write_bytes(b"no video")
    report = check_dataset(replace(CheckOptions(DataOptions(listed)), findings=out))
    assert "  and 2 more, see --findings" in report.lines()
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    missing = [row["place"] for row in rows if row["kind"] == "missing"]
    assert missing == [str(listed / "run" / f"gone_{number}.avi") for number in range(12)]
    (broken,) = [row for row in rows if row["kind"] == "broken"]
    assert broken["level"] == "WARNING"
    assert broken["split"] == "test"
    assert broken["place"] == str(listed / "run" / "run_g3.avi")
    assert "FFmpeg" in broken["detail"]


def test_link_to_a_listed_video_is_not_unlisted(listed: Path) -> None:
    (listed / "again.avi").hardlink_to(listed / "run" / "run_g1.avi")
    (listed / "soft.avi").symlink_to(listed / "run" / "run_g1.avi")
    assert not check_dataset(CheckOptions(DataOptions(listed))).unlisted


def test_manifest_has_frames_and_rates(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "checked" / "manifest.csv"
    (data / "run" / "run_g2.avi").write_bytes(b"broken")
    check_dataset(replace(options(data), out=out))
    train = read_dataset(DataOptions(out), "train")
    assert train.class_names == ("jump", "run")
    assert [(r.path.name, r.num_frames, r.fps) for r in train.records] == [
        ("jump_g1.avi", 19, 25.0),
        ("run_g1.avi", 22, 25.0),
    ]
    assert len(read_dataset(DataOptions(out), "validation").records) == 1


def test_unreadable_split_is_reported_with_the_others(listed: Path) -> None:
    manifest = listed / "manifest.csv"
    manifest.write_text(manifest.read_text().replace(",train", ",test"))
    report = check_dataset(CheckOptions(DataOptions(listed)))
    assert not report.fit
    assert "ERROR: " in text_of(report)
    assert "no videos for train" in text_of(report)
    assert len(report.sound) == 6


def test_a_data_set_without_test_videos_is_fit_for_training(listed: Path) -> None:
    manifest = listed / "manifest.csv"
    manifest.write_text(manifest.read_text().replace(",test", ",train"))
    report = check_dataset(CheckOptions(DataOptions(listed)))
    assert report.fit
    assert "WARNING: " in text_of(report)
    assert "no videos for test" in text_of(report)


def test_missing_data_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        check_dataset(CheckOptions(DataOptions(tmp_path / "nothing")))


def test_ignored_files_are_counted_and_named(data: Path) -> None:
    for number in range(12):
        (data / "run" / f"{number:02d}.srt").touch()
    report = check_dataset(options(data))
    assert report.fit
    kind = "note: ignored, as its suffix is not that of a video"
    lines = report.lines()
    index = lines.index(f"{kind}: 12")
    assert lines[index + 1] == "  run/00.srt"
    assert lines[index + 11] == "  and 2 more, see --findings"
