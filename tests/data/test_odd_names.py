"""Names that are not UTF-8, or hold control and bidirectional characters."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
import torch

from helpers.videos import write_video
from p3d.data.dataset import VideoRecord
from p3d.data.layouts import DataOptions, read_dataset, read_splits
from p3d.data.manifest_writer import write_manifest
from p3d.data.splits import SplitRule
from p3d.errors import BadVideoError, UserError, printable, report_cell
from p3d.model.config import P3DConfig
from p3d.model.network import P3D
from p3d.prepare.check import check_dataset, run
from p3d.prepare.frames import extract_frames
from p3d.prepare.manifest import ManifestOptions, prepare_manifest
from p3d.prepare.options import CheckOptions, FramesOptions
from p3d.weights.entries import read_metadata
from p3d.weights.metadata import metadata_of

LATIN1 = os.fsdecode(b"caf\xe9")
ODD = (
    LATIN1,
    "a\u202ecod",
    "\ta\x1b[31m",
    "line\nend\r",
    "\u2028",
    "x\x85y",
    "  spaces  ",
    "=1",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of two classes whose names and videos are odd."""
    root = tmp_path / os.fsdecode(b"set \xff")
    try:
        for name in (LATIN1, "run"):
            (root / name).mkdir(parents=True)
    except OSError:
        pytest.skip("this file system takes only names in UTF-8")
    return root


@pytest.mark.parametrize("name", ODD)
def test_a_manifest_of_odd_names_reads_back_equal(root: Path, name: str) -> None:
    (root / "run" / f"{name}.avi").touch()
    (root / "run" / name).mkdir()
    (root / "run" / name / "1.jpg").touch()
    records = tuple(VideoRecord(root / "run" / file, 1) for file in (f"{name}.avi", name))
    for folder in (root, root / LATIN1):
        write_manifest(folder / "m.csv", (LATIN1, "run"), {"train": records})
        dataset = read_dataset(folder / "m.csv", "train")
        assert dataset.class_names == (LATIN1, "run")
        assert dataset.records == records


@pytest.mark.parametrize("name", [" walk", "walk\t", "\x85"])
def test_classes_that_would_not_read_back_equal_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot begin or end with a space"):
        write_manifest(tmp_path / "m.csv", [name], {})


def test_lists_and_tables_name_such_files(root: Path, tmp_path: Path) -> None:
    names = (f"{LATIN1}/{LATIN1}.avi", "run/x\x85y.avi")
    for name in names:
        (root / name).touch()
    train = tmp_path / "train.txt"
    train.write_bytes(b"".join(os.fsencode(name) + b"\r\n" for name in names))
    rule = SplitRule(train_list=train)
    found = read_dataset(DataOptions(root, splits=rule), "train")
    assert [record.path for record in found.records] == [root / name for name in names]
    train.write_bytes(b"".join(os.fsencode(name) + b" 0\n" for name in names))
    options = ManifestOptions("lists", root, tmp_path / "m.csv", train_list=train)
    prepare_manifest(options)
    paths = [record.path for record in read_dataset(options.out, "train").records]
    assert paths == [record.path for record in found.records]
    table = tmp_path / "t.csv"
    table.write_bytes(b"path,class,split\n" + os.fsencode(names[0]) + b",\xe9,train\n")
    prepare_manifest(ManifestOptions("csv", root, tmp_path / "m.csv", (table,)))
    assert read_dataset(options.out, "train").class_names == (os.fsdecode(b"\xe9"),)


def test_checking_and_converting_a_data_set_of_such_names(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "test"):
        (root / split / LATIN1).mkdir(parents=True)
        write_video(root / split / LATIN1 / f"{split}{LATIN1}.avi", 5, size=(32, 48))
    (root / "test" / LATIN1 / "=\u202e\x1b.txt").touch()
    (root / "test" / LATIN1 / "=bad.avi").write_bytes(b"no video")
    out, findings = tmp_path / "m.csv", tmp_path / "findings.csv"
    options = CheckOptions(DataOptions(root), out=out, findings=findings)
    assert run(options) == 0
    printed = capsys.readouterr().out
    assert printed.replace("\n", "").isprintable()
    assert "=\\u202e\\x1b.txt" in printed
    written = read_splits(out)
    checked = read_splits(root)
    assert [r.path for r in written["train"].records] == [r.path for r in checked["train"].records]
    with findings.open(encoding="utf-8", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert all(cell.isprintable() and not cell.startswith(("=", "+", "-", "@")) for cell in cells)
    frames = FramesOptions(DataOptions(out), tmp_path / "frames")
    assert extract_frames(frames).written == 2
    (record,) = read_dataset(frames.out, "train").records
    assert record.path == frames.out / "train" / LATIN1 / f"train{LATIN1}"
    check_dataset(CheckOptions(DataOptions(frames.out)))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("caf\u00e9 \u4e2d", "caf\u00e9 \u4e2d"),
        ("a\x1b[31m\n", "a\\x1b[31m\\n"),
        ("\u202e\u2066\u200b\ufeff\u3164", "\\u202e\\u2066\\u200b\\ufeff\\u3164"),
        ("\x9b\x85\u2028", "\\x9b\\x85\\u2028"),
        (LATIN1, "caf\\udce9"),
    ],
)
def test_text_is_printable_in_errors_and_reports(text: str, shown: str) -> None:
    assert printable(text) == str(UserError(text)) == report_cell(text) == shown
    assert printable(shown) == shown
    error = BadVideoError(text, text)
    assert str(error) == f"{shown}: {shown}"
    assert error.path == Path(text)


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@sum"])
def test_report_cells_are_no_formulas(cell: str) -> None:
    assert report_cell(cell) == f"'{cell}"
    assert report_cell(f"a{cell}") == f"a{cell}"


def test_weights_keep_such_class_names() -> None:
    with torch.device("meta"):
        model = P3D(P3DConfig("p3d63", num_classes=2))
    for names in (("run", LATIN1), ("run", "caf\u00e9")):
        metadata = metadata_of(model, class_names=names)
        assert metadata["class_names"].encode()
        assert read_metadata(metadata)[2] == names
