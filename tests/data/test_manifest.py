from __future__ import annotations

import os
from pathlib import Path

import pytest

from p3d.cli.options import build, options_of
from p3d.cli.words import read_words
from p3d.data.dataset import VideoRecord
from p3d.data.layouts import DataOptions, read_dataset, read_splits, read_videos
from p3d.data.manifest_writer import write_manifest
from p3d.data.splits import SplitRule
from p3d.errors import UserError

HEADER = "path,class,split\n"


def write(root: Path, text: str) -> Path:
    for name in ("a.avi", "b.avi", "c.avi"):
        (root / name).touch()
    path = root / "manifest.csv"
    path.write_text(text)
    return path


def test_a_written_manifest_reads_back_the_same(tmp_path):
    outside = tmp_path / "elsewhere" / "d, e.avi"
    root = tmp_path / "set"
    inside = root / "run" / 'ä "1".avi'
    for path in (outside, inside):
        path.parent.mkdir(parents=True)
        path.touch()
    class_names = ("walk", "no, one", "run", "jump")  # neither sorted nor all shown
    splits = {
        "train": (VideoRecord(inside, 2, "ann", 30, 29.97), VideoRecord(outside, 0)),
        "test": (VideoRecord(root / "run", 0, num_frames=7),),
    }
    write_manifest(root / "manifest.csv", class_names, splits)
    for options in (DataOptions(root), DataOptions(root / "manifest.csv")):
        for split, records in splits.items():
            dataset = read_dataset(options, split)
            assert dataset.class_names == class_names
            assert dataset.records == records
        assert read_dataset(options, "validation").records == ()
    assert {path.name for path in root.iterdir()} == {"run", "manifest.csv"}


