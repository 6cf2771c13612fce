"""Rules divide any list of labeled videos, and keep groups together."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.folders import touch
from p3d.data.dataset import Listing, VideoRecord
from p3d.data.layouts import DataOptions, list_dataset, read_dataset, read_splits, read_videos
from p3d.data.splits import SplitRule, apply_rule, divide
from p3d.errors import UserError

HERE = Path("here")


def make_listing(sizes: list[int], groups: int = 0, suffix: str = ".avi") -> Listing:
    records = tuple(
        VideoRecord(
            HERE / f"class{label}" / f"{n:03d}{suffix}", label, f"g{n % groups}" if groups else ""
        )
        for label, size in enumerate(sizes)
        for n in range(size)
    )
    return Listing(HERE, tuple(f"class{label}" for label in range(len(sizes))), {None: records})


class_sizes = st.lists(st.integers(1, 30), min_size=1, max_size=6).filter(lambda s: max(s) > 2)
fractions = st.tuples(st.floats(0.01, 0.49), st.floats(0.01, 0.49))
seeds = st.integers(0, 1000)


@given(class_sizes, fractions, seeds)
def test_fractions_are_taken_from_every_class(sizes, fractions, seed):
    listing = make_listing(sizes)
    test, validation = fractions
    rule = SplitRule(test_fraction=test, validation_fraction=validation, split_seed=seed)
    parts = divide(listing, rule)
    assert {r for part in parts.values() for r in part} == set(listing.records)
    assert sum(map(len, parts.values())) == len(listing.records)
    for label, size in enumerate(sizes):
        counts = {s: sum(r.label == label for r in part) for s, part in parts.items()}
        assert counts["train"] >= 1
        if size >= 3:
            assert abs(counts["test"] - size * test) <= 1
            assert abs(counts["validation"] - size * validation) <= 1


@given(st.lists(st.integers(8, 30), min_size=1, max_size=6), fractions, seeds)
def test_fractions_never_divide_a_group(sizes, fractions, seed):
    rule = SplitRule(test_fraction=fractions[0], split_seed=seed)
    parts = divide(make_listing(sizes, groups=8), rule)
    taken, left = ({record.group for record in parts[split]} for split in ("test", "train"))
    assert not taken & left
    assert abs(len(taken) - 8 * fractions[0]) <= 1


@given(st.integers(5, 30), st.floats(0.1, 0.5), seeds)
def test_a_new_video_moves_at_most_one_other(size, fraction, seed):
    rule = SplitRule(test_fraction=fraction, split_seed=seed)
    before, after = (set(divide(make_listing([n]), rule)["test"]) for n in (size, size + 1))
    new = set(make_listing([size + 1]).records) - set(make_listing([size]).records)
    assert len((before ^ after) - new) <= 1


def test_the_choice_depends_on_the_seed_but_not_on_the_file_format():
    rule = SplitRule(test_fraction=0.3)
    chosen = [r.path.stem for r in divide(make_listing([30]), rule)["test"]]
    assert [r.path.name for r in divide(make_listing([30], suffix=""), rule)["test"]] == chosen
    other = SplitRule(test_fraction=0.3, split_seed=1)
    assert [r.path.stem for r in divide(make_listing([30]), other)["test"]] != chosen


def test_the_choice_is_that_of_earlier_versions():
    """A run that resumes or is evaluated by a later version has the same lists."""
    parts = divide(make_listing([6, 4]), SplitRule(test_fraction=0.3, validation_fraction=0.2))
    found = {split: ["/".join(r.path.parts[1:]) for r in part] for split, part in parts.items()}
    assert found == {
        "train": [f"class0/00{n}.avi" for n in (2, 4, 5)] + ["class1/000.avi", "class1/001.avi"],
        "validation": ["class0/003.avi", "class1/002.avi"],
        "test": ["class0/000.avi", "class0/001.avi", "class1/003.avi"],
    }


def test_missing_videos_are_not_counted_but_stay_with_their_group():
    listing = make_listing([8], groups=4)
    gone = {record.path: record.path.name for record in listing.records[4:]}
    divided = divide(replace(listing, missing=gone), SplitRule(test_groups=("g1",)))
    assert [record.path.stem for record in divided["test"]] == ["001", "005"]
    all_gone = {record.path: "" for record in listing.records if record.group == "g1"}
    with pytest.raises(UserError, match="no group g1; there are g0, g2, g3"):
        divide(replace(listing, missing=all_gone), SplitRule(test_groups=("g1",)))


PEOPLE = ("ada", "ben", "cleo", "dan", "eve")
BY_PERSON = "^([^_]+)_"


NAMES = [f"{action}/{person}_{action}.avi" for action in ("run", "walk") for person in PEOPLE]
SPLIT_OF = dict(zip(PEOPLE, ("train", "train", "train", "validation", "test"), strict=True))


def make_folders(root: Path) -> Path:
    touch(root, *NAMES)
    return root


def make_split_folders(root: Path) -> Path:
    touch(root, *(f"{SPLIT_OF[name.split('/')[1][:-4].split('_')[0]]}/{name}" for name in NAMES))
    return root


def make_csv(root: Path, columns: str = "path,class") -> Path:
    touch(root, *NAMES)
    rows = []
    for name in NAMES:
        action, person = name.split("/")[0], name.split("/")[1].split("_")[0]
        values = {"path": name, "class": action, "group": person, "split": SPLIT_OF[person]}
        rows.append(",".join(values[column] for column in columns.split(",")))
    path = root / "labels.csv"
    path.write_text("\n".join([columns, *rows]))
    return path


def make_divided_csv(root: Path) -> Path:
    return make_csv(root, "path,class,split")


def make_ucf101(root: Path) -> Path:
    touch(root, *(f"videos/{name}" for name in NAMES))
    lists = root / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 run\n2 walk\n")
    for split in ("train", "validation", "test"):
        names = [n for n in NAMES if SPLIT_OF[n.split("/")[1].split("_")[0]] == split]
        (lists / f"{split}list01.txt").write_text("\n".join(names))
    return root


DIVIDED = [make_split_folders, make_divided_csv, make_ucf101]
EVERY = [make_folders, make_csv, *DIVIDED]


def people(dataset) -> set[str]:
    return {record.path.name.split("_")[0] for record in dataset.records}


@pytest.mark.parametrize("make", EVERY)
def test_any_layout_is_divided_by_named_groups(make, tmp_path):
    rule = SplitRule(BY_PERSON, test_groups=("ada", "dan"), validation_groups=("eve",))
    parts = read_splits(DataOptions(make(tmp_path), splits=rule))
    assert [people(parts[split]) for split in ("train", "validation", "test")] == [
        {"ben", "cleo"},
        {"eve"},
        {"ada", "dan"},
    ]
    for dataset in parts.values():
        for record in dataset.records:
            assert dataset.class_names[record.label] == record.path.parent.name
            assert record.group == record.path.name.split("_")[0]


@pytest.mark.parametrize("make", EVERY)
def test_any_layout_is_divided_by_fractions(make, tmp_path):
    rule = SplitRule(test_fraction=0.4, validation_fraction=0.2)
    parts = read_splits(DataOptions(make(tmp_path), splits=rule))
    assert {split: len(data.records) for split, data in parts.items()} == {
        "train": 4,
        "validation": 2,
        "test": 4,
    }


@pytest.mark.parametrize("make", EVERY)
def test_any_layout_is_divided_by_lists(make, tmp_path):
    train, test = tmp_path / "a.txt", tmp_path / "b.txt"
    train.write_text("run/ada_run.avi\nwalk/ben_walk\n")
    test.write_text("run/eve_run.avi\n")
    data = make(tmp_path / "set")
    rule = SplitRule(train_list=str(train), test_list=str(test))  # type: ignore[arg-type]
    parts = read_splits(DataOptions(data, splits=rule))
    assert [people(parts[split]) for split in ("train", "validation", "test")] == [
        {"ada", "ben"},
        set(),
        {"eve"},
    ]


@pytest.mark.parametrize("make", DIVIDED)
def test_a_rule_takes_precedence_and_the_user_is_told(make, tmp_path):
    options = DataOptions(make(tmp_path), splits=SplitRule(test_fraction=0.4))
    assert read_dataset(options, "train").remarks() == [
        "DIVIDED by --test-fraction, not as the data set says"
    ]


@pytest.mark.parametrize("make", DIVIDED)
def test_a_rule_for_validation_keeps_the_test_videos(make, tmp_path):
    rule = SplitRule(BY_PERSON, validation_groups=("ada",))
    parts = read_splits(DataOptions(make(tmp_path), splits=rule))
    assert people(parts["train"]) == {"ben", "cleo", "dan"}
    assert people(parts["validation"]) == {"ada"}
    assert people(parts["test"]) == {"eve"}
    (note,) = parts["train"].notes
    assert note.endswith("not as the data set says; its own test videos stay")


@pytest.mark.parametrize("make", DIVIDED)
def test_a_group_pattern_alone_does_not_divide(make, tmp_path):
    data = make(tmp_path)
    parts = read_splits(DataOptions(data, splits=SplitRule(BY_PERSON)))
    for split, dataset in read_splits(data).items():
        assert [r.path for r in parts[split].records] == [r.path for r in dataset.records]
        assert {record.group for record in parts[split].records} == people(dataset)
        assert not parts[split].notes


@pytest.mark.parametrize("make", EVERY)
def test_all_videos_are_read_with_their_groups(make, tmp_path):
    rule = SplitRule(BY_PERSON, test_groups=("ada",))
    dataset = read_videos(DataOptions(make(tmp_path), splits=rule))
    found = {(record.path.name, record.group, record.label) for record in dataset.records}
    assert found == {
        (name.split("/")[1], name.split("/")[1].split("_")[0], int(name.startswith("walk")))
        for name in NAMES
    }
    assert len(dataset.records) == len(NAMES)


@pytest.mark.parametrize("make", [make_folders, make_csv])
def test_nothing_divides(make, tmp_path):
    data = make(tmp_path)
    with pytest.raises(UserError, match="nothing says which videos are for training") as caught:
        read_dataset(data, "train")
    for option in ("--test-fraction", "--group-pattern and --test-groups", "--train-list"):
        assert option in str(caught.value)
    assert str(caught.value).endswith(", or add a column split") == data.is_file()
    assert len(read_videos(data).records) == 10


def test_groups_of_a_csv_need_no_pattern(tmp_path):
    data = make_csv(tmp_path, "path,class,group")
    with pytest.raises(UserError, match=r"give --test-fraction, --test-groups, or --train-list"):
        read_dataset(data, "train")
    rule = SplitRule(test_groups="ada", validation_fraction=0.25)  # type: ignore[arg-type]
    parts = read_splits(DataOptions(data, splits=rule))
    assert people(parts["test"]) == {"ada"}
    assert len(people(parts["validation"])) == 1
    assert len(parts["validation"].records) == 2


def test_missing_videos_of_an_undivided_csv(tmp_path):
    data = make_csv(tmp_path)
    (tmp_path / "run" / "eve_run.avi").unlink()
    options = DataOptions(data, splits=SplitRule(BY_PERSON, test_groups=("eve",)))
    assert len(read_dataset(options, "train").records) == 8
    with pytest.raises(UserError, match=r"1 of 2 listed videos are not under"):
        read_dataset(options, "test")
    allowed = replace(options, allow_missing=True)
    assert read_dataset(allowed, "test").missing == 1
    assert read_videos(allowed).missing == 1


def test_a_group_pattern_with_a_slash_sees_the_folders(tmp_path):
    touch(tmp_path, *(f"{action}/{who}/1.avi" for action in ("a", "b") for who in ("x", "y", "z")))
    rule = SplitRule("/([^/]+)/", test_groups=("y",))
    options = DataOptions(tmp_path, splits=rule, class_pattern="^([^/]+)/")
    assert {r.path.parent.name for r in read_dataset(options, "test").records} == {"y"}


@pytest.mark.parametrize("make", EVERY)
def test_dividing_looks_at_no_file(make, tmp_path, monkeypatch):
    """A look for each video would take minutes on a network drive with hundreds of thousands."""
    listing = list_dataset(DataOptions(make(tmp_path)))
    looked = []
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda *path, **how: looked.append(path) or stat(*path, **how))
    apply_rule(listing, SplitRule("/([^_/]+)_", test_fraction=0.4))
    assert len(looked) < 4 < len(NAMES), "more than whether the data set is a file"


def test_data_options_take_strings(tmp_path):
    make_split_folders(tmp_path)
    assert read_dataset(DataOptions(str(tmp_path)), "test").records  # type: ignore[arg-type]
    rule = SplitRule(train_list="a.txt", test_groups=["x"])  # type: ignore[arg-type]
    assert rule == SplitRule(train_list=Path("a.txt"), test_groups=("x",))
