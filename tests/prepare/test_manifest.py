"""Manifests of data sets that have their own lists."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from helpers.archives import rar4, rar5
from p3d.data.dataset import SPLITS
from p3d.data.layouts import DataOptions, read_dataset
from p3d.errors import UserError
from p3d.prepare.manifest import ManifestOptions, prepare_manifest, run
from p3d.prepare.rar import find_unpackers


def read(out: Path) -> dict[str, list[tuple[str, str, str]]]:
    """Return class, name and group of the videos of each split."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    for split in SPLITS:
        try:
            data = read_dataset(DataOptions(out), split)
        except UserError:  # the manifest has no videos for training or testing
            continue
        found[split] = [(data.class_names[r.label], r.path.name, r.group) for r in data.records]
    return found


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


HMDB = {
    "brush_hair": [
        "Film_#1_brush_hair_h_nm_np1_ba_goo_0.avi",
        "Other_brush_hair_u_cm_np2_le_1.avi",
    ],
    "wave": ["Film_wave_u_nm_np1_fr_med_3.avi", "A(b)_wave_f_cm_np1_fr_bad_0.avi"],
}
HMDB_ROWS = {
    "train": [
        ("brush_hair", HMDB["brush_hair"][0], "Film_#1"),
        ("wave", HMDB["wave"][0], "Film"),
    ],
    "validation": [],
    "test": [("wave", HMDB["wave"][1], "A(b)")],
}


def hmdb_lists(folder: Path) -> Path:
    folder.mkdir()
    for name, clips in HMDB.items():
        second = 0 if name == "brush_hair" else 2
        (folder / f"{name}_test_split1.txt").write_text(f"{clips[0]} 1 \n{clips[1]} {second} \n")
    return folder


def test_hmdb51_from_folders(tmp_path: Path) -> None:
    videos = touch(tmp_path / "videos", *(f"{n}/{clip}" for n in HMDB for clip in HMDB[n]))
    out = tmp_path / "manifest.csv"
    summary = prepare_manifest(
        ManifestOptions("hmdb51", videos, out, (hmdb_lists(tmp_path / "lists"),))
    )
    assert read(out) == HMDB_ROWS
    assert summary.lines() == [f"{out} lists 2 train, 0 validation, 1 test videos of 2 classes"]
    with pytest.raises(UserError, match=r"holds no CLASS_test_split3\.txt"):
        prepare_manifest(ManifestOptions("hmdb51", videos, out, (tmp_path / "lists",), fold=3))


def test_hmdb51_from_rars_in_a_rar(tmp_path: Path) -> None:
    pytest.importorskip("rarfile", reason="reading RAR needs the rarfile package")
    if not find_unpackers():
        pytest.skip("no program to unpack RAR is installed")
    inner = []
    for name, clips in HMDB.items():
        files = [(f"{name}/{clip}", clip.encode() * 50) for clip in clips]
        inner.append((f"{name}.rar", rar5(tmp_path / "inner", files).read_bytes()))
    source = rar4(tmp_path / "hmdb51_org.rar", inner)
    folder = hmdb_lists(tmp_path / "lists")
    texts = [(f"testTrain/{path.name}", path.read_bytes()) for path in folder.iterdir()]
    lists = rar4(tmp_path / "splits.rar", texts)
    options = ManifestOptions("hmdb51", source, tmp_path / "out" / "manifest.csv", (lists,))
    for _ in range(2):
        prepare_manifest(options)
        assert read(options.out) == HMDB_ROWS
    assert (options.out.parent / "videos" / "wave" / HMDB["wave"][0]).stat().st_size > 1000
    assert not list((options.out.parent / "videos").glob(".p3d*"))
    unpacked = tmp_path / "rars"
    unpacked.mkdir()
    for name, data in inner:
        (unpacked / name).write_bytes(data)
    out = tmp_path / "again" / "manifest.csv"
    prepare_manifest(replace(options, videos=unpacked, out=out))
    assert read(out) == HMDB_ROWS


