"""The benchmark of loading: all ways load the same clip, and the table says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from helpers.videos import write_video
from p3d.bench import loaders as ways
from p3d.bench.data import COMMON, WAYS, DataBenchOptions, find_videos, run
from p3d.errors import UserError
from p3d.preprocessing import normalize


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number in range(3):
        write_video(folder / f"{number}.avi", 20, size=(240, 320))
    return folder


def test_all_ways_load_the_same_clip(folder: Path, tmp_path: Path) -> None:
    material = ways.write_material(sorted(folder.glob("*.avi")), tmp_path)
    draw = ways.Draw(material, 1, 0, "random")
    clips = {name: way(draw) for name, way in WAYS.items()}
    for name, clip in clips.items():
        if clip.dtype == torch.uint8:
            clips[name] = normalize(clip[None], ways.PREP)[0]
        assert clips[name].shape == (3, 16, 160, 160), name
        # One grey level is 0.017; JPEG blurs the edges of the bar code.
        difference = (clips[name] - clips[COMMON]).abs().mean()
        assert difference < 0.1, (name, difference)


def test_the_figures_are_printed_and_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    run(DataBenchOptions(folder, videos=2, rounds=1, batch_size=2, out=out))
    table = capsys.readouterr().out
    timings = json.loads(out.read_text())["timings"]
    assert {(t["name"], t["access"]) for t in timings} == {
        (name, access) for name in WAYS for access in ("random", "first")
    }
    for timing in timings:
        assert timing["seconds_per_clip"] > 0
        assert f"{timing['name']}, {timing['access']} frames" in table


def test_wrong_options(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be 1 or more"):
        find_videos(DataBenchOptions(folder, rounds=0))
    with pytest.raises(UserError, match="holds no video files"):
        find_videos(DataBenchOptions(tmp_path))