def test_a_manifest_can_move_with_its_videos(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    (old / "a.avi").touch()
    write_manifest(old / "manifest.csv", ["x"], {"train": [VideoRecord(old / "a.avi", 0)]})
    old.rename(new)
    assert read_dataset(DataOptions(new), "train").records == (VideoRecord(new / "a.avi", 0),)


def test_three_columns_are_enough(tmp_path):
    text = "Split, path ,mood,class\r\ntrain,a.avi,glad,walk\r\n\r\ntest, b.avi,sad, run\r\n"
    path = write(tmp_path, "\ufeff" + text)
    train, test = (read_dataset(DataOptions(path), split) for split in ("train", "test"))
    assert train.class_names == test.class_names == ("run", "walk")
    assert train.records == (VideoRecord(tmp_path / "a.avi", 1),)
    assert test.records == (VideoRecord(tmp_path / "b.avi", 0),)


def test_missing_videos_are_an_error_unless_allowed(tmp_path):
    path = write(tmp_path, HEADER + "a.avi,x,train\nz.avi,x,train\nno/y.avi,x,test\n")
    with pytest.raises(UserError, match=r"1 of 2 listed videos .*/z.avi\).*--allow-missing"):
        read_dataset(DataOptions(path), "train")
    dataset = read_dataset(DataOptions(path, allow_missing=True), "train")
    assert len(dataset.records) == dataset.missing == 1
    with pytest.raises(UserError, match="1 of 1 listed videos are not under"):
        read_dataset(DataOptions(path, allow_missing=True), "test")


def test_missing_videos_of_a_list_from_windows(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x/a.avi").touch()
    path = write(tmp_path, HEADER + "x\\a.avi,x,train\n")
    with pytest.raises(UserError, match=r"x\\a.avi\); write / in its paths in place of \\$"):
        read_dataset(DataOptions(path), "train")


def test_only_folders_of_the_splits_asked_for_are_listed(tmp_path, monkeypatch):
    names = {
        "train": ("a/1.avi", "a/2.avi", "b/3.avi"),
        "validation": ("a/4.avi",),
        "test": ("c/5.avi",),
    }
    rows = [f"{name},x,{split}\n" for split, paths in names.items() for name in paths]
    path = write(tmp_path, HEADER + "".join(rows))
    for name in sum(names.values(), ()):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    listed = []
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(path.name) or listdir(path))
    parts = read_splits(path, ("train", "validation"))
    assert [len(parts[split].records) for split in ("train", "validation")] == [3, 1]
    assert sorted(listed) == ["a", "b"]


LABELED = "path,class,split,label\n"
MEASURED = "path,class,split,num_frames,fps\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "header has no column path .*it is empty; it needs path and class"),
        ("a.avi,walk\nb.avi,run", r"header has no column path .*, it is 'a.avi', 'walk'; it needs"),
        ("path,group\na.avi,1\n", r"header has no column class \(or class_name, .*, label\)"),
        (
            "path,class,file,Path\na.avi,x,b.avi,c.avi\n",
            "header has the column path twice; keep one",
        ),
        ("\xff\xfep\0a\0,\0", "manifest.csv: is not UTF-8 text; save it as CSV in UTF-8"),
        (HEADER + "a.avi,x,train\nb.avi,y,\n", r":3: has no split; give every row one, or none"),
        (HEADER, "lists no videos"),
        (HEADER + "a.avi,x,test\n", "has no videos for train"),
        (HEADER + "a.avi,x\n", r"manifest.csv:2: has 2 cells, but the header has 3"),
        (HEADER + "a.avi,x,train,9\n", r"manifest.csv:2: has 4 cells"),
        (HEADER + "a.avi,x,train\nb.avi,,train\n", r"manifest.csv:3: a video needs a path and a c"),
        (HEADER + ",x,train\n", r"manifest.csv:2: a video needs a path"),
        (HEADER + "a.avi,x,dev\n", r":2: split 'dev' must be one of train, validation, test"),
        (HEADER + "a.avi,x,train\n./a.avi,x,test\n", r":3: .*a.avi is already listed in .*csv:2"),
        (HEADER + '"a.avi,x,train\n', "cannot be read as CSV"),
        (HEADER + "a\0.avi,x,train\n", "NUL"),
        (LABELED + "a.avi,x,train,one\n", r":2: label, num_frames and fps must be numbers"),
        (LABELED + "a.avi,x,train,\n", r":2: has no label"),
        (LABELED + "a.avi,x,train,0\nb.avi,x,train,1\n", r":3: class x has label 1 here and 0 ab"),
        (LABELED + "a.avi,x,train,0\nb.avi,y,train,0\n", r":3: label 0 is y here and x above"),
        (LABELED + "a.avi,x,train,1\nb.avi,y,train,2\n", r"labels of 2 classes must be 0 to 1"),
        (MEASURED + "a.avi,x,train,12.5,25\n", r":2: label, num_frames and fps must be numbers"),
    ],
)
def test_errors_name_the_line(tmp_path, text, message):
    path = write(tmp_path, "")
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=message) as caught:
        read_dataset(DataOptions(path), "train")
    assert "\n" not in str(caught.value)


def test_paths_without_a_data_set(tmp_path):
    with pytest.raises(UserError, match="no such folder or manifest; fix the path"):
        read_dataset(DataOptions(tmp_path / "no"), "train")
    (tmp_path / "x.txt").touch()
    with pytest.raises(UserError, match=r"x.txt: is neither a folder nor a .csv manifest"):
        read_dataset(DataOptions(tmp_path / "x.txt"), "train")


def test_options_that_do_not_apply_are_errors(tmp_path):
    path = write(tmp_path, HEADER + "a.avi,x,train\n")
    with pytest.raises(UserError, match="only the UCF101 layout has folds"):
        read_dataset(DataOptions(path, fold=2), "train")
    with pytest.raises(UserError, match=r"manifest.csv: names the classes already; drop --class-"):
        read_dataset(DataOptions(path, class_pattern="(.)"), "train")


