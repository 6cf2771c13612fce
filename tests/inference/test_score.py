"""An archive is scored once, whatever is interrupted, and never with other weights or options."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from helpers.tiny_networks import CLASSES, FRAMES, tiny_network
from helpers.videos import write_video
from p3d.cli import main
from p3d.inference.predictor import Predictor
from p3d.weights.metadata import save_model

NAMES = [f"v{number}.avi" for number in range(6)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with weights and the folder `films`, one of which is no video."""
    folder = tmp_path_factory.mktemp("archive")
    save_model(tiny_network(), folder / "w.safetensors")
    (folder / "films").mkdir()
    for number, name in enumerate(NAMES):
        frames = range(number, FRAMES + 4 * number)
        write_video(folder / "films" / name, len(frames), numbers=frames)
    (folder / "films" / "broken.avi").write_bytes(b"RIFF and nothing else")
    return folder


def arguments(folder: Path, out: Path, *more: str) -> list[str]:
    return [
        *("score", str(folder / "films"), "--weights", str(folder / "w.safetensors")),
        *("--out", str(out), "--clips", "3", "--format", "jsonl", "--device", "cpu", *more),
    ]


def records(out: Path) -> list[dict[str, Any]]:
    parts = sorted((out / "parts").iterdir())
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(folder: Path) -> list[dict[str, Any]]:
    """Return the records of an uninterrupted command."""
    out = folder / "whole"
    assert main(arguments(folder, out)) == 2
    return records(out)


def by_path(found: list[dict[str, Any]]) -> dict[str, Any]:
    assert len({record["path"] for record in found}) == len(found), "a video is there twice"
    return {record["path"]: record for record in found}


def test_scores_are_those_of_predict(folder: Path, whole: list[dict[str, Any]]) -> None:
    assert len(whole) == len(NAMES) + 1
    predictor = Predictor(folder / "w.safetensors", clips=3, device="cpu")
    for record in whole:
        if record["path"].endswith("broken.avi"):
            assert record["error"]
            continue
        expected = predictor(record["path"])
        assert [*zip(record["classes"], record["scores"], strict=True)] == [
            (name, pytest.approx(score, rel=1e-4)) for name, score in expected.top(5)
        ]
        assert (record["frames"], record["clips"]) == (expected.num_frames, 3)
    settings = json.loads((folder / "whole" / "settings.json").read_text())
    assert settings["class_names"] == list(CLASSES)
    bad = (folder / "whole" / "bad.csv").read_text().splitlines()
    assert bad[0] == "path,error"
    assert "broken.avi" in bad[1]


def test_all_scores_and_features(folder: Path, whole: list[dict[str, Any]], tmp_path: Path) -> None:
    main(arguments(folder, tmp_path / "scores", "--what", "scores"))
    main(arguments(folder, tmp_path / "features", "--what", "features"))
    scores, features = (by_path(records(tmp_path / what)) for what in ("scores", "features"))
    predictor = Predictor(folder / "w.safetensors", clips=3, device="cpu")
    for path, record in by_path(whole).items():
        if record["error"] is None:
            best = max(scores[path]["scores"])
            assert best == record["scores"][0]
            expected = predictor.features(path).mean(0).tolist()
            assert features[path]["features"] == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_only_new_videos_are_done(
    folder: Path, whole: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, out = tmp_path / "copy", tmp_path / "out"
    shutil.copytree(folder / "films", copy / "films")
    moved = tmp_path / NAMES[0]
    (copy / "films" / NAMES[0]).rename(moved)
    shutil.copy(folder / "w.safetensors", copy)
    assert main(arguments(copy, out)) == 2
    moved.rename(copy / "films" / NAMES[0])
    (copy / "films" / "broken.avi").write_bytes((copy / "films" / NAMES[1]).read_bytes())
    capsys.readouterr()
    assert main(arguments(copy, out)) == 2
    assert "1 video done" in capsys.readouterr().out
    assert main(arguments(copy, out, "--retry-bad")) == 0
    assert "1 video done" in capsys.readouterr().out
    found = {Path(path).name: record for path, record in by_path(records(out)).items()}
    assert found.keys() == {"broken.avi", *NAMES}
    for record in whole:
        if record["error"] is None:
            assert found[Path(record["path"]).name]["scores"] == record["scores"]


def test_killed_commands_leave_the_same_records(
    folder: Path, whole: list[dict[str, Any]], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "p3d", *arguments(folder, tmp_path)]
    rng = random.Random(0)
    for _ in range(3):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(rng.uniform(1, 5))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert main(command[3:]) == 2
    assert by_path(records(tmp_path)) == by_path(whole)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--what", "scores"), "its results are by what top, those of this command by scores"),
        (("--top", "2"), "its results are by top 5, those of this command by 2"),
        (("--precision", "bf16"), "its results are by precision fp32"),
        (("--top", "0"), "--top is 0; give 1 or more"),
        (("--processes", "0"), "--processes is 0; give 1 or more"),
    ],
)
def test_other_options(
    more: tuple[str, ...],
    message: str,
    folder: Path,
    whole: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = records(folder / "whole")
    assert main(arguments(folder, folder / "whole", *more)) == 2
    assert message in capsys.readouterr().err
    assert records(folder / "whole") == before == whole


def test_other_weights(
    folder: Path, whole: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    save_model(tiny_network(wiring="port"), tmp_path / "copy" / "w.safetensors")
    assert main(arguments(tmp_path / "copy", tmp_path / "copy" / "whole")) == 2
    error = capsys.readouterr().err
    assert "its results are by weights " in error
    assert len(whole) == len(records(tmp_path / "copy" / "whole"))
