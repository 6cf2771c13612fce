"""All loaders of the loading benchmark load the same clips, and all stages are measured."""

from __future__ import annotations

import json
from pathlib import Path

import loading
import pytest
import torch

from helpers.videos import write_video
from p3d.preprocessing import normalize


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number in range(3):
        write_video(folder / f"{number}.avi", 20, size=(240, 320))
    return folder


def test_all_loaders_load_the_same_clip(folder: Path, tmp_path: Path) -> None:
    videos = loading.write_frames(sorted(folder.glob("*.avi")), tmp_path)
    clip = loading.Clip(videos, 1, 0, "random")
    pixels = {name: load(clip) for name, load in loading.LOADERS.items()}
    for name, frames in pixels.items():
        if frames.dtype == torch.uint8:
            pixels[name] = normalize(frames[None], loading.PREP)[0]
        assert pixels[name].shape == (3, 16, 160, 160), name
        # One gray level is 0.017; JPEG blurs the edges of the bar code.
        difference = (pixels[name] - pixels[loading.USUAL]).abs().mean()
        assert difference < 0.1, (name, difference)


def test_figures_are_printed_and_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    flags = ("--videos", "2", "--rounds", "1", "--batch-size", "2", "--out", str(out))
    loading.main(["--data", str(folder), *flags])
    table = capsys.readouterr().out
    timings = json.loads(out.read_text())["timings"]
    assert {(t["name"], t["access"]) for t in timings} == {
        (name, access) for name in loading.LOADERS for access in ("random", "first")
    }
    for timing in timings:
        assert timing["seconds_per_clip"] > 0
        assert f"{timing['name']}, {timing['access']} frames" in table
    measured = {t["name"]: set(t["stages"]) for t in timings if t["access"] == "random"}
    for name, loader in loading.LOADERS.items():
        expected = {*loading.STAGES[loader], "rest"} if loader in loading.STAGES else set()
        assert measured[name] == expected


def test_a_stage_that_is_never_called_is_an_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = loading.write_frames(sorted(folder.glob("*.avi")), tmp_path)
    monkeypatch.setitem(loading.STAGES, loading.load_frames, {"demux": (loading.demux,)})
    with pytest.raises(RuntimeError, match="load_frames calls none of the functions of 'demux'"):
        loading.profile_stages(loading.load_frames, videos)


def test_wrong_options(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, words in (
        (["--data", str(folder), "--rounds", "0"], "must be 1 or more"),
        (["--data", str(tmp_path)], "holds no video files"),
    ):
        with pytest.raises(SystemExit):
            loading.main(flags)
        assert words in capsys.readouterr().err
