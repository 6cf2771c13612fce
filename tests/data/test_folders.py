from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p3d.data.dataset import VideoDataset
from p3d.data.layouts import DataOptions, read_dataset, read_splits
from p3d.data.splits import SplitRule, Video, divide
from p3d.errors import UserError

PEOPLE = ("ada", "ben", "cleo", "dan", "eve")
ACTIONS = ("Jump", "run", "walk")
BY_PERSON = "^([^_]+)_"


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


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


def make_videos(sizes: list[int], groups: int = 0) -> list[Video]:
    return [
        Video(f"class{label}", f"{n:03d}.avi", f"g{n % groups}" if groups else "")
        for label, size in enumerate(sizes)
        for n in range(size)
    ]


class_sizes = st.lists(st.integers(1, 30), min_size=1, max_size=6).filter(lambda s: max(s) > 2)
fractions = st.tuples(st.floats(0.01, 0.49), st.floats(0.01, 0.49))
seeds = st.integers(0, 1000)


@given(class_sizes, fractions, seeds)
def test_fractions_are_taken_from_every_class(sizes, fractions, seed):
    videos = make_videos(sizes)
    test, validation = fractions
    rule = SplitRule(test_fraction=test, validation_fraction=validation, split_seed=seed)
    parts = divide(videos, rule, "here")
    assert sorted(video for part in parts.values() for video in part) == videos
    for label, size in enumerate(sizes):
        counts = {
            split: sum(video.class_name == f"class{label}" for video in part)
            for split, part in parts.items()
        }
        assert counts["train"] >= 1
        if size >= 3:
            assert abs(counts["test"] - size * test) <= 1
            assert abs(counts["validation"] - size * validation) <= 1


@given(st.lists(st.integers(8, 30), min_size=1, max_size=6), fractions, seeds)
def test_fractions_never_divide_a_group(sizes, fractions, seed):
    videos = make_videos(sizes, groups=8)
    rule = SplitRule("(.)", test_fraction=fractions[0], split_seed=seed)
    parts = divide(videos, rule, "here")
    taken, left = ({video.group for video in parts[split]} for split in ("test", "train"))
    assert not taken & left
    assert abs(len(taken) - 8 * fractions[0]) <= 1


@given(st.integers(5, 30), st.floats(0.1, 0.5), seeds)
def test_a_new_video_moves_at_most_one_other(size, fraction, seed):
    rule = SplitRule(test_fraction=fraction, split_seed=seed)
    before, after = (set(divide(make_videos([n]), rule, "here")["test"]) for n in (size, size + 1))
    new = set(make_videos([size + 1])) - set(make_videos([size]))
    assert len((before ^ after) - new) <= 1


def test_the_choice_depends_on_the_seed_but_not_on_the_file_format():
    rule = SplitRule(test_fraction=0.3)
    videos = make_videos([30])
    frames = [video._replace(file_name=video.file_name[:-4]) for video in videos]
    chosen = divide(videos, rule, "here")["test"]
    assert [v.file_name[:-4] for v in chosen] == [
        v.file_name for v in divide(frames, rule, "here")["test"]
    ]
    other = SplitRule(test_fraction=0.3, split_seed=1)
    assert divide(videos, other, "here")["test"] != chosen


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
    with pytest.raises(UserError, match=r"is already split into .*; drop the split rule"):
        read(tmp_path, "train", SplitRule(test_fraction=0.1))


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


def test_a_tree_of_another_depth_is_not_taken_for_frames(tmp_path):
    touch(tmp_path, "first/run/1.avi", "second/run/2.avi")
    with pytest.raises(UserError, match=r"first/run: is neither a video file nor a folder of fr"):
        read(tmp_path, "train", SplitRule(test_fraction=0.5))


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
