from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path

import pytest

from helpers.folders import touch
from p3d.data.dataset import VideoDataset
from p3d.data.layouts import (
    DataOptions,
    check_among,
    check_outside,
    read_dataset,
    read_splits,
    read_videos,
)
from p3d.data.splits import SplitRule
from p3d.errors import UserError

PEOPLE = ("ada", "ben", "cleo", "dan", "eve")
ACTIONS = ("Jump", "run", "walk")
BY_PERSON = "^([^_]+)_"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    touch(tmp_path, *(f"{action}/{person}_{action}.mp4" for action in ACTIONS for person in PEOPLE))
    return tmp_path


def read(root: Path, split, rule: SplitRule = SplitRule(), **options) -> VideoDataset:  # noqa: B008
    return read_dataset(DataOptions(root, splits=rule, **options), split)


def names(dataset: VideoDataset) -> list[str]:
    return ["/".join(record.path.parts[-2:]) for record in dataset.records]


def people(dataset: VideoDataset) -> set[str]:
    return {record.group for record in dataset.records}


def test_a_split_of_another_name_is_refused(root: Path) -> None:
    with pytest.raises(
        UserError, match="no split is called 'tset'; choose one of: train, validation, test"
    ):
        read(root, "tset")


def test_named_groups_are_held_out(root):
    rule = SplitRule(BY_PERSON, test_groups=("ben", "eve"), validation_groups=("ada",))
    parts = read_splits(DataOptions(root, splits=rule))
    assert parts == {split: read(root, split, rule) for split in ("train", "validation", "test")}
    assert people(parts["test"]) == {"ben", "eve"}
    assert people(parts["validation"]) == {"ada"}
    assert people(parts["train"]) == {"cleo", "dan"}
    for dataset in parts.values():
        assert dataset.class_names == ACTIONS
        for record in dataset.records:
            assert record.path.parent.name == ACTIONS[record.label]
    assert sum(len(dataset.records) for dataset in parts.values()) == 15


def test_named_test_groups_and_a_fraction_for_validation(root):
    rule = SplitRule(BY_PERSON, test_groups=("ben",), validation_fraction=0.2)
    assert people(read(root, "test", rule)) == {"ben"}
    assert len(people(read(root, "validation", rule))) == 1
    assert len(people(read(root, "train", rule))) == 3


def test_validation_is_empty_without_a_rule_for_it(root):
    assert names(read(root, "validation", SplitRule(test_fraction=0.2))) == []
    with pytest.raises(UserError, match="has no videos for test"):
        read(root, "test", SplitRule(validation_fraction=0.2))


def write_list(root: Path, name: str, *lines: str) -> Path:
    path = root / name
    path.write_text("\n".join(lines) + "\n")
    return path


def test_lists_define_splits_and_their_order(root):
    train = write_list(root, "a.txt", "walk/ada_walk.mp4", "", "./Jump/ben_Jump.mp4")
    test = write_list(root, "b.txt", "run\\eve_run")
    rule = SplitRule(BY_PERSON, train_list=train, test_list=test)
    assert names(read(root, "train", rule)) == ["walk/ada_walk.mp4", "Jump/ben_Jump.mp4"]
    assert names(read(root, "test", rule)) == ["run/eve_run.mp4"]
    assert people(read(root, "test", rule)) == {"eve"}
    assert names(read(root, "validation", rule)) == []


def test_lists_that_name_absent_videos(root):
    train = write_list(root, "a.txt", "walk/ada_walk.mp4", "walk/zoe_walk.mp4")
    rule = SplitRule(train_list=train)
    with pytest.raises(UserError, match=r"1 of 2 listed videos .*\(walk/zoe_walk.mp4\)"):
        read(root, "train", rule)
    dataset = read(root, "train", rule, allow_missing=True)
    assert names(dataset) == ["walk/ada_walk.mp4"]
    assert dataset.missing == 1
    with pytest.raises(UserError, match="no list says which videos are for test; give --test-list"):
        read(root, "test", rule)


def test_a_video_in_two_lists_is_an_error(root):
    train = write_list(root, "a.txt", "walk/ada_walk.mp4")
    test = write_list(root, "b.txt", "walk/ben_walk.mp4", "walk/ada_walk.mp4")
    with pytest.raises(
        UserError, match=r"b.txt:2: walk/ada_walk.mp4 is already listed in .*a.txt:1"
    ):
        read(root, "train", SplitRule(train_list=train, test_list=test))


def test_folders_are_listed_once_for_all_splits(root, monkeypatch):
    touch(root, "walk/zoe_walk/0001.jpg")
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))
    read_splits(DataOptions(root, splits=SplitRule(test_fraction=0.2)))
    assert len(listed) == len(set(listed)) == 5  # the root, three classes, one folder of frames


