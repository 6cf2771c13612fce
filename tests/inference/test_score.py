"""`p3d score` as a user calls it: kills, resuming, additions, bad videos, other weights."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.videos import write_video
from helpers.web import serving
from p3d.archive.machines import ThisMachine
from p3d.archive.parts import part_files, read_part
from p3d.archive.results import PARTS
from p3d.cli import main
from p3d.errors import UserError
from p3d.inference.predictor import Predictor
from p3d.inference.score import ScoreOptions, _work
from p3d.model.network import create_model
from p3d.preprocessing import IMAGENET
from p3d.system.options import DeviceOptions
from p3d.weights.metadata import save_model

pytestmark = pytest.mark.usefixtures("narrow_networks")

FLAGS = ("--device", "cpu", "--threads", "1", "--clips", "2")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with six videos, one that cannot be read, and weights."""
    root = tmp_path_factory.mktemp("score")
    torch.manual_seed(0)
    model = create_model("p3d63", num_classes=3)
    model.class_names = ("walk", "run", "skip")
    model.preprocessing = replace(IMAGENET, num_frames=4, resize=(18, 24), crop=16)
    save_model(model, root / "net.safetensors")
    (root / "set").mkdir()
    for number in range(6):
        write_video(root / "set" / f"{number}.avi", 6 + 3 * number)
    (root / "set" / "bad.avi").write_bytes(b"no video")
    return root


def words(root: Path, out: Path, *more: str) -> list[str]:
    weights = root / "net.safetensors"
    return ["score", str(root / "set"), "--weights", str(weights), "--out", str(out), *FLAGS, *more]


def rows_of(out: Path) -> dict[str, dict[str, Any]]:
    rows = [row for file in part_files(out / PARTS) for row in read_part(file).rows]
    assert len({row["path"] for row in rows}) == len(rows), "a video twice"
    return {Path(row["path"]).name: row for row in rows}