def test_kinetics(tmp_path: Path) -> None:
    videos = touch(
        tmp_path / "videos",
        "air drumming/-abc_000003_000013.mp4",
        "tai_chi/x_y_000100_000110.mkv",
        "val/tai chi/zzz_000000_000010.mp4",
        "short.mp4",
    )
    table = tmp_path / "kinetics.csv"
    table.write_text(
        "label,youtube_id,time_start,time_end,split,is_cc\n"
        "air drumming,-abc,3,13,train,0\n"
        "tai chi,x_y,100.0,110,train,1\n"
        '"tai chi",zzz,0,10,val,0\n'
        "tai chi,short,5,9,test,0\n"
        "tai chi,gone,5,9,test,0\n"
    )
    out = tmp_path / "manifest.csv"
    options = ManifestOptions("kinetics", videos, out, (table,))
    with pytest.raises(UserError, match=r"1 of 5 listed videos .*gone.*--allow-missing"):
        prepare_manifest(options)
    assert not out.exists()
    summary = prepare_manifest(replace(options, allow_missing=True))
    assert "WARNING: 1 videos are missing: tai chi/gone_000005_000009" in summary.lines()
    assert read(out) == {
        "train": [
            ("air drumming", "-abc_000003_000013.mp4", "-abc"),
            ("tai chi", "x_y_000100_000110.mkv", "x_y"),
        ],
        "validation": [("tai chi", "zzz_000000_000010.mp4", "zzz")],
        "test": [("tai chi", "short.mp4", "short")],
    }


def test_lists_with_and_without_frames(tmp_path: Path) -> None:
    videos = touch(tmp_path / "videos", "a b.mp4", "c.avi", "d.mp4", "frames/1.jpg")
    train, test = tmp_path / "train.txt", tmp_path / "test.txt"
    train.write_text("a b.mp4 0\nc 2\nframes 120 10\n")
    test.write_text("d.mp4,2\n")
    out = tmp_path / "manifest.csv"
    options = ManifestOptions("lists", videos, out, train_list=train, test_list=test)
    summary = prepare_manifest(options)
    assert summary.class_names == tuple(map(str, range(11)))
    assert read(out)["train"] == [("0", "a b.mp4", ""), ("2", "c.avi", ""), ("10", "frames", "")]
    classes = tmp_path / "classes.txt"
    classes.write_text("0 pour milk\n1 stir\ncut the bun\n")
    with pytest.raises(UserError, match=r"train\.txt:3: label 10, but there are 3 class names"):
        prepare_manifest(replace(options, classes=classes))
    train.write_text("a b.mp4 0\n")
    prepare_manifest(replace(options, classes=classes))
    assert read(out) == {
        "train": [("pour milk", "a b.mp4", "")],
        "validation": [],
        "test": [("cut the bun", "d.mp4", "")],
    }


LISTED = ("walk 2/seq", "walk  3/a  b.mp4", "x, y.mp4", "a.mp4", "b.mp4", "c.mp4")


