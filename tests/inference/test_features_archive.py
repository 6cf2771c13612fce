"""`p3d features` over many videos: deaths, additions, lists of bad videos."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

import p3d
from helpers.videos import write_video
from p3d.cli import main
from p3d.data.dataset import VideoRecord
from p3d.inference.extractor import Extractor, FeatureWork
from p3d.inference.feature_file import read_features

pytestmark = pytest.mark.usefixtures("narrow_networks")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = p3d.create_model("p3d63", num_classes=2)
    model.preprocessing = p3d.Preprocessing(num_frames=4, resize=(16, 20), crop=16)
    path = tmp_path_factory.mktemp("weights") / "network.safetensors"
    p3d.save_model(model, path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a data set of six videos in two classes."""
    for number in range(6):
        path = tmp_path / "data" / ("walk", "run")[number % 2] / f"{number}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, 6 + number)
    return tmp_path / "data"


def words(data: Path, weights: Path, out: Path, *more: str) -> list[str]:
    paths = ["--data", str(data), "--weights", str(weights), "--out", str(out)]
    fixed = ["--clips", "2", "--device", "cpu", "--threads", "1"]
    return ["features", *paths, *fixed, *more]


def videos_of(data: Path) -> list[Path]:
    return sorted(data.rglob("*.avi"))


def arrays_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.npy")}


@dataclass(frozen=True)
class Crashing(FeatureWork):
    """A decoder that crashes at one of the videos."""

    def start(self, number: int) -> Extractor:
        extractor = super().start(number)
        read = extractor.read

        def crash(source: VideoRecord) -> Tensor:
            if source.path.stem == "killer":
                os.kill(os.getpid(), signal.SIGSEGV)
            return read(source)

        extractor.read = crash  # type: ignore[method-assign]
        return extractor


def test_a_crash_costs_one_video_and_is_not_tried_again(
    data: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert main(words(data, weights, whole, "--per-video")) == 0
    killer = videos_of(data)[3].with_name("killer.avi")
    shutil.copy(videos_of(data)[3], killer)
    skip = words(data, weights, out, "--per-video", "--on-bad-video", "skip")
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr("p3d.inference.features.FeatureWork", Crashing)
        assert main(skip) == 0
        printed = capsys.readouterr()
        reason = "its worker died 3 times (killed by SIGSEGV)"
        assert f"LEFT OUT: 1 video that cannot be read:\n  {killer}: {reason}" in printed.out
        assert main(words(data, weights, tmp_path / "stops.npz")) == 2
        assert f"p3d: error: {killer}: {reason}; " in capsys.readouterr().err.splitlines()[-1]
    assert arrays_of(out) == arrays_of(whole)
    assert f"{killer},its worker died" in (out / "bad.csv").read_text()
    assert main(skip) == 0  # it would not crash now, but is not tried
    assert f"  {killer}: its worker died 3 times" in capsys.readouterr().out
    (out / "attempts.jsonl").unlink()
    assert main(skip) == 0
    assert len(arrays_of(out)) == len(arrays_of(whole)) + 1
    assert not (out / "bad.csv").exists()


@pytest.mark.parametrize("per_video", [False, True])
def test_only_videos_that_were_added_are_computed(
    per_video: bool,
    data: Path,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    more = ("--per-video",) if per_video else ()
    out = tmp_path / ("set" if per_video else "set.npz")
    added = videos_of(data)[2]
    aside = shutil.move(added, tmp_path / "aside.avi")
    assert main(words(data, weights, out, *more)) == 0
    assert "videos found: 5; done: 0" in capsys.readouterr().err
    before = read_features(out)
    shutil.move(aside, added)
    assert main(words(data, weights, out, *more)) == 0
    assert "videos found: 6; done: 5" in capsys.readouterr().err
    assert main(words(data, weights, tmp_path / "whole.npz")) == 0
    whole, found = read_features(tmp_path / "whole.npz"), read_features(out)
    assert found.index == whole.index
    assert found.values.tobytes() == whole.values.tobytes()
    assert set(before.index.paths) < set(found.index.paths)
    if not per_video:
        assert out.read_bytes() == (tmp_path / "whole.npz").read_bytes()
    added.unlink()
    assert main(words(data, weights, tmp_path / "whole.npz")) == 2
    assert "holds the features of other videos (6, not 5)" in capsys.readouterr().err


def test_several_processes_give_the_same_file(data: Path, weights: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.pth"
    torch.save(p3d.load_model(weights).state_dict(), foreign)
    assert main(words(data, foreign, tmp_path / "one.npz")) == 0
    command = words(data, foreign, tmp_path / "two.npz", "--processes", "2")
    ended = subprocess.run(
        [sys.executable, "-m", "p3d", *command], capture_output=True, text=True, check=True
    )
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    assert ended.stderr.count("a bare p3d state dict") == 1  # the workers do not say it again


def test_torchrun_and_processes_exclude_each_other(
    data: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    launch = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost"}
    for name, value in launch.items():
        monkeypatch.setenv(name, value)
    assert main(words(data, weights, tmp_path / "set.npz", "--processes", "2")) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "--ray, --processes: torchrun says how many processes there are" in line