def test_options_are_read_from_a_command_line_without_prefixes():
    flags = "--data X --allow-missing --group-pattern ^(.)_ --test-groups ann bob --test-list t.txt"
    options = options_of(DataOptions, {})
    given = read_words("p3d train", options, flags.split())
    built = build(DataOptions, {option.flag: option.default for option in options} | given, {})
    rule = SplitRule("^(.)_", ("ann", "bob"), test_list=Path("t.txt"))
    assert built == DataOptions(Path("X"), allow_missing=True, splits=rule)
    [text] = [option.text for option in options if option.flag == "--group-pattern"]
    assert "captures what comes before the first underscore" in " ".join(text.split())


def test_two_spellings_of_a_class_need_labels(tmp_path):
    rows = "a.avi,Walk,train\nb.avi,walk,train\n"
    with pytest.raises(UserError, match=r"'Walk' and 'walk' differ only in case .*column label"):
        read_dataset(write(tmp_path, HEADER + rows), "train")
    path = write(tmp_path, LABELED + "a.avi,Walk,train,0\nb.avi,walk,train,1\n")
    assert [r.label for r in read_dataset(path, "train").records] == [0, 1]


def test_paths_in_another_spelling_are_found(tmp_path):
    folder = tmp_path / "cafe\u0301"
    folder.mkdir()
    (folder / "One.avi").touch()
    path = write(tmp_path, HEADER + "Caf\u00e9/one.AVI,x,train\nA.avi,x,train\na.avi,x,test\n")
    dataset = read_dataset(DataOptions(path, allow_missing=True), "train")
    assert [record.path for record in dataset.records] == [folder / "One.avi"]
    assert dataset.missing == 1  # A.avi, as a.avi is listed too


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        ("path,class\na.avi,walk\nb.avi,run\n", ()),
        ("class;path\nwalk;a.avi\nrun;b.avi\n", ()),
        ("Path\tClass\na.avi\twalk\nb.avi\trun\n", ()),
        ("path,class,split\na.avi,walk,\nb.avi,run,\n", ()),
        ("file,label\na.avi,walk\nb.avi,run\n", ("path from 'file', class from 'label'",)),
        ("n,Category,Video\n1,walk,a.avi\n2,run,b.avi\n", ("path from 'video', class from 'cate",)),
        ("filename,class_name\na.avi,walk\nb.avi,run\n", ("path from 'filename', class from 'cl",)),
        ("path,label,class\na.avi,1,walk\nb.avi,0,run\n", ()),
    ],
)
def test_obvious_headers_are_read(tmp_path, text, notes):
    dataset = read_videos(write(tmp_path, text))
    assert dataset.class_names == ("run", "walk")
    assert {(r.path.name, r.label) for r in dataset.records} == {("a.avi", 1), ("b.avi", 0)}
    assert len(dataset.notes) == len(notes)
    assert all(f"COLUMNS of manifest.csv: {note}" in dataset.notes[0] for note in notes)


def test_numbers_as_class_names_are_in_numerical_order(tmp_path):
    names = read_videos(write(tmp_path, "video,label\na.avi,10\nb.avi,2\nc.avi,2\n")).class_names
    assert names == ("2", "10")


@pytest.mark.parametrize("name", ["val", "Valid", "validate", "VALIDATION"])
def test_splits_by_other_names(tmp_path, name):
    rows = f"a.avi,x,Training\nb.avi,x,{name}\nc.avi,x,testing\n"
    parts = read_splits(write(tmp_path, "video,label,subset\n" + rows))
    assert [len(dataset.records) for dataset in parts.values()] == [1, 1, 1]


def test_a_manifest_without_splits_is_written_and_read(tmp_path):
    (tmp_path / "a.avi").touch()
    records = (VideoRecord(tmp_path / "a.avi", 0, "ann", 5, 25.0),)
    write_manifest(tmp_path / "m.csv", ["x"], {None: records})
    assert read_videos(tmp_path / "m.csv").records == records


@pytest.mark.parametrize("label", [-1, 1])
def test_videos_without_a_class_are_not_written(tmp_path, label):
    with pytest.raises(UserError, match=r"a\.avi: has no class"):
        write_manifest(tmp_path / "m.csv", ["x"], {"train": [VideoRecord(Path("a.avi"), label)]})
    assert not list(tmp_path.iterdir())
