"""UCF101 arranged from a folder: counts, links, resuming, and errors."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.ucf101_names import clips, make_lists
from p3d.errors import UserError
from p3d.prepare.lists import clip_group
from p3d.prepare.options import Ucf101Options
from p3d.prepare.ucf101 import prepare_ucf101
from p3d.system.files import TEMPORARY


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder like the unpacked archive, with the lists inside."""
    folder = tmp_path / "source"
    for clip in clips():
        path = folder / "UCF-101" / clip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(clip.encode())
    make_lists(folder / "ucfTrainTestlist", clips())
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def list_lines(folder: Path, name: str) -> list[str]:
    return (folder / "ucfTrainTestlist" / name).read_text().splitlines()


def test_every_clip_gets_into_its_split_and_the_source_is_unchanged(
    source: Path, tmp_path: Path
) -> None:
    before = tree(source)
    out = tmp_path / "ucf101"

    summary = prepare_ucf101(Ucf101Options(source, out))

    assert tree(source) == before
    assert summary.present == {"train": 15 * 3, "validation": 3 * 3, "test": 7 * 3}
    for path, content in tree(out).items():
        split, _, clip = path.partition("/")
        if split != "ucfTrainTestlist":
            assert content == clip.encode()
            group = clip_group(clip)
            expected = "test" if group < 8 else "validation" if group < 11 else "train"
            assert split == expected


