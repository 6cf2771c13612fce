"""`p3d timeline --out FOLDER`: every video once, kills, additions, bad videos, other options."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.videos import write_video
from p3d.cli import main
from p3d.model.network import create_model
from p3d.preprocessing import IMAGENET
from p3d.weights.metadata import save_model

pytestmark = pytest.mark.usefixtures("narrow_networks")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with four videos, one that cannot be read, and weights."""
    root = tmp_path_factory.mktemp("timelines")
    torch.manual_seed(0)
    model = create_model("p3d63", num_classes=3)
    model.class_names = ("walk", "run", "skip")
    model.preprocessing = replace(IMAGENET, num_frames=4, resize=(18, 24), crop=16, fps=25.0)
    save_model(model, root / "net.safetensors")
    for number in range(4):
        (root / "set" / "day").mkdir(parents=True, exist_ok=True)
        write_video(root / "set" / ("day" if number % 2 else "") / f"{number}.avi", 20 + number)
    (root / "set" / "bad.avi").write_bytes(b"no video")
    (root / "classes" / "walk").mkdir(parents=True)
    write_video(root / "classes" / "walk" / "a.avi", 20)
    return root


def words(root: Path, out: Path, *more: str) -> list[str]:
    fixed = ["timeline", str(root / "set"), "--weights", str(root / "net.safetensors")]
    cut = ["--high", "0.35", "--low", "0.3", "--smooth", "0", "--shortest", "0"]
    return [*fixed, "--out", str(out), "--device", "cpu", "--threads", "1", *cut, *more]


def test_killed_run_goes_on_with_the_videos_that_are_left(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-m", "p3d", *words(root, out)])
    while process.poll() is None and not [*out.rglob("*.avi.json")]:
        time.sleep(0.01)
    process.kill()
    process.wait()
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*.avi.json")}
    write_video(root / "set" / "new.avi", 12)
    assert main(words(root, out)) == 2
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] == f"segments of 5 videos: {out}"
    assert "bad.avi,not a video" in (out / "bad.csv").read_text()
    assert f"videos found: 6; done: {len(before)}" in printed.err
    assert {file: file.stat().st_mtime_ns for file in before} == before
    files = {file.relative_to(out).as_posix() for file in out.rglob("*.avi.json")}
    assert files == {"0.avi.json", "2.avi.json", "day/1.avi.json", "day/3.avi.json", "new.avi.json"}

    single = words(root, tmp_path / "one.json")
    single[1] = str(root / "set" / "day" / "3.avi")
    assert main(single) == 0
    alone = json.loads((tmp_path / "one.json").read_text())
    among = json.loads((out / "day" / "3.avi.json").read_text())
    for content in (alone, among):
        assert content["external_data"].pop("weights")
    assert among == alone
    assert any(among["results"].values())

    assert main(words(root, out)) == 2  # nothing is left but the bad one
    (root / "set" / "bad.avi").unlink()
    assert main(words(root, out)) == 0
    assert not (out / "bad.csv").exists()
    assert not (out / "attempts.jsonl").exists()
    capsys.readouterr()
    assert main(words(root, out, "--stride", "1")) == 2
    assert "was made with stride by default, not 1.0; give the same" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--json",), "--json: --out"),
        (("--scores", "x.bin"), "is a folder of many videos' files"),
        (("--weights", "gone.safetensors"), "gone.safetensors"),
        (("--format", "doc"), "--format"),
        (("--out", "classes/walk"), "--out classes/walk: is inside the data set classes"),
    ],
)
def test_wrong_uses_get_one_line(
    more: tuple[str, ...],
    message: str,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(root)
    command = words(root, tmp_path / "out", *more)
    command[1] = "classes" if "classes/walk" in more else command[1]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_subtitles_for_each_video(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = words(root, out, "--format", "srt")
    command[1] = str(root / "set" / "day")
    assert main(command) == 0
    assert {file.name for file in out.glob("*.srt")} == {"1.avi.srt", "3.avi.srt"}
    assert " --> " in (out / "1.avi.srt").read_text()


def test_wrong_words_leave_nothing_behind(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = words(root, out)
    command[1] = str(root / "sett")
    assert main(command) == 2
    assert f"no such file or folder; did you mean {root / 'set'}?" in capsys.readouterr().err
    assert not out.exists()
    command[1] = str(root / "set" / "day")
    assert main([*command, "--window", "0"]) == 2  # the workers refuse it
    assert "--window is 0; give seconds" in capsys.readouterr().err
    assert not out.exists()
    assert main(command) == 0, "the refused option does not bind the next run"
