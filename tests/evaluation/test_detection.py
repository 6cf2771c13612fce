"""`p3d detection` on files of segments."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from p3d.cli import main
from p3d.system.csv_file import write_csv

TRUTH = """path,start,end,class
films/a.mp4,0,10,walk
films/b.mp4,5,9,run
films/b.mp4,9,20,background
"""
FOUND = """path,start,end,class,score
b.mp4,5,9,run,0.8
a.mp4,0,6,walk,0.5
"""


def _write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, truth = _write(tmp_path, "f.csv", FOUND), _write(tmp_path, "t.csv", TRUTH)
    assert main(["detection", found, "--truth", truth]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 found segments, 2 true segments, 2 classes"
    assert max(map(len, lines)) <= 80
    values = dict(line.rsplit(maxsplit=1) for line in lines if line.endswith("%"))
    assert values["average mAP, tIoU 0.5 to 0.95"] == "65.0%"  # run always, walk up to 0.6
    assert values["segmental F1@50"] == "100.0%"


def test_json_of_activitynet_gives_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = {
        "a": {"annotations": [{"segment": [0, 10], "label": "walk"}]},
        "b": {"annotations": [{"segment": [5, 9], "label": "run"}]},
    }
    results = {
        "b": [{"segment": [5, 9], "label": "run", "score": 0.8}],
        "a": [{"segment": [0, 6], "label": "walk", "score": 0.5}],
    }
    pairs = [
        (_write(tmp_path, "f.csv", FOUND), _write(tmp_path, "t.csv", TRUTH)),
        (
            _write(tmp_path, "f.json", json.dumps({"results": results})),
            _write(tmp_path, "t.json", json.dumps({"database": database})),
        ),
    ]
    printed = []
    for found, truth in pairs:
        assert main(["detection", found, "--truth", truth, "--json"]) == 0
        printed.append(json.loads(capsys.readouterr().out))
    assert printed[0] == printed[1]
    assert printed[0]["average_map"] == pytest.approx(0.65)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("f.csv", "path,start,end\n", "the header has no column class"),
        ("f.csv", "path,start,end,class\na.mp4,5,5,run\n", "line 2: is from '5' to '5'"),
        ("f.csv", "path,start,end,class\na.mp4,-1,5,run\n", "is from '-1'"),
        ("f.csv", "path,start,end,class\na.mp4,nan,5,run\n", "is from 'nan'"),
        ("f.csv", "path,start,end,class,score\na.mp4,1,5,run,x\n", "with score 'x'"),
        ("f.csv", "path,start,end,class\na.mp4,1,5\n", "has no video or no class"),
        ("f.csv", 'path,start,end,class\na.mp4,1,"5', "is not CSV"),
        ("f.csv", "path,start,end,class\nx/a.mp4,1,5,run\ny/a.mp4,1,5,run\n", "the same name"),
        ("f.csv", "path,start,end,class\nz.mp4,1,5,run\n", "none of the videos has a true"),
        ("f.json", "[1]", "is not JSON of segments"),
        ("f.json", '{"results": {"a": [{"segment": [1], "label": "x"}]}}', "is not JSON of"),
        ("f.txt", "", "ends in .csv or .json"),
    ],
)
def test_a_wrong_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, message: str
) -> None:
    found, truth = _write(tmp_path, name, text), _write(tmp_path, "t.csv", TRUTH)
    assert main(["detection", found, "--truth", truth]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


def test_videos_of_the_same_name_in_two_files_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = _write(tmp_path, "t.csv", TRUTH)
    files = [_write(tmp_path, f"{n}.csv", FOUND.replace("a.mp4", f"{n}/a.mp4")) for n in "xy"]
    assert main(["detection", *files, "--truth", truth]) == 2
    assert "y/a.mp4 and x/a.mp4 have the same name" in capsys.readouterr().err


def test_a_class_that_a_spreadsheet_would_run_keeps_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv(tmp_path / "t.csv", ("path", "start", "end", "class"), [("a.mp4", 0, 1, "=walk")])
    truth = str(tmp_path / "t.csv")
    assert main(["detection", truth, "--truth", truth, "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["per_class"]) == ["=walk"]