def test_lists_of_all_folds_are_written_with_labels(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "ucf101"
    prepare_ucf101(Ucf101Options(source, out, fold=2))

    assert list_lines(out, "classInd.txt") == ["1 Archery", "2 HandstandPushups", "3 YoYo"]
    for number, held_out in ((1, range(8, 11)), (2, range(1, 4)), (3, range(22, 25))):
        train = list_lines(out, f"trainlist{number:02d}.txt")
        validation = list_lines(out, f"validationlist{number:02d}.txt")
        test = list_lines(out, f"testlist{number:02d}.txt")
        assert {clip_group(line.split()[0]) for line in validation} == set(held_out)
        assert (len(train), len(validation), len(test)) == (45, 9, 21)
        assert "HandstandPushups/v_HandStandPushups_g25_c01.avi 2" in train
        assert all(" " not in line for line in test)


@pytest.mark.parametrize("link", ["hard", "symbolic", "copy"])
def test_link_modes(source: Path, tmp_path: Path, link: str) -> None:
    out = tmp_path / "ucf101"
    prepare_ucf101(Ucf101Options(source, out, link=link))  # type: ignore[arg-type]

    clip = "YoYo/v_YoYo_g01_c01.avi"
    target, original = out / "test" / clip, source / "UCF-101" / clip
    assert target.is_symlink() == (link == "symbolic")
    assert target.samefile(original) == (link != "copy")


def test_hard_links_become_copies_across_file_systems(source: Path) -> None:
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == source.stat().st_dev:
        pytest.skip("needs a second file system: no /dev/shm here")
    out = shared / f"p3d-test-{os.getpid()}"
    try:
        summary = prepare_ucf101(Ucf101Options(source, out))
        assert "75 clips copied" in "\n".join(summary.lines())
    finally:
        shutil.rmtree(out, ignore_errors=True)


def test_second_run_does_nothing_and_resumes_a_killed_one(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "ucf101"
    options = Ucf101Options(source, out, link="copy")
    prepare_ucf101(options)
    finished = tree(out)

    assert prepare_ucf101(options).kept == len(clips())

    shutil.rmtree(out / "test" / "YoYo")
    (out / "train" / "YoYo" / f"{TEMPORARY}0-v_YoYo_g25_c01.avi").write_bytes(b"half")
    (out / "ucfTrainTestlist" / "testlist01.txt").unlink()
    assert prepare_ucf101(options).kept == len(clips()) - 7
    assert tree(out) == finished


def test_run_killed_repeatedly_has_only_complete_clips_and_resumes(tmp_path: Path) -> None:
    named = clips(per_group=4)
    source, out, whole = tmp_path / "source", tmp_path / "ucf101", tmp_path / "whole"
    for clip in named:
        path = source / clip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(clip.encode() * 4_000)
    make_lists(source / "ucfTrainTestlist", named)
    expected = prepare_ucf101(Ucf101Options(source, whole))
    contents = tree(whole)
    program = (
        "from pathlib import Path; from p3d.prepare.ucf101 import *; "
        f"prepare_ucf101(Ucf101Options(Path({str(source)!r}), Path({str(out)!r}), link='copy', "
        "workers=1))"
    )
    finished: dict[str, bytes] = {}
    for fraction in (0.1, 0.4, 0.8):
        process = subprocess.Popen([sys.executable, "-c", program])
        while process.poll() is None and len(list(out.glob("*/*/v_*.avi"))) < fraction * len(named):
            time.sleep(0.001)
        process.kill()
        process.wait()
        before, finished = finished, {p: c for p, c in tree(out).items() if ".p3d-" not in p}
        assert before.items() <= finished.items() <= contents.items()
        assert finished

    assert prepare_ucf101(Ucf101Options(source, out, link="copy")).present == expected.present
    assert tree(out) == contents


def test_dry_run_counts_and_writes_nothing(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "ucf101"
    summary = prepare_ucf101(Ucf101Options(source, out, dry_run=True))
    assert "45 train, 9 validation, 21 test" in summary.lines()[0]
    assert not out.exists()


def test_missing_clips_are_refused_or_skipped(source: Path, tmp_path: Path) -> None:
    (source / "UCF-101" / "YoYo" / "v_YoYo_g01_c01.avi").unlink()
    (source / "UCF-101" / "YoYo" / "v_YoYo_g02_c01.avi").write_bytes(b"")
    out = tmp_path / "ucf101"
    with pytest.raises(UserError, match=r"2 of 75 listed clips are missing.*--allow-missing"):
        prepare_ucf101(Ucf101Options(source, out))
    assert not out.exists()

    summary = prepare_ucf101(Ucf101Options(source, out, allow_missing=True))
    assert summary.missing == ("YoYo/v_YoYo_g01_c01.avi", "YoYo/v_YoYo_g02_c01.avi")
    assert summary.present["test"] == 19
    assert "WARNING: 2 of 75 clips are missing" in "\n".join(summary.lines())


def test_source_without_any_clip_is_refused(source: Path, tmp_path: Path) -> None:
    shutil.rmtree(source / "UCF-101")
    with pytest.raises(UserError, match="75 of 75 listed clips"):
        prepare_ucf101(Ucf101Options(source, tmp_path / "ucf101", allow_missing=True))


@pytest.mark.parametrize("folder", ["", "train", "ucfTrainTestlist"])
def test_file_in_place_of_a_folder(source: Path, tmp_path: Path, folder: str) -> None:
    blocked = tmp_path / "ucf101" / folder
    blocked.parent.mkdir(exist_ok=True)
    blocked.touch()
    with pytest.raises(UserError, match=r"ucf101.*: cannot be written"):
        prepare_ucf101(Ucf101Options(source, tmp_path / "ucf101"))


def test_half_prepared_folder_is_completed(source: Path, tmp_path: Path) -> None:
    """As other tools leave it: some clips are in the split folders."""
    out = tmp_path / "ucf101"
    prepare_ucf101(Ucf101Options(source, out, link="copy"))
    finished = tree(out)
    shutil.rmtree(source)
    (out / "videos").mkdir()
    shutil.move(out / "train" / "YoYo", out / "videos" / "YoYo")

    summary = prepare_ucf101(Ucf101Options(out, out))

    assert summary.kept == len(clips()) - 15
    assert {p: c for p, c in tree(out).items() if not p.startswith("videos")} == finished


def test_another_fold_needs_another_folder(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "ucf101"
    prepare_ucf101(Ucf101Options(source, out))
    before = tree(out)
    with pytest.raises(UserError, match="belong to another split; give another --out"):
        prepare_ucf101(Ucf101Options(source, out, fold=2))
    with pytest.raises(UserError, match="belong to another split; give another --out"):
        prepare_ucf101(Ucf101Options(source, out, validation="none"))
    assert tree(out) == before


def test_without_validation_the_whole_list_is_for_training(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "ucf101"
    summary = prepare_ucf101(Ucf101Options(source, out, validation="none"))
    assert summary.present == {"train": 54, "validation": 0, "test": 21}
    assert not list((out / "ucfTrainTestlist").glob("validationlist*"))


def test_unlisted_and_repeated_files_are_counted(source: Path, tmp_path: Path) -> None:
    (source / "v_YoYo_g01_c01.avi").write_bytes(b"YoYo/v_YoYo_g01_c01.avi")
    (source / "v_Other_g01_c01.avi").write_bytes(b"other")
    summary = prepare_ucf101(Ucf101Options(source, tmp_path / "ucf101", dry_run=True))
    assert (summary.repeated, summary.unlisted) == (1, 1)


def test_files_of_one_name_and_different_size_are_refused(source: Path, tmp_path: Path) -> None:
    (source / "v_YoYo_g01_c01.avi").write_bytes(b"something else")
    with pytest.raises(UserError, match="remove the wrong one"):
        prepare_ucf101(Ucf101Options(source, tmp_path / "ucf101"))


def test_lists_and_files_may_differ_in_case(source: Path, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        path = source / "ucfTrainTestlist" / f"trainlist{number:02d}.txt"
        path.write_text(path.read_text().replace("v_HandStand", "v_Handstand"))
    summary = prepare_ucf101(Ucf101Options(source, tmp_path / "ucf101"))
    assert not summary.missing
    assert summary.unlisted == 0


def test_output_folder_in_the_source_is_not_searched(source: Path) -> None:
    options = Ucf101Options(source, source / "ucf101")
    prepare_ucf101(options)
    assert prepare_ucf101(options).repeated == 0
