"""Lists of UCF101: found, read, split by whole groups, and written."""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.ucf101_names import clips, make_lists
from p3d.errors import UserError
from p3d.prepare.lists import clip_group, find_lists, read_lists, write_lists


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    return make_lists(tmp_path / "source" / "ucfTrainTestlist", clips())


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("classInd.txt", "1 Archery\n3 YoYo\n", "should be `2 ClassName`"),
        ("classInd.txt", "1 ../x\n", "should be `1 ClassName`"),
        ("trainlist01.txt", "YoYo/v_YoYo_g09_c01.avi 1\n", "label 1, but YoYo is 3"),
        ("trainlist01.txt", "Nope/v_Nope_g09_c01.avi 1\n", "class Nope is not in classInd.txt"),
        ("trainlist01.txt", "YoYo/v_YoYo_g01_c01.avi 3\n", "both the training and the test list"),
        ("trainlist01.txt", "YoYo/yoyo.avi 3\n", "must end in _gGG_cCC.avi"),
    ],
)
def test_wrong_lists_are_refused(lists: Path, file: str, text: str, message: str) -> None:
    (lists / file).write_text(text)
    with pytest.raises(UserError, match=message):
        read_lists(lists, "public")


def test_missing_lists(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--lists"):
        find_lists(tmp_path)


def test_finds_lists_in_the_source_and_in_a_zip_next_to_it(lists: Path, tmp_path: Path) -> None:
    source = lists.parent
    assert find_lists(source) == find_lists(lists) == lists
    archive = shutil.make_archive(str(tmp_path / "splits"), "zip", source, lists.name)
    expected = read_lists(lists, "public")
    shutil.rmtree(lists)
    assert find_lists(source) == Path(archive)
    assert read_lists(Path(archive), "public") == expected


def test_odd_zips_beside_the_source_are_skipped(lists: Path, tmp_path: Path) -> None:
    """The central directory of one has a truncated extra field, another is cut off."""
    source = lists.parent
    archive = shutil.make_archive(str(tmp_path / "splits"), "zip", source, lists.name)
    good = Path(archive).read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as writer:
        info = zipfile.ZipInfo("classInd.txt")
        info.extra = struct.pack("<HH", 1, 8) + bytes(8)
        writer.writestr(info, b"1 x")
    data = (tmp_path / "a.zip").read_bytes()
    at = data.rindex(struct.pack("<HH", 1, 8))
    (tmp_path / "a.zip").write_bytes(data[: at + 2] + b"\xff\xff" + data[at + 4 :])
    (tmp_path / "b.zip").write_bytes(good[:-30])
    (tmp_path / "c.zip").write_bytes(good.replace(b"PK\x01\x02", b"PK\x01\x03", 1))
    (tmp_path / "d.zip").mkdir()
    (tmp_path / "e.zip").write_bytes(b"")
    shutil.rmtree(lists)
    assert find_lists(source) == Path(archive)
    Path(archive).unlink()
    with pytest.raises(UserError, match=r"found \(skipped .*a\.zip: .*\); give the official lists"):
        find_lists(source)


def test_other_text_files_beside_the_lists_are_not_read(lists: Path) -> None:
    expected = read_lists(lists, "public")
    (lists / "readme.txt").write_bytes("notes".encode("utf-16"))
    assert read_lists(lists, "public") == expected


def test_lists_of_the_size_of_ucf101(tmp_path: Path) -> None:
    """101 classes of 25 groups with 5 or 6 clips: 13,320 in total, as in UCF101."""
    classes = tuple(f"Class{label:03d}" for label in range(101))
    groups = [(name, group) for name in classes for group in range(1, 26)]
    named = [
        f"{name}/v_{name}_g{group:02d}_c{clip:02d}.avi"
        for index, (name, group) in enumerate(groups)
        for clip in range(1, 6 + (index < 13_320 - 5 * len(groups)))
    ]
    lists = read_lists(make_lists(tmp_path / "lists", named, classes), "public")
    write_lists(lists, tmp_path / "written")
    assert read_lists(tmp_path / "written", "public") == lists
    assert len(lists.clips()) == 13_320
    for fold in lists.folds.values():
        seen = Counter(clip for part in fold.values() for clip in part)
        assert set(seen.values()) == {1}
        assert len(seen) == 13_320
        of_split = {
            split: {(clip.partition("/")[0], clip_group(clip)) for clip in part}
            for split, part in fold.items()
        }
        assert sum(map(len, of_split.values())) == len(groups)
        assert len(set().union(*of_split.values())) == len(groups)


def test_counts_of_the_official_lists() -> None:
    root = os.environ.get("P3D_REAL_VIDEOS")
    if not root:
        pytest.skip("needs the official lists: set P3D_REAL_VIDEOS to the folder with ucf101/")
    lists = read_lists(Path(root) / "ucf101" / "ucfTrainTestlist", "public")
    counts = {
        number: tuple(len(fold[split]) for split in ("train", "validation", "test"))
        for number, fold in lists.folds.items()
    }
    assert counts == {
        1: (7_912, 1_625, 3_783),
        2: (7_995, 1_591, 3_734),
        3: (8_056, 1_568, 3_696),
    }
    assert len(lists.class_names) == 101
    assert len(lists.clips()) == 13_320


@settings(max_examples=30, deadline=None)
@given(st.sets(st.tuples(st.integers(0, 2), st.integers(1, 25), st.integers(1, 7)), min_size=1))
def test_any_lists_are_split_by_whole_groups(
    chosen: set[tuple[int, int, int]],
) -> None:
    names = ("Archery", "HandstandPushups", "YoYo")
    named = sorted(f"{names[c]}/v_{names[c]}_g{g:02d}_c{i:02d}.avi" for c, g, i in chosen)
    with tempfile.TemporaryDirectory() as folder:
        public = read_lists(make_lists(Path(folder) / "lists", named), "public")
        write_lists(public, Path(folder) / "public")
        assert read_lists(Path(folder) / "public", "public") == public
        whole = read_lists(Path(folder) / "public", "none")
    for number, fold in public.folds.items():
        assert sorted(clip for part in fold.values() for clip in part) == named
        groups = [{clip_group(clip) for clip in part} for part in fold.values()]
        assert sum(map(len, groups)) == len(set().union(*groups))
        united = {*fold["train"], *fold["validation"]}
        assert set(whole.folds[number]["train"]) == united
        assert not whole.folds[number]["validation"]
