from __future__ import annotations

import os
from pathlib import Path

import pytest

from helpers.folders import touch
from p3d.data.layouts import DataOptions, read_dataset, read_splits
from p3d.errors import UserError

CLASSES = ("Archery", "HandstandPushups", "Biking")  # not sorted
TRAIN = ("Archery/v_Archery_g08_c01.avi 1", "HandstandPushups/v_HandStandPushups_g09_c01.avi 2")
TEST = ("Archery/v_Archery_g01_c01.avi", "Biking/v_Biking_g01_c02.avi")


def write_lists(root: Path, *, fold: int = 1, train=TRAIN, test=TEST, validation=None) -> Path:
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True, exist_ok=True)
    index = (f"{label} {name}" for label, name in enumerate(CLASSES, start=1))
    (lists / "classInd.txt").write_text("\r\n".join(index) + "\r\n")
    for name, lines in (("trainlist", train), ("testlist", test), ("validationlist", validation)):
        if lines is not None:
            (lists / f"{name}{fold:02d}.txt").write_text("\n".join(lines) + "\n")
    return lists


def names(root: Path, split, **options) -> list[str]:
    dataset = read_dataset(DataOptions(root, **options), split)
    return [record.path.relative_to(root).as_posix() for record in dataset.records]


def touch_all(root: Path, base: str = "") -> None:
    touch(root / base, *(line.split()[0] for line in (*TRAIN, *TEST)))


@pytest.mark.parametrize("base", ["", "videos", "UCF-101", "train", "test", "validation"])
def test_videos_are_found_in_every_known_folder(tmp_path, base):
    write_lists(tmp_path)
    touch_all(tmp_path, base)
    train = read_dataset(DataOptions(tmp_path), "train")
    test = read_dataset(DataOptions(tmp_path), "test")
    assert train.class_names == test.class_names == CLASSES
    assert [record.label for record in train.records] == [0, 1]
    assert [record.label for record in test.records] == [0, 2]
    assert [record.group for record in train.records] == ["Archery_g08", "HandstandPushups_g09"]
    assert all(record.path.is_file() for record in (*train.records, *test.records))
    assert train.missing == test.missing == 0


def test_names_match_without_regard_to_case(tmp_path):
    write_lists(tmp_path)
    touch(tmp_path, "train/archery/v_archery_G08_c01.AVI")
    touch(tmp_path, "train/HandStandPushups/v_HandstandPushups_g09_c01.avi")
    assert names(tmp_path, "train") == [
        "train/archery/v_archery_G08_c01.AVI",
        "train/HandStandPushups/v_HandstandPushups_g09_c01.avi",
    ]


def test_frame_folders_are_found_and_video_files_precede_them(tmp_path):
    write_lists(tmp_path)
    frames = "Archery/v_Archery_g08_c01/v_Archery_g08_c01-0001.jpg"
    touch(tmp_path, f"train/{frames}", "train/HandstandPushups/v_HandStandPushups_g09_c01/1.jpg")
    assert names(tmp_path, "train")[0] == "train/Archery/v_Archery_g08_c01"
    touch(tmp_path, "videos/Archery/v_Archery_g08_c01.avi")
    assert names(tmp_path, "train") == [
        "videos/Archery/v_Archery_g08_c01.avi",
        "train/HandstandPushups/v_HandStandPushups_g09_c01",
    ]


@pytest.mark.parametrize("listed_in_train", [True, False])
def test_validation_videos_are_not_in_training(tmp_path, listed_in_train):
    held_out = "Biking/v_Biking_g09_c01.avi"
    train = (*TRAIN, f"{held_out} 3") if listed_in_train else TRAIN
    write_lists(tmp_path, train=train, validation=[held_out])
    touch_all(tmp_path)
    touch(tmp_path, held_out)
    assert names(tmp_path, "validation") == [held_out]
    assert names(tmp_path, "train") == [line.split()[0] for line in TRAIN]


def test_validation_is_empty_without_a_list(tmp_path):
    write_lists(tmp_path)
    touch_all(tmp_path)
    assert names(tmp_path, "validation") == []


def test_other_folds_use_videos_laid_out_for_the_first(tmp_path):
    write_lists(tmp_path)
    write_lists(tmp_path, fold=2, train=["Biking/v_Biking_g01_c02.avi 3"], test=[TRAIN[0][:-2]])
    touch(tmp_path / "test", "Biking/v_Biking_g01_c02.avi")
    touch(tmp_path / "train", "Archery/v_Archery_g08_c01.avi")
    assert names(tmp_path, "train", fold=2) == ["test/Biking/v_Biking_g01_c02.avi"]
    assert names(tmp_path, "test", fold=2) == ["train/Archery/v_Archery_g08_c01.avi"]
    with pytest.raises(UserError, match=r"no trainlist03.txt for fold 3; folds 1, 2 are there"):
        names(tmp_path, "train", fold=3)