@pytest.mark.parametrize("validation", ["val", "validation", "valid", "validate"])
def test_folders_that_are_split_already(tmp_path, validation):
    touch(tmp_path, "train/run/1.avi", "train/walk/2.avi", "test/walk/3.avi", "notes/plan.txt")
    touch(tmp_path, f"{validation}/jump/4/0001.jpg", f"{validation}/jump/.DS_Store")
    for split, label, name in (
        ("train", 1, "run/1.avi"),
        ("test", 2, "walk/3.avi"),
        ("validation", 0, "jump/4"),
    ):
        dataset = read(tmp_path, split)
        assert dataset.class_names == ("jump", "run", "walk")
        assert names(dataset)[0] == name
        assert dataset.records[0].label == label
        assert dataset.records[0].path.exists()


@pytest.mark.parametrize("pattern", [None, "^([a-z]+)/"])
def test_videos_beside_split_folders_are_named(tmp_path, pattern):
    touch(tmp_path, "train/run/1.avi", "test/walk/2.avi", "run.avi", "walk.avi")
    remarks = read_videos(DataOptions(tmp_path, class_pattern=pattern)).remarks()
    assert remarks[-1] == "IGNORED: 2 videos beside the split folders: run.avi, walk.avi"


def test_split_folders_without_one_split(tmp_path):
    touch(tmp_path, "train/run/1.avi", "train/walk/2.avi")
    assert names(read(tmp_path, "validation")) == []
    with pytest.raises(UserError, match="has no videos for test"):
        read(tmp_path, "test")
    touch(tmp_path, "val/run/1.avi", "validation/run/1.avi")
    with pytest.raises(UserError, match="two folders for validation"):
        read(tmp_path, "validation")


def test_video_files_precede_frames_and_other_files_are_ignored(root):
    touch(root, "walk/ada_walk/0001.jpg", "walk/zoe_walk/0001.jpg", "walk/readme.txt")
    rule = SplitRule(BY_PERSON, test_groups=("ada", "zoe"))
    assert names(read(root, "test", rule))[-2:] == ["walk/ada_walk.mp4", "walk/zoe_walk"]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (SplitRule(), "nothing says which videos .*--test-fraction, .*--test-groups, .*--train-l"),
        (SplitRule(BY_PERSON), "nothing says which videos"),
        (SplitRule(test_fraction=1.0), "--test-fraction 1.0 must be at least 0 and below 1"),
        (SplitRule(validation_fraction=-0.1), "--validation-fraction -0.1 must be"),
        (SplitRule(test_fraction=float("nan")), "--test-fraction nan must be"),
        (SplitRule(test_fraction=0.5, validation_fraction=0.5), "leave nothing for training"),
        (SplitRule(test_groups=("ada",)), "need --group-pattern"),
        (SplitRule(BY_PERSON, test_groups=("Ada",)), "no group Ada; there are ada, ben, cleo,"),
        (SplitRule(BY_PERSON, validation_groups=("x",)), "--validation-groups: no group x"),
        (SplitRule(BY_PERSON, ("ada",), ("ada",)), "ada is for both"),
        (SplitRule(BY_PERSON, ("ada",), test_fraction=0.2), "--test-fraction or --test-groups"),
        (SplitRule(BY_PERSON, PEOPLE), "leaves no videos for train out of 15 videos in 5 groups"),
        (SplitRule("(", ("ada",)), r"'\(' is not a valid regular exp"),
        (SplitRule("^[a-z]+", ("ada",)), "has 0 pairs of parentheses; it needs one"),
        (SplitRule("^([a-d].*)_", ("ada",)), r"no group in Jump/eve_Jump.mp4 \(3 of 15 videos\)"),
        (SplitRule(train_list=Path("no.txt")), r"no.txt: cannot be read \(No such file"),
        (SplitRule(train_list=Path("no.txt"), test_fraction=0.1), "not both"),
    ],
)
def test_wrong_rules_are_errors(root, rule, message):
    with pytest.raises(UserError, match=message) as caught:
        read(root, "train", rule)
    assert "\n" not in str(caught.value)


def test_a_fraction_of_too_few_videos_is_an_error(tmp_path):
    touch(tmp_path, "run/1.avi", "walk/2.avi")
    with pytest.raises(UserError, match="leaves no videos for test out of 2 videos"):
        read(tmp_path, "train", SplitRule(test_fraction=0.5))


def test_folders_without_a_data_set(tmp_path):
    with pytest.raises(UserError, match="has no class folders; videos must be in"):
        read(tmp_path, "train")
    touch(tmp_path, "run/1.avi")
    (tmp_path / "walk").mkdir()
    with pytest.raises(UserError, match="walk: has no videos"):
        read(tmp_path, "train", SplitRule(test_fraction=0.5))


