"""Classes that a pattern captures in the names of videos."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from helpers.folders import touch
from p3d.data.layouts import DataOptions, read_dataset, read_splits, read_videos
from p3d.data.splits import SplitRule
from p3d.errors import UserError

LAST_WORD = "_([^_]+)$"


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    touch(tmp_path, *(f"{who}_{what}.avi" for who in "abc" for what in ("run", "walk")))
    return tmp_path


def found(root: Path, pattern: str) -> dict[str, str]:
    dataset = read_videos(DataOptions(root, class_pattern=pattern))
    return {
        str(record.path.relative_to(root)): dataset.class_names[record.label]
        for record in dataset.records
    }


def test_classes_in_the_names_of_a_flat_folder(flat):
    assert found(flat, LAST_WORD) == {
        f"{who}_{what}.avi": what for who in "abc" for what in ("run", "walk")
    }
    (note,) = read_videos(DataOptions(flat, class_pattern=LAST_WORD)).remarks()
    assert note == "CLASSES by --class-pattern: 2, run, walk"


def test_without_a_pattern_a_flat_folder_has_no_classes(flat):
    with pytest.raises(
        UserError, match=r"has no class folders; .*/CLASS/, or give --class-pattern"
    ):
        read_videos(flat)


def test_classes_and_groups_in_the_same_names(flat):
    rule = SplitRule("^([^_]+)_", test_groups=("b",))
    parts = read_splits(DataOptions(flat, splits=rule, class_pattern=LAST_WORD))
    assert [record.path.name for record in parts["test"].records] == ["b_run.avi", "b_walk.avi"]
    assert [record.label for record in parts["test"].records] == [0, 1]
    assert len(parts["train"].records) == 4


def test_classes_in_folders_and_names_of_a_tree(tmp_path):
    touch(tmp_path, "day 1/run/1.avi", "day 1/walk/x/1.jpg", "day 2/run.3.avi", "9_walk.avi")
    touch(tmp_path, "day 2/run.3/1.jpg", "day 2/notes.txt", "day 2/empty/.hidden", "cover.png")
    assert found(tmp_path, "(run|walk)") == {
        "9_walk.avi": "walk",
        "day 1/run/1.avi": "run",
        "day 1/walk/x": "walk",
        "day 2/run.3.avi": "run",
    }
    dataset = read_videos(DataOptions(tmp_path, class_pattern="(run|walk)"))
    assert dataset.ignored == ("cover.png", "day 2/notes.txt")


def test_split_folders_are_not_a_part_of_the_path(tmp_path):
    touch(tmp_path, "train/a_run.avi", "train/a_walk.avi", "test/b_run.avi")
    options = DataOptions(tmp_path, class_pattern="^[a-z]_(.+)")
    parts = read_splits(options)
    assert {split: len(data.records) for split, data in parts.items()} == {
        "train": 2,
        "validation": 0,
        "test": 1,
    }
    assert parts["test"].class_names == ("run", "walk")


def test_a_folder_named_like_a_video_is_searched(tmp_path):
    touch(tmp_path, "run.avi", "run/1_run.avi", "run/more/2_run.avi", "walk.avi", "walk/1.jpg")
    assert found(tmp_path, "(run|walk)$") == {
        "run.avi": "run",
        "run/1_run.avi": "run",
        "run/more/2_run.avi": "run",
        "walk.avi": "walk",
    }


def test_videos_without_a_class_are_left_out_and_named(flat):
    touch(flat, "trailer.avi", "more/intro.avi")
    options = DataOptions(flat, class_pattern=LAST_WORD, splits=SplitRule(test_fraction=0.4))
    dataset = read_dataset(options, "train")
    assert not any("r.avi" in record.path.name for record in dataset.records)
    assert dataset.remarks()[1:] == [
        "IGNORED: 2 videos without a class by --class-pattern: trailer.avi, more/intro.avi"
    ]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(x)", r"finds no class in any of the 6 videos below \S+, such as a_run; fix the pattern"),
        ("(_)", "puts all of the 6 videos below .* into the class _; it must capture what differs"),
        ("_.+$", "has 0 pairs of parentheses; it needs one, around the class"),
        ("(", "--class-pattern '\\(' is not a valid regular expression"),
        ("(z*)", "finds no class in any"),
    ],
)
def test_wrong_patterns(flat, pattern, message):
    with pytest.raises(UserError, match=message) as caught:
        read_videos(DataOptions(flat, class_pattern=pattern))
    assert "\n" not in str(caught.value)


def test_a_folder_without_videos(tmp_path):
    touch(tmp_path, "a.txt")
    with pytest.raises(UserError, match="has no videos; add some, or fix --data"):
        read_videos(DataOptions(tmp_path, class_pattern="(.)"))


def test_two_spellings_of_a_captured_class(tmp_path):
    touch(tmp_path, "a_Run.avi", "b_run.avi")
    with pytest.raises(UserError, match="'Run' and 'run' differ only in case"):
        read_videos(DataOptions(tmp_path, class_pattern=LAST_WORD))


def test_lists_with_their_own_classes_refuse_a_pattern(flat):
    (flat / "ucfTrainTestlist").mkdir()
    with pytest.raises(
        UserError, match="ucfTrainTestlist: names the classes already; drop --class"
    ):
        read_videos(DataOptions(flat, class_pattern=LAST_WORD))


@pytest.mark.skipif("P3D_REAL_VIDEOS" not in os.environ, reason="P3D_REAL_VIDEOS is not set")
def test_real_names_give_the_same_classes_as_real_folders(tmp_path):
    root = Path(os.environ["P3D_REAL_VIDEOS"]) / "weizmann"
    folders = read_videos(root)
    for record in folders.records:
        (tmp_path / record.path.name).symlink_to(record.path)
    flat = read_videos(DataOptions(tmp_path, class_pattern="_([a-z]+[12]?)$"))
    assert flat.class_names == folders.class_names
    labels = {record.path.name: record.label for record in folders.records}
    assert {record.path.name: record.label for record in flat.records} == labels