def test_missing_videos_are_an_error_unless_allowed(tmp_path):
    write_lists(tmp_path)
    touch(tmp_path, TEST[1])
    with pytest.raises(UserError, match=r"1 of 2 .*\(Archery/v_Archery_g01_c01.avi\).*--allow-m"):
        names(tmp_path, "test")
    dataset = read_dataset(DataOptions(tmp_path, allow_missing=True), "test")
    assert [record.path for record in dataset.records] == [tmp_path / TEST[1]]
    assert dataset.missing == 1
    with pytest.raises(UserError, match="2 of 2 listed videos are not under"):
        names(tmp_path, "train", allow_missing=True)


def test_folders_are_listed_once_for_all_splits(tmp_path, monkeypatch):
    write_lists(tmp_path)
    touch_all(tmp_path, "videos")
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))
    parts = read_splits(tmp_path)
    assert [len(parts[split].records) for split in ("train", "validation", "test")] == [2, 0, 2]
    assert len(listed) == len(set(listed)) == 5  # the root, its videos/, three classes


def test_a_video_in_several_folders_is_taken_from_that_of_its_split(tmp_path):
    write_lists(tmp_path)
    for base in ("train", "test", "videos"):
        touch_all(tmp_path, base)
    touch_all(tmp_path, "")
    for split, dataset in read_splits(tmp_path).items():
        for record in dataset.records:
            assert record.path.relative_to(tmp_path).parts[0] == split


def test_missing_videos_of_one_split_do_not_affect_another(tmp_path):
    write_lists(tmp_path)
    touch(tmp_path, *(line.split()[0] for line in TRAIN))
    assert set(read_splits(tmp_path, ("train", "validation"))) == {"train", "validation"}
    with pytest.raises(UserError, match="2 of 2 listed videos are not under"):
        read_splits(tmp_path)


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"train": ["Archery/a.avi 2"]}, r"trainlist01.txt:1: label 2, but Archery is 1"),
        ({"train": ["", "Golf/a.avi 2"]}, r"trainlist01.txt:2: class Golf is not in classInd"),
        ({"test": ["Golf/a.avi"]}, r"testlist01.txt:1: class Golf is not in classInd"),
        ({"test": ["a.avi"]}, r"testlist01.txt:1: 'a.avi' should be `Class/video.avi`"),
        ({"test": ["Biking/"]}, r"testlist01.txt:1: 'Biking/' should be"),
        ({"test": ["Biking/a.avi", "biking/A.avi"]}, r"testlist01.txt:2: .* is listed twice"),
        ({"test": [TRAIN[1][:-2]]}, r"trainlist01.txt:2: .* in the test list too .*test.*:1"),
        ({"validation": [TEST[0]]}, r"validationlist01.txt:1: .* in the test list too"),
        ({"test": None}, r"testlist01.txt: cannot be read \(No such file"),
        ({"train": []}, r"has no videos for train"),
    ],
)
def test_errors_in_lists_name_the_line(tmp_path, lists, message):
    write_lists(tmp_path, **lists)
    touch_all(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        names(tmp_path, "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 Archery", r"classInd.txt:1: '0 Archery' should be `1 ClassName`"),
        ("1 Archery\n3 Biking", r"classInd.txt:2: '3 Biking' should be `2 ClassName`"),
        ("1", r"classInd.txt:1: '1' should be"),
        ("1 Archery\n2 archery", r"classInd.txt:2: class archery is listed twice"),
        ("\n", r"classInd.txt: is empty"),
        ("1\0 \0A\0", r"classInd.txt: is not UTF-8"),
    ],
)
def test_errors_in_the_class_index_name_the_line(tmp_path, text, message):
    (write_lists(tmp_path) / "classInd.txt").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=message):
        names(tmp_path, "train")


@pytest.mark.parametrize("end", [", 1", ",1", "  1", "\t01"])
def test_labels_follow_a_space_or_a_comma(tmp_path, end):
    write_lists(tmp_path, train=(f"Archery/v a  b_g08_c01.avi{end}",))
    touch(tmp_path, "Archery/v a  b_g08_c01.avi")
    assert names(tmp_path, "train") == ["Archery/v a  b_g08_c01.avi"]


@pytest.mark.parametrize("label", ["-1", "\u00b2", "9" * 5000, "2"])
def test_wrong_labels_are_errors(tmp_path, label):
    write_lists(tmp_path, train=(f"Archery/v_Archery_g08_c01.avi {label}",))
    touch_all(tmp_path)
    with pytest.raises(UserError, match=r"trainlist01.txt:1: label|listed videos are not under"):
        names(tmp_path, "train")


def test_other_files_are_named(tmp_path):
    write_lists(tmp_path)
    touch_all(tmp_path, "train")
    touch(tmp_path, "train/Archery/notes.txt", "Biking/x.doc", "more/y.doc")
    dataset = read_dataset(DataOptions(tmp_path), "train")
    assert dataset.ignored == ("train/Archery/notes.txt", "Biking/x.doc")


def test_names_match_in_any_unicode_form(tmp_path):
    lists = write_lists(tmp_path, train=("CAFE\u0301/v_e\u0301_g08_c01.avi",))
    (lists / "classInd.txt").write_text("1 caf\u00e9\n2 Archery\n3 Biking\n", encoding="utf-8")
    touch(tmp_path, "caf\u00e9/v_\u00e9_g08_c01.avi")
    assert names(tmp_path, "train") == ["caf\u00e9/v_\u00e9_g08_c01.avi"]