def test_nested_folders_are_classes_by_their_path(tmp_path):
    touch(
        tmp_path,
        "sports/ball/tennis/1.avi",
        "sports/ball/tennis/2/1.jpg",
        "sports/ball/golf/3/1.jpg",
    )
    touch(tmp_path, "sports/ball/notes.txt", "sports/ball/golf/notes.txt", "walk/4.avi", "5.avi")
    dataset = read_videos(tmp_path)
    assert dataset.class_names == ("sports/ball/golf", "sports/ball/tennis", "walk")
    found = [(str(r.path.relative_to(tmp_path)), r.label) for r in dataset.records]
    assert found == [
        ("sports/ball/golf/3", 0),
        ("sports/ball/tennis/1.avi", 1),
        ("sports/ball/tennis/2", 1),
        ("walk/4.avi", 2),
    ]
    assert dataset.remarks() == [
        "CLASSES are nested folders, such as sports/ball/golf",
        "IGNORED: 1 video beside the class folders: 5.avi",
        "IGNORED: 2 files that are not videos: sports/ball/notes.txt, sports/ball/golf/notes.txt",
    ]


def test_nested_classes_in_split_folders(tmp_path):
    touch(tmp_path, "train/sports/golf/1.avi", "train/walk/2.avi", "test/sports/golf/3.avi")
    for split, count in (("train", 2), ("test", 1)):
        dataset = read(tmp_path, split)
        assert dataset.class_names == ("sports/golf", "walk")
        assert len(dataset.records) == count


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["a/run/1.avi", "b/run/2.avi"],
            r"a/run and b/run may be one class or two; give --class-p",
        ),
        (
            ["videos/run/1.avi", "videos/walk/2.avi"],
            r"all class folders .*; give --data \S*/videos$",
        ),
        (
            ["run/1.avi", "walk/2.avi", "walk/fast/3.avi"],
            "walk: holds videos and the folder fast, ",
        ),
        (["run/1.avi", "sports/ball/x.txt"], r"ball: has no videos, only x\.txt; convert them"),
        (
            ["run/1.avi", "/".join("abcdefghijklmnopqrstuvwxyz") + "/1.avi"],
            "more than 20 folders deep",
        ),
    ],
)
def test_ambiguous_folders_are_errors(tmp_path, names, message):
    touch(tmp_path, *names)
    with pytest.raises(UserError, match=message) as caught:
        read_videos(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "classes"),
    [("([^/]+)/[^/]+$", ("run", "walk")), ("(.+)/", ("a/run", "a/walk", "b/run"))],
)
def test_the_patterns_that_the_message_offers(tmp_path, pattern, classes):
    touch(tmp_path, "a/run/1.avi", "a/walk/2.avi", "b/run/3.avi")
    with pytest.raises(UserError, match="may be one class or two") as caught:
        read_videos(tmp_path)
    assert repr(pattern) in str(caught.value)
    assert read_videos(DataOptions(tmp_path, class_pattern=pattern)).class_names == classes


@pytest.mark.skipif("P3D_REAL_VIDEOS" not in os.environ, reason="P3D_REAL_VIDEOS is not set")
def test_leave_one_person_out_on_real_videos():
    root = Path(os.environ["P3D_REAL_VIDEOS"]) / "weizmann"
    rule = SplitRule(BY_PERSON, test_groups=("daria",))
    assert len(read(root, "test", rule).records) == 10
    assert len(read(root, "train", rule).records) == 80


def test_files_that_are_not_videos_are_named(root):
    touch(root, "run/notes.txt", "run/.hidden", "walk/b.doc", "walk/clip.MTS", "walk/a_w/1.jpg")
    dataset = read(root, "train", SplitRule(test_fraction=0.2))
    assert dataset.ignored == ("run/notes.txt", "walk/b.doc")
    assert dataset.describe_ignored() == "2 files that are not videos: run/notes.txt, walk/b.doc"
    assert (
        len(dataset.records) + len(read(root, "test", SplitRule(test_fraction=0.2)).records)
        == 15 + 2
    )


def test_ignored_files_of_split_folders(tmp_path):
    touch(tmp_path, "train/run/1.avi", "train/run/x.srt", "test/run/2.avi", "extra/run/3.avi")
    assert read(tmp_path, "test").ignored == ("extra/", "train/run/x.srt")


def test_a_class_without_videos_names_its_files(tmp_path):
    touch(tmp_path, "run/1.avi", "walk/1.braw", "walk/2.braw")
    with pytest.raises(UserError, match=r"walk: has no videos, only 1\.braw, 2\.braw; convert"):
        read(tmp_path, "train", SplitRule(test_fraction=0.5))


COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize("names", [("Walk", "walk"), (COMPOSED, DECOMPOSED)])
@pytest.mark.parametrize("splits", [("", ""), ("train", "test")])
def test_two_spellings_of_a_class_are_an_error(tmp_path, names, splits):
    touch(tmp_path, f"{splits[0]}/{names[0]}/1.avi".lstrip("/"))
    touch(tmp_path, f"{splits[1]}/{names[1]}/2.avi".lstrip("/"))
    if len([*tmp_path.iterdir()]) < 2:
        pytest.skip("the file system makes the names equal")
    with pytest.raises(UserError, match="differ only in case or Unicode form; rename") as caught:
        read(tmp_path, "train")
    assert str(caught.value).isascii()


def test_lists_find_names_in_another_spelling(root):
    touch(root, f"run/{DECOMPOSED}_Run.avi")
    train = write_list(root, "a.txt", f"Run/{COMPOSED}_run.AVI", "WALK/ada_walk")
    rule = SplitRule(train_list=train)
    assert names(read(root, "train", rule)) == [f"run/{DECOMPOSED}_Run.avi", "walk/ada_walk.mp4"]
    train.write_text("walk/ada_walk.mp4\nWalk/Ada_walk.mp4\n")
    with pytest.raises(UserError, match=r"a.txt:2: .*already listed in .*a.txt:1"):
        read(root, "train", rule)


def test_lists_do_not_choose_between_two_spellings(root):
    touch(root, "walk/Ada_walk.mp4")
    train = write_list(root, "a.txt", "walk/ADA_WALK.mp4", "walk/Ada_walk.mp4")
    dataset = read(root, "train", SplitRule(train_list=train), allow_missing=True)
    assert names(dataset) == ["walk/Ada_walk.mp4"]
    assert dataset.missing == 1


@pytest.mark.parametrize("end", [" 0", ", 1", ",12", "  -1"])
def test_lists_with_labels_are_refused(root, end):
    train = write_list(root, "a.txt", "run/ada_run.mp4", f"walk/ada_walk.mp4{end}")
    with pytest.raises(UserError, match=r"a.txt:2: .* should be `CLASS/VIDEO` without a label"):
        read(root, "train", SplitRule(train_list=train), allow_missing=True)


@pytest.mark.parametrize(
    ("videos", "out", "fits"),
    [
        (["run/a.avi", "walk/b.avi"], "data/runs/mine", False),
        (["run/a.avi", "walk/b.avi"], "data", False),
        (["run/a.avi", "walk/b.avi"], "data/run/x", False),
        (["run/a.avi", "walk/b.avi"], "data/.runs/mine", True),
        (["run/a.avi", "walk/b.avi"], "runs/mine", True),
        (["train/run/a.avi", "test/run/b.avi"], "data/runs", True),
        (["train/run/a.avi", "test/run/b.avi"], "data/train/runs", False),
    ],
)
def test_results_are_not_written_where_they_would_be_a_class(
    tmp_path: Path, videos: list[str], out: str, fits: bool
) -> None:
    options = DataOptions(tmp_path / "data")
    for name in videos:
        (options.data / name).parent.mkdir(parents=True)
        (options.data / name).touch()
    with nullcontext() if fits else pytest.raises(UserError, match="is inside the data set"):
        check_outside(options, tmp_path / out)


@pytest.mark.parametrize(
    ("video", "out", "fits"),
    [
        ("walk/a.avi", "videos/scores", False),
        ("walk/a.avi", "videos", False),
        ("walk/a.avi", "videos/walk", False),
        ("walk/a.avi", "videos/.scores", True),
        ("walk/a.avi", "scores", True),
        ("a.avi", "videos/scores", True),  # videos outside of folders have no classes
    ],
)
def test_results_of_an_archive_become_no_class(
    video: str, out: str, fits: bool, tmp_path: Path
) -> None:
    path = tmp_path / "videos" / video
    path.parent.mkdir(parents=True)
    path.touch()
    given = [tmp_path / "videos", path, Path("x" * 300), Path("-")]
    with nullcontext() if fits else pytest.raises(UserError, match="is inside the data set"):
        check_among(given, tmp_path / out)


def test_results_may_be_inside_a_set_whose_classes_are_not_folders(tmp_path: Path) -> None:
    (tmp_path / "a_run.avi").touch()
    check_outside(DataOptions(tmp_path, class_pattern="_(.+)$"), tmp_path / "runs")
    (tmp_path / "manifest.csv").touch()
    check_outside(DataOptions(tmp_path), tmp_path / "runs")
