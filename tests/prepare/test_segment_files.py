"""Manifests of segments from the files of other programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from p3d.cli import main
from p3d.data.dataset import Part
from p3d.data.manifest import read_manifest

ROWS = [("walk", 1.0, 2.5), ("run", 2.5, 4.0), ("walk", 3661.25, 3662.0)]
EAF = """<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT VERSION="3.0"><HEADER TIME_UNITS="milliseconds">
<MEDIA_DESCRIPTOR MEDIA_URL="file:///C:/film/my%20game.mp4" TIME_ORIGIN="500"/></HEADER>
<TIME_ORDER>{slots}</TIME_ORDER><TIER TIER_ID="action">{annotations}</TIER>
<TIER TIER_ID="speech">{speech}</TIER></ANNOTATION_DOCUMENT>"""


def eaf(rows: list[tuple[str, float, float]], speech: str = "") -> str:
    times = [round(1000 * time) - 500 for row in rows for time in row[1:]]
    slots = [f'<TIME_SLOT TIME_SLOT_ID="ts{n}" TIME_VALUE="{t}"/>' for n, t in enumerate(times)]
    aligned = [
        f'<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a{n}" TIME_SLOT_REF1="ts{2 * n}" '
        f'TIME_SLOT_REF2="ts{2 * n + 1}"><ANNOTATION_VALUE>{name}</ANNOTATION_VALUE>'
        "</ALIGNABLE_ANNOTATION></ANNOTATION>"
        for n, (name, *_) in enumerate(rows)
    ]
    other = aligned[0].replace(rows[0][0], speech) if speech else ""
    return EAF.format(slots="".join(slots), annotations="".join(aligned), speech=other)


def clock(seconds: float) -> str:
    return f"{int(seconds) // 3600:02d}:{int(seconds) // 60 % 60:02d}:{seconds % 60:06.3f}"


def activitynet(rows: list[tuple[str, float, float]]) -> str:
    annotations = [{"label": name, "segment": [start, end]} for name, start, end in rows]
    entry = {"subset": "Validation", "duration": 4000.0, "annotations": annotations}
    return json.dumps({"database": {"my game": entry, "unseen": {"subset": "testing"}}})


def tabs(*times: str) -> str:
    names = [name for time in times for name in (f"Begin Time - {time}", f"End Time - {time}")]
    lines = ["\t".join(["Tier", "Participant", *names, "Duration - ss.msec", "Annotation"])]
    forms = {"hh:mm:ss.ms": clock, "ss.msec": str, "msec": lambda s: str(round(1000 * s))}
    for name, start, end in ROWS:
        cells = [forms[time](value) for time in times for value in (start, end)]
        lines.append("\t".join(["action", "", *cells, str(end - start), name]))
    return "\n".join(lines)


TIERS = "\n".join(
    ["Begin Time - ss.msec,End Time - ss.msec,action,speech"]
    + [f"{start},{end},{name}," for name, start, end in ROWS]
)
AGGREGATED = "\n".join(
    ["Observation id,Media file name,Subject,Behavior,Behavior type,Start (s),Stop (s)"]
    + [f'o1,"C:\\film\\my game.mp4",ann,{n},STATE,{start},{end}' for n, start, end in ROWS]
)
EVENTS = "\n".join(
    ["Observation id\to1", "", "Time\tMedia file path\tSubject\tBehavior\tStatus"]
    + [
        f"{time}\t/film/my game.mp4\tann\t{name}\t{status}"
        for name, start, end in ROWS
        for time, status in ((start, "START"), (end, "STOP"))
    ]
)
SHEET = "\n".join(
    ["path,class,start,end"] + [f"my game.mp4,{name},{start},{end}" for name, start, end in ROWS]
)

FILES = {
    "activitynet.json": ("activitynet", activitynet(ROWS), [], "validation"),
    "my game.eaf": ("elan", eaf(ROWS), [], None),
    "two.eaf": ("elan", eaf(ROWS, "hello"), ["--tier", "action", "--split", "test"], "test"),
    "my game.txt": ("elan", tabs("hh:mm:ss.ms", "ss.msec"), [], None),
    "my game.tsv": ("elan", tabs("msec"), [], None),
    "my game.csv": ("elan", TIERS, ["--tier", "action"], None),
    "aggregated.csv": ("boris", AGGREGATED, [], None),
    "events.tsv": ("boris", EVENTS, ["--split", "train"], "train"),
    "sheet.csv": ("csv", SHEET, ["--split", "train"], "train"),
}


def convert(folder: Path, name: str, kind: str, text: str, *words: str) -> int:
    (folder / "videos").mkdir(exist_ok=True)
    (folder / "videos" / "my game.mp4").touch()
    (folder / name).write_text(text, encoding="utf-8")
    fixed = ["--kind", kind, "--videos", str(folder / "videos"), "--tables", str(folder / name)]
    return main(["prepare", "manifest", *fixed, "--out", str(folder / "out" / "m.csv"), *words])


@pytest.mark.parametrize("name", FILES)
def test_all_formats_give_the_same_segments(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, text, words, split = FILES[name]
    part: Part = split  # type: ignore[assignment]
    assert convert(tmp_path, name, kind, text, *words) == 0
    assert f"3 {part or 'undivided'}" in capsys.readouterr().out
    listing = read_manifest(tmp_path / "out" / "m.csv")
    assert listing.class_names == ("run", "walk")
    found = [
        (r.path.name, listing.class_names[r.label], *r.segment) for r in listing.parts[part] or ()
    ]
    assert found == [("my game.mp4", *row) for row in ROWS]


def test_segments_that_cannot_be_used_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = [("walk", 5.0, 5.0), ("dive", 1.0, 2.5), ("", 7.0, 8.0)]
    assert convert(tmp_path, "a.json", "activitynet", activitynet([*ROWS, *wrong])) == 0
    out = capsys.readouterr().out
    assert "lists 0 train, 3 validation, 0 test videos of 3 classes" in out
    assert "LEFT OUT: 3 segments, first: " in out
    assert "a.json: video my game, from 5.0 to 5.0 s it has no length, or is outside" in out


WRONG = [
    ("a.json", "activitynet", "[]", "is not JSON like ActivityNet's"),
    ("a.json", "activitynet", '{"database": {"a": {"annotations": [{}]}}}', "KeyError: 'segment'"),
    (
        "a.json",
        "activitynet",
        '{"database": {"a": {"subset": "x", "annotations": [{"segment": [0, 1], "label": "b"}]}}}',
        "subset 'x' is no split; give --split for it",
    ),
    ("a.eaf", "elan", "<a>", "is not an ELAN file, or is damaged"),
    ("a.eaf", "elan", "<!DOCTYPE a [<!ENTITY b 'c'>]><a/>", "it defines a document type"),
    ("a.eaf", "elan", eaf(ROWS, "hi"), "has several tiers (action, speech); choose one by --tier"),
    ("a.txt", "elan", "action\t\t1\t2\twalk\n", "has no column 'begin time'; export it as"),
    ("a.txt", "elan", tabs("ss.msec").replace("2.5", "two"), "'two' is no time"),
    ("a.csv", "boris", "Time,Behavior\n1,walk\n", "walk has no type where it cannot"),
    ("a.tsv", "boris", EVENTS.rsplit("\n", 1)[0], "starts and never stops; fix it in BORIS"),
    ("a.csv", "boris", AGGREGATED.replace("2.5", ""), "needs a number in the column 'stop (s)'"),
    ("a.csv", "csv", "path,class,split,start\nmy game.mp4,a,test,x", "must be seconds"),
]


@pytest.mark.parametrize(("name", "kind", "text", "message"), WRONG)
def test_wrong_files_are_one_line(
    tmp_path: Path,
    name: str,
    kind: str,
    text: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert convert(tmp_path, name, kind, text) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


def test_an_absent_tier_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(tmp_path, "a.eaf", "elan", eaf(ROWS), "--tier", "moves") == 2
    assert "--tier moves: " in capsys.readouterr().err