@pytest.mark.parametrize(
    ("line", "name", "label"),
    [
        ("walk 2/seq 12 0", "walk 2/seq", "walk"),
        ("walk  3/a  b.mp4 1", "walk  3/a  b.mp4", "pour milk"),
        ("x, y.mp4 1", "x, y.mp4", "pour milk"),
        ("x, y.mp4,30, 1", "x, y.mp4", "pour milk"),
        ("a.mp4, 1", "a.mp4", "pour milk"),
        ("a.mp4,pour milk", "a.mp4", "pour milk"),
        ("a.mp4\t12\tPour Milk", "a.mp4", "pour milk"),
        ("a.mp4 1 1", "a.mp4", "pour milk"),
        ("A.mp4  30  walk", "a.mp4", "walk"),
    ],
)
def test_lines_of_lists(tmp_path: Path, line: str, name: str, label: str) -> None:
    videos = touch(tmp_path / "videos", *LISTED)
    (tmp_path / "train.txt").write_text(f"b.mp4 0\n{line}\nc.mp4 2\n")
    (tmp_path / "classes.txt").write_text("walk\npour milk\nrun\n")
    options = ManifestOptions(
        "lists",
        videos,
        tmp_path / "m.csv",
        train_list=tmp_path / "train.txt",
        classes=tmp_path / "classes.txt",
    )
    prepare_manifest(options)
    data = read_dataset(DataOptions(options.out), "train")
    assert data.class_names == ("walk", "pour milk", "run")
    assert data.records[1].path == videos / name
    assert data.class_names[data.records[1].label] == label


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.mp4 -1", "label -1 is no class; remove the line"),
        ("a.mp4 0 1", "'a.mp4 0 1' has 0 frames"),
        ("a.mp4 1000000000", "label 1000000000 is above 100,000"),
        ("a.mp4 999999999", "label 999999999 is above 100,000"),
        ("a.mp4\tx\t1", "should be `path label`"),
        ("a.mp4", "should be `path label`"),
        ("two 5 0", "'two 5 0' may be 'two' with label 0 or 'two 5' with label 0, and both"),
    ],
)
def test_lines_that_are_refused(tmp_path: Path, line: str, message: str) -> None:
    videos = touch(tmp_path / "videos", *LISTED, "two/1.jpg", "two 5/1.jpg")
    train = tmp_path / "train.txt"
    train.write_text(f"b.mp4 0\n{line}\n")
    with pytest.raises(UserError, match=message):
        prepare_manifest(ManifestOptions("lists", videos, tmp_path / "m.csv", train_list=train))


@pytest.mark.parametrize(
    ("labels", "first_label", "expected"),
    [
        ("0 1 1", None, "abb"),
        ("1 2 3", None, "abc"),
        ("1 3 3", None, "acc"),
        ("1 2 2", 1, "abb"),
        ("1 2 2", 0, "bcc"),
        ("1 2 2", None, r"labels are 1 to 2 for 3 class names.*give --first-label"),
        ("0 1 3", None, r"train\.txt:3: label 3, but there are 3 class names; .* from 0"),
        ("0 1 2", 1, r"train\.txt:1: label 0, but there are 3 class names; .* from 1"),
        ("1 2 4", None, r"train\.txt:3: label 4, but there are 3 class names"),
    ],
)
def test_labels_counted_from_0_or_1(
    tmp_path: Path, labels: str, first_label: Literal[0, 1] | None, expected: str
) -> None:
    videos = touch(tmp_path / "videos", "1.mp4", "2.mp4", "3.mp4")
    train, classes = tmp_path / "train.txt", tmp_path / "classes.txt"
    train.write_text("".join(f"{n}.mp4 {label}\n" for n, label in enumerate(labels.split(), 1)))
    classes.write_text("1 a\n2 b\n3 c\n")
    options = ManifestOptions(
        "lists",
        videos,
        tmp_path / "m.csv",
        train_list=train,
        classes=classes,
        first_label=first_label,
    )
    if len(expected) > 3:
        with pytest.raises(UserError, match=expected):
            prepare_manifest(options)
    else:
        prepare_manifest(options)
        assert "".join(name for name, *_ in read(options.out)["train"]) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2 a\n3 b\n", r"classes\.txt:1: '2 a' is class 2 by its line; number the classes in"),
        ("0 a\n2 b\n", r"classes\.txt:2: '2 b' is class 1 by its line"),
        ("walk\n50 m race\n", r"classes\.txt:2: '50 m race'"),
        ("walk\nWalk\n", r"classes\.txt:2: class Walk is listed twice"),
    ],
)
def test_wrong_class_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    classes = tmp_path / "classes.txt"
    classes.write_text(text)
    options = ManifestOptions("lists", tmp_path, tmp_path / "m.csv", classes=classes)
    with pytest.raises(UserError, match=message):
        prepare_manifest(options)


