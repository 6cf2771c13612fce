"""`p3d predict` as a user calls it."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.videos import write_frames, write_video
from p3d.cli import main
from p3d.inference.far_rates import describe_far_rates
from p3d.model.network import create_model
from p3d.preprocessing import IMAGENET
from p3d.system.text import columns
from p3d.weights.loading import load_model
from p3d.weights.metadata import save_model


@pytest.fixture(scope="module")
def folder(
    narrow_networks: None,  # noqa: ARG001
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Return a folder of three videos, one of them as frames, a broken one, and weights."""
    root = tmp_path_factory.mktemp("predict")
    model = create_model("p3d63", num_classes=3)
    model.class_names = ("walk", "<run>", "skip")
    model.preprocessing = replace(IMAGENET, num_frames=4, resize=(18, 24), crop=16)
    model.fc.bias.data = torch.tensor([0.0, 2.0, 1.0])
    save_model(model, root / "net.safetensors")
    (root / "set" / "more").mkdir(parents=True)
    write_video(root / "set" / "a.avi", 40)
    write_video(root / "set" / "more" / "c.avi", 8)
    write_frames(root / "set" / "more" / "b", 4)
    (root / "set" / "bad.avi").write_bytes(b"no video")
    return root


@pytest.fixture(autouse=True)
def _in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def predict(*words: object) -> int:
    fixed = ("predict", "--weights", "net.safetensors", "--device", "cpu", "--clips", "1")
    return main([*fixed, *map(str, words)])


def test_folder_gives_a_line_for_each_video(capsys: pytest.CaptureFixture[str]) -> None:
    assert predict("set") == 2
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines()]
    assert [line[:2] for line in lines] == [
        [path, "<run>"] for path in ("set/a.avi", "set/more/b", "set/more/c.avi")
    ]
    assert "  ".join(lines[0][3:]) == "saw  10%  of  40  frames"
    assert not lines[1][3:]
    assert "p3d: videos found: 4, 1 of them folders of frames" in err.splitlines()
    assert "p3d: error: set/bad.avi: " in err
    assert err.splitlines()[-2:] == [
        "p3d: --clips 10 would see all 2 such videos whole",
        "p3d: 1 of 4 videos were not read",
    ]


def test_lines_are_aligned_after_wide_names(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "wide").mkdir()
    for name in ("走路.avi", "ab.avi"):
        write_video(folder / "wide" / name, 4)
    assert predict("wide") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len({columns(line.partition("<run>")[0]) for line in lines}) == 1


def test_single_video_gives_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert predict("set/a.avi", "--threshold", 0.9) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["set/a.avi", "score"]
    assert lines[2].split() == ["unknown", "below", "90.0%"]
    assert [line.split()[0] for line in lines[3:6]] == ["<run>", "skip", "walk"]
    assert lines[6] == "saw 10% of 40 frames"


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_out_goes_on_where_it_ended(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"answers.{suffix}"
    flags = ("--out", out, "--threshold", 0.9)
    assert predict("set/more/c.avi", *flags) == 0
    capsys.readouterr()
    assert predict("set", *flags) == 2
    printed = capsys.readouterr()
    assert f"videos already answered in {out}: 1;" in printed.err
    assert "set/more/c.avi" not in printed.out
    if suffix == "csv":
        rows = list(csv.DictReader(out.read_text().splitlines()))
    else:
        rows = [json.loads(line) for line in out.read_text().splitlines()]
    paths = ["set/a.avi", "set/bad.avi", "set/more/b", "set/more/c.avi"]
    assert [row["path"] for row in rows] == paths
    assert {row["answer"] for row in rows if not row.get("error")} == {"unknown"}
    assert rows[3]["best"] == "<run>"
    assert 0.3 < float(rows[3]["probability"]) < 0.9
    assert (int(rows[0]["frames"]), float(rows[0]["seen"])) == (40, 0.1)
    assert "not a video" in rows[1]["error"]
    assert predict("set", "--out", out) == 2
    assert "choose another file" in capsys.readouterr().err


def test_json_has_answer_and_what_was_seen(capsys: pytest.CaptureFixture[str]) -> None:
    assert predict("set/a.avi", "--json", "--top", 1) == 0
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert found.keys() == {"video", "top", "answer", "frames", "seen"}
    assert [item["class"] for item in found["top"]] == [found["answer"]] == ["<run>"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("",), "the name of the video is empty"),
        (("https://a.b/c.mp4",), "https://a.b/c.mp4: is an address"),
        (("set", "--threshold", "1.5"), "--threshold is 1.5; give a probability from 0 to 1"),
        (("set", "--top", "0"), "--top is 0"),
        (("set", "--out", "x.xlsx"), "ends in .csv or .jsonl"),
    ],
)
def test_wrong_uses_get_one_line(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(*words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("rates", "trained", "fps", "expected"),
    [
        ([25, 30, 37.4], (25, 30), None, None),
        (
            [60, 25],
            (25, 25),
            None,
            "1 video with 60 frames a second, the weights were trained on 25",
        ),
        ([60, 10, 0], (25, 30), None, "2 videos with 10 to 60 frames a second"),
        ([60, 25], None, None, None),
        ([60, 20], (25, 30), 25.0, None),
        ([12], (50, 60), 25.0, "were trained on 50 to 60 frames a second: frames are repeated"),
    ],
)
def test_rates_far_from_those_of_training(
    rates: list[float], trained: tuple[float, float] | None, fps: float | None, expected: str | None
) -> None:
    found = describe_far_rates(rates, trained, fps)
    assert (found is None) if expected is None else (found is not None and expected in found)


def test_a_rate_that_the_weights_have_not_seen(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_model(folder / "net.safetensors")
    model.rates = (25.0, 30.0)
    save_model(model, tmp_path / "native.safetensors")
    model.preprocessing = replace(model.preprocessing, fps=25.0)
    save_model(model, tmp_path / "timed.safetensors")
    fast = write_video(tmp_path / "fast.avi", 8, fps=60)
    frames = folder / "set" / "more" / "b"

    def notes(weights: str, *words: object) -> list[str]:
        fixed = ["predict", "--weights", str(tmp_path / weights), "--device", "cpu", "--clips", "1"]
        assert main([*fixed, *map(str, words)]) == 0
        return capsys.readouterr().err.splitlines()

    [note] = [line for line in notes("native.safetensors", fast) if "RATE" in line]
    assert note == (
        "p3d: RATE: 1 video with 60 frames a second, the weights were trained on 25 to 30 frames "
        "a second: motion looks slower or faster; train with --fps 25"
    )
    assert not [line for line in notes("timed.safetensors", fast) if "RATE" in line]
    assert "p3d: 1 folder of frames taken as 25 a second; or give --frame-rate" in notes(
        "timed.safetensors", frames
    )
    assert notes("timed.safetensors", frames, "--frame-rate", 25) == []
    assert main(["info", str(tmp_path / "timed.safetensors")]) == 0
    assert "4 frames at 25 a second" in capsys.readouterr().out


@pytest.mark.parametrize("rate", ["0", "-1"])
def test_wrong_frame_rates_are_one_line(rate: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict("set", "--frame-rate", rate) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("p3d: error: --frame-rate is ")
    assert line.endswith("; give frames per second, above 0, such as 25")