@pytest.mark.parametrize("more", [[], ["--workers", "0"]])
def test_flow_weights_and_videos_without_flow_are_one_line(
    more: list[str], root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = create_model("p3d63", num_classes=3, modality="flow")
    save_model(model, tmp_path / "flow.safetensors")
    flow = ["--weights", str(tmp_path / "flow.safetensors")]
    assert main([*words(root, tmp_path / "out", *more), *flow]) == 2
    out, err = capsys.readouterr()
    [line] = [line for line in err.splitlines() if "error" in line]
    assert "holds pictures, but the network takes optical flow; prepare flow first" in line
    assert not out
    assert not part_files(tmp_path / "out" / PARTS)
    assert main(words(root, tmp_path / "out", *more)) == 2, "one is bad"
    assert len(rows_of(tmp_path / "out")) == 6


def test_killed_run_goes_on_and_gives_the_same_rows(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, more = tmp_path / "out", ("--what", "scores", "--part-videos", "1")
    process = subprocess.Popen([sys.executable, "-m", "p3d", *words(root, out, *more)])
    while process.poll() is None and len(part_files(out / PARTS)) < 2:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = len(rows_of(out))
    assert before >= 2
    write_video(root / "set" / "new.avi", 8)
    assert main(words(root, out, *more)) == 2
    printed = capsys.readouterr()
    assert printed.out, printed.err
    assert printed.out.splitlines()[0] == f"7 videos scored: {out}"
    assert printed.out.splitlines()[1].startswith(f"1 video could not be read: {out / 'bad.csv'}; ")
    assert printed.out.splitlines()[2].startswith(f"  {root / 'set' / 'bad.avi'}: not a video")
    assert "bad.avi,not a video" in (out / "bad.csv").read_text()

    predictor = Predictor(root / "net.safetensors", device="cpu", clips=2)
    rows = rows_of(out)
    assert sorted(rows) == [*(f"{n}.avi" for n in range(6)), "new.avi"]
    for name, row in rows.items():
        found = predictor(root / "set" / name)
        assert np.array_equal(np.array(row["scores"], np.float32), found.scores.numpy())
        assert (row["frames"], row["clips"]) == (found.num_frames, 2)

    parts = part_files(out / PARTS)
    assert main(words(root, out, *more)) == 2  # nothing is left to do
    assert part_files(out / PARTS) == parts
    shutil.copy(root / "set" / "new.avi", root / "set" / "bad.avi")
    assert main(words(root, out, *more)) == 2  # it is not tried again unless asked for
    assert main(words(root, out, *more, "--retry-bad")) == 0
    assert np.array_equal(rows_of(out)["bad.avi"]["scores"], rows_of(out)["new.avi"]["scores"])
    assert (out / "bad.csv").read_text().splitlines() == ["path,error"]


def test_other_options_and_weights_are_refused(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    single = [words(root, out)[0], str(root / "set" / "0.avi"), *words(root, out)[2:]]
    assert main([*single, "--what", "features"]) == 0
    (row,) = rows_of(out).values()
    predictor = Predictor(root / "net.safetensors", device="cpu", clips=2)
    expected = predictor.features(root / "set" / "0.avi").mean(0)
    assert np.array_equal(np.array(row["features"], np.float32), expected.numpy())
    capsys.readouterr()
    assert main(single) == 2
    assert "was made with what features, not top; give the same options" in capsys.readouterr().err

    weights = tmp_path / "net.safetensors"
    shutil.copy(root / "net.safetensors", weights)
    options = ScoreOptions((), weights, out, compute=DeviceOptions(device="cpu"))
    work = _work(options, ThisMachine(1, "cpu", None))
    work.load()
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(UserError, match="was replaced during the run"):
        work.load()


def test_addresses_are_scored_without_their_credentials(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("aiohttp", reason="needs the extra remote")
    out, videos = tmp_path / "out", tmp_path / "videos.txt"
    (tmp_path / "set").mkdir()
    shutil.copy(root / "set" / "0.avi", tmp_path / "set")
    (tmp_path / "set" / "bad.avi").write_bytes(b"no video")
    with serving(tmp_path / "set") as web:
        names = [f"{web.address}/{name}?id=1" for name in ("0.avi", "bad.avi", "gone.avi")]
        secret = "&X-Amz-Signature=hidden"
        videos.write_text("".join(f"{name}{secret}\n" for name in names))
        command = ["score", str(videos), *words(root, out, "--what", "scores")[2:]]
        assert main([*command, "--format", "jsonl"]) == 2
        with videos.open("a") as file:
            file.write(f"{names[0]}{secret}2\n")
        assert main(command) == 2
    assert "differ only in what may be credentials" in capsys.readouterr().err
    (row,) = rows_of(out).values()
    found = Predictor(root / "net.safetensors", device="cpu", clips=2)(root / "set" / "0.avi")
    assert row["path"] == names[0]
    assert np.array_equal(np.array(row["scores"], np.float32), found.scores.numpy())
    files = [path for path in out.rglob("*") if path.is_file()]
    assert not [path for path in files if b"hidden" in path.read_bytes()]
    bad = (out / "bad.csv").read_text()
    assert f"{names[1]},not a video" in bad
    assert f"{names[2]},no such file" in bad


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--top", "0"), "--top is 0; give 1 or more"),
        (("--what", "features", "--clips", "auto"), "features have no answer that settles"),
        (("--weights", "gone.safetensors"), "gone.safetensors"),
    ],
)
def test_wrong_uses_get_one_line(
    more: tuple[str, ...],
    message: str,
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*words(root, tmp_path / "out"), *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_results_are_no_class_of_the_videos(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "films" / "walk").mkdir(parents=True)
    shutil.copy(root / "set" / "0.avi", tmp_path / "films" / "walk")
    command = words(root, tmp_path / "films" / "scores")
    command[1] = str(tmp_path / "films")
    assert main(command) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"--out {command[5]}: is inside the data set {command[1]} and would be taken" in line
    assert [path.name for path in (tmp_path / "films").iterdir()] == ["walk"]


def test_a_mistyped_folder_is_no_bad_video(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.safetensors").write_text("no weights")
    wrong = {
        "sett": f"{root / 'sett'}: no such file or folder; did you mean {root / 'set'}?",
        "*.mkv": "this pattern matches nothing",
    }
    for name, message in wrong.items():
        command = words(root, tmp_path / "out")
        command[1] = str(root / name)
        assert main(command) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    text = str(tmp_path / "text.safetensors")
    assert main([*words(root, tmp_path / "out"), "--weights", text]) == 2
    assert not (tmp_path / "out").exists()