def test_names_in_another_spelling(tmp_path: Path) -> None:
    videos = touch(tmp_path / "videos", "Cafe\u0301/One.MP4", "b.mp4", "B.MP4")
    train = tmp_path / "train.txt"
    train.write_text("caf\u00e9/one 0\nb 0\n", encoding="utf-8")
    options = ManifestOptions("lists", videos, tmp_path / "m.csv", train_list=train)
    prepare_manifest(options)
    assert [name for _, name, _ in read(options.out)["train"]] == ["One.MP4", "b.mp4"]
    table = tmp_path / "t.csv"
    table.write_text("path,class,split\nb.mp4,Walk,train\nB.MP4,walk,train\n")
    options = replace(options, kind="csv", tables=(table,))
    with pytest.raises(UserError, match=r"t\.csv:3: class 'walk' is spelled 'Walk' in .*csv:2"):
        prepare_manifest(options)


@pytest.mark.parametrize("word", ["validate", "val", "valid", "validation"])
@pytest.mark.parametrize("folder", ["val", "validate", "validation/tai chi", "val/tai_chi"])
def test_kinetics_split_folders_of_another_name(tmp_path: Path, word: str, folder: str) -> None:
    videos = touch(tmp_path / "videos", f"{folder}/abc_000003_000013.mp4")
    table = tmp_path / "t.csv"
    table.write_text(f"label,youtube_id,time_start,time_end,split\ntai chi,abc,3,13,{word}\n")
    options = ManifestOptions("kinetics", videos, tmp_path / "m.csv", (table,))
    prepare_manifest(options)
    assert read(options.out)["validation"] == [("tai chi", "abc_000003_000013.mp4", "abc")]


@pytest.mark.parametrize("time", ["inf", "nan", "x"])
def test_times_that_are_no_seconds(tmp_path: Path, time: str) -> None:
    table = tmp_path / "t.csv"
    table.write_text(f"label,youtube_id,time_start,time_end\nx,abc,{time},13\n")
    options = ManifestOptions("kinetics", tmp_path, tmp_path / "m.csv", (table,), split="train")
    with pytest.raises(UserError, match=r"t\.csv:2: times must be seconds"):
        prepare_manifest(options)


def test_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos = touch(tmp_path / "videos", "a.mp4", "b.mp4")
    table = tmp_path / "my.csv"
    table.write_text("clip,what,who\na.mp4,walk,anna\nb.mp4,run,ben\n")
    columns = ("clip", "what", "set", "who")
    options = ManifestOptions(
        "csv", videos, tmp_path / "m.csv", (table,), columns=columns, split="train"
    )
    run(options)
    assert "lists 2 train" in capsys.readouterr().out
    assert read(options.out)["train"] == [("walk", "a.mp4", "anna"), ("run", "b.mp4", "ben")]
    with pytest.raises(UserError, match="is the input itself, which would be replaced"):
        prepare_manifest(replace(options, out=table))
    with pytest.raises(UserError, match="split '' must be train"):
        prepare_manifest(replace(options, split=None))
    table.write_text("clip,what,who\na.mp4,-1,anna\n")
    with pytest.raises(UserError, match=r"my\.csv:2: a video needs a path and a class, not '-1'"):
        prepare_manifest(options)
    with pytest.raises(UserError, match="has no column 'path', only clip, what, who"):
        prepare_manifest(replace(options, columns=("path", "what", "set", "who")))


@pytest.mark.parametrize("out", ["folder", "file/m.csv", "/proc/m.csv"])
def test_a_manifest_that_cannot_be_written_is_one_line(out: str, tmp_path: Path) -> None:
    videos = touch(tmp_path / "videos", "a.mp4")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    table = tmp_path / "my.csv"
    table.write_text("path,class,split\na.mp4,walk,train\n")
    before = sorted(tmp_path.iterdir())
    options = ManifestOptions("csv", videos, tmp_path / out, (table,))
    with pytest.raises(UserError, match=rf"{out}: cannot be written \(.+\); check the folder"):
        prepare_manifest(options)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("divider", [";", "\t"])
def test_csv_of_other_spreadsheets(divider: str, tmp_path: Path) -> None:
    videos = touch(tmp_path / "videos", "a, b.mp4")
    table = tmp_path / "my.csv"
    table.write_text(f"\ufeffpath{divider}class\r\na, b.mp4{divider}walk\r\n")
    options = ManifestOptions("csv", videos, tmp_path / "m.csv", (table,), split="train")
    prepare_manifest(options)
    assert read(options.out)["train"] == [("walk", "a, b.mp4", "")]


def test_malformed_tables(tmp_path: Path) -> None:
    videos = touch(tmp_path / "videos", "a.mp4")
    table = tmp_path / "t.txt"
    options = ManifestOptions("lists", videos, tmp_path / "m.csv", train_list=table)
    table.write_text("a.mp4 0\na 0\n")
    with pytest.raises(UserError, match=r"t\.txt:2: .*a\.mp4 is listed in .*t\.txt:1 already"):
        prepare_manifest(options)
    table.write_text("a.mp4\n")
    with pytest.raises(UserError, match="should be `path label`"):
        prepare_manifest(options)
    table.write_text("")
    with pytest.raises(UserError, match="list no videos"):
        prepare_manifest(options)
    for kind in ("hmdb51", "kinetics", "csv"):
        with pytest.raises(UserError, match="needs --tables"):
            prepare_manifest(replace(options, kind=kind))
    table.write_text("a.mp4 0\n")
    with pytest.raises(UserError, match="there is no such folder"):
        prepare_manifest(replace(options, videos=tmp_path / "nowhere"))


@pytest.fixture
def merl(tmp_path: Path) -> tuple[Path, Path]:
    """A data set as P3D's ports have MERL: lists like UCF101's, clips in a folder per split."""
    videos = touch(
        tmp_path / "merl",
        "train/Reach/1_1_5.mp4",
        "train/Inspect/1_1_9.mp4",
        "test/Reach/2_1_7.mp4",
    )
    frames = touch(videos / "validation" / "Reach", "3_1_8/3_1_8-0001.jpg")
    assert frames.is_dir()
    lists = videos / "merlTrainTestList"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Reach\n2 Inspect\n3 Unseen\n")
    (lists / "trainlist01.txt").write_text("Reach/1_1_5.mp4 1\nInspect/1_1_9.mp4 2\n")
    (lists / "validationlist01.txt").write_text("Reach/3_1_8.mp4\n")
    (lists / "testlist01.txt").write_text("Reach/2_1_7.mp4\n")
    return videos, lists


def test_ucf101_lists(merl: tuple[Path, Path], tmp_path: Path) -> None:
    videos, lists = merl
    options = ManifestOptions("ucf101", videos, tmp_path / "manifest.csv", tables=(lists,))
    prepare_manifest(options)
    assert read(options.out) == {
        "train": [("Reach", "1_1_5.mp4", ""), ("Inspect", "1_1_9.mp4", "")],
        "validation": [("Reach", "3_1_8", "")],
        "test": [("Reach", "2_1_7.mp4", "")],
    }
    names = read_dataset(DataOptions(options.out), "train").class_names
    assert names == ("Reach", "Inspect", "Unseen")


def test_malformed_ucf101_lists(merl: tuple[Path, Path], tmp_path: Path) -> None:
    videos, lists = merl
    options = ManifestOptions("ucf101", videos, tmp_path / "manifest.csv", tables=(lists,))
    with pytest.raises(UserError, match=r"trainlist02\.txt: cannot be read"):
        prepare_manifest(replace(options, fold=2))
    with pytest.raises(UserError, match="needs --tables"):
        prepare_manifest(replace(options, tables=()))
    (lists / "testlist01.txt").write_text("Reach/2_1_7.mp4 2\n")
    with pytest.raises(UserError, match="label 2, but Reach is 1"):
        prepare_manifest(options)
    listed = replace(options, kind="lists", train_list=lists / "validationlist01.txt")
    with pytest.raises(UserError, match="are read by --kind ucf101"):
        prepare_manifest(listed)
