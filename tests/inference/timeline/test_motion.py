"""Timelines of flow networks, and of two networks, against flow of whole videos."""

from __future__ import annotations

import json
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from av.video.frame import VideoFrame
from PIL import Image
from torch import Tensor

from helpers.tiny_networks import make_networks_narrow, tiny_network
from helpers.videos import write_frames, write_video
from p3d.cli import main
from p3d.inference.fusion import Fusion, write_fusion
from p3d.inference.predictor import Predictor
from p3d.inference.timeline import motion
from p3d.inference.timeline.frames import open_frames
from p3d.inference.timeline.motion import Picture
from p3d.inference.timeline.window_scorer import WindowScorer
from p3d.inference.timeline.windows import make_plan
from p3d.prepare.flow import write_flow
from p3d.system.files import file_sha256
from p3d.video.decode import open_video
from p3d.video.flow import ComputedFlow, PairFlow
from p3d.video.stream import FrameStream
from p3d.weights.metadata import save_model

FRAMES = 30
BOTH = ("--weights", "rgb.safetensors", "flow.safetensors")
FLOW = ("--weights", "flow.safetensors")
LOOSE = ("--high", "0.35", "--low", "0.3", "--smooth", "0", "--shortest", "0", "--merge", "0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder of videos, and of networks for pictures and for flow."""
    root = tmp_path_factory.mktemp("motion")
    with pytest.MonkeyPatch.context() as patch:
        make_networks_narrow(patch)
        for name, rate, method in (
            ("rgb", 25, "tvl1"),
            ("flow", 25, "dis"),
            ("slow", 12.5, "tvl1"),
        ):
            model = tiny_network(modality="rgb" if name == "rgb" else "flow")
            model.preprocessing = replace(
                model.preprocessing, fps=float(rate), flow_method=method, flow_short_side=20
            )
            save_model(model, root / f"{name}.safetensors")
        write_video(root / "film.ts", FRAMES, codec="libx264", b_frames=2)
        write_video(root / "short.avi", 1)
        write_frames(root / "frames", 10)
        with open_video(root / "film.ts") as video:
            write_flow(root / "film.flow.mkv", ComputedFlow(video, 20, "dis"))
        yield root


@pytest.fixture(autouse=True)
def _in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def timeline(*words: object) -> int:
    fixed = ("--device", "cpu", "--threads", "1", "--batch-size", "1", *LOOSE)
    return main(["timeline", *map(str, words), *fixed])


def scores(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    """Return what a command prints for a video."""
    assert timeline(*words, "--json", "--windows") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def scorer_of(name: str) -> WindowScorer:
    scorer = Predictor(name, device="cpu", batch_size=4).scorer
    return WindowScorer(make_plan(scorer.preprocessing, None, None), [scorer])


@pytest.mark.parametrize("name", ["flow.safetensors", "slow.safetensors"])
def test_flow_is_that_of_the_whole_video(name: str) -> None:
    predictor = Predictor(name, device="cpu", batch_size=1)
    prep = predictor.preprocessing
    with open_video("film.ts") as video:
        flow = ComputedFlow(video, 20, prep.flow_method).read(range(FRAMES - 1))
    expected = predictor.timeline(flow, fps=25)
    found = predictor.timeline("film.ts")
    assert np.array_equal(found.times, expected.times)
    assert np.array_equal(found.scores, expected.scores)
    assert np.ptp(found.scores, 0).max() > 0.01, "the network should tell windows apart"
    assert found.duration == pytest.approx(FRAMES / 25)


def test_files_of_flow_give_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    computed, prepared = (scores(capsys, *FLOW, name) for name in ("film.ts", "film.flow.mkv"))
    assert prepared["scores"] == computed["scores"]
    assert prepared["times"] == computed["times"]
    assert timeline("--weights", "rgb.safetensors", "film.flow.mkv") == 2
    assert "holds optical flow, but the network takes pictures" in capsys.readouterr().err
    assert timeline("--weights", "slow.safetensors", "film.flow.mkv") == 2
    assert "computed by dis, the network takes tvl1" in capsys.readouterr().err


def test_two_networks_give_the_weighted_mean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rgb = scores(capsys, "--weights", "rgb.safetensors", "film.ts")
    flow = scores(capsys, *FLOW, "film.ts")
    assert rgb["times"][: len(flow["times"])] == flow["times"]
    pairs = [np.array(found["scores"])[: len(flow["times"])] for found in (rgb, flow)]
    hashes = file_sha256(Path("flow.safetensors")), file_sha256(Path("rgb.safetensors"))
    write_fusion(tmp_path / "fusion.json", Fusion(0.2), hashes)
    for words, weight in (
        ((*BOTH, "film.ts"), 0.5),
        ((*FLOW, "film.ts", "rgb.safetensors", "--fusion", "0.7"), 0.3),
        ((*BOTH, "film.ts", "--fusion", tmp_path), 0.8),
    ):
        found = scores(capsys, *words)
        assert found["times"] == rgb["times"], "the last flow is repeated beside pictures"
        fused = np.array(found["scores"])[: len(pairs[0])]
        np.testing.assert_allclose(fused, (1 - weight) * pairs[0] + weight * pairs[1], atol=2e-4)


@pytest.mark.parametrize("networks", [FLOW, BOTH])
def test_a_live_stream_gives_the_same(
    networks: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = scores(capsys, *networks, "film.ts")
    os.mkfifo(tmp_path / "pipe")
    content = Path("film.ts").read_bytes()
    thread = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,))
    thread.start()
    assert timeline(*networks, tmp_path / "pipe", "--windows") == 0
    thread.join()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    windows = [line for line in lines if "scores" in line]
    assert [line["time"] for line in windows] == expected["times"]
    assert [list(line["scores"].values()) for line in windows] == expected["scores"]
    segments = sorted((line["start"], line["end"]) for line in lines if "label" in line)
    assert segments == [tuple(each["segment"]) for each in expected["segments"]]
    assert segments


def test_everything_is_done_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    converted: list[VideoFrame] = []
    pairs: list[tuple[int, int]] = []
    rgb, compute = FrameStream.rgb, PairFlow.__call__

    def counted_rgb(stream: FrameStream, frame: VideoFrame) -> Tensor:
        converted.append(frame)
        return rgb(stream, frame)

    def counted_flow(
        self: PairFlow, first: Sequence[Tensor], second: Sequence[Tensor]
    ) -> np.ndarray[Any, Any]:
        pairs.extend((id(one), id(other)) for one, other in zip(first, second, strict=True))
        return compute(self, first, second)

    monkeypatch.setattr(FrameStream, "rgb", counted_rgb)
    monkeypatch.setattr(PairFlow, "__call__", counted_flow)
    assert timeline(*BOTH, "film.ts") == 0
    assert len(set(map(id, converted))) == len(converted) == FRAMES
    assert len(set(pairs)) == len(pairs) == FRAMES - 1
    converted.clear()
    pairs.clear()
    assert timeline(*BOTH, "film.ts", "--stride", "0.6") == 0
    assert len(pairs) == 8, "of two windows of four frames"
    assert len(converted) < 15
    capsys.readouterr()


def test_memory_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[object] = weakref.WeakSet()
    original, most = Picture.__init__, 0

    def counted(self: Picture, *arguments: Any) -> None:
        nonlocal most
        original(self, *arguments)
        alive.add(self)
        most = max(most, len(alive))

    monkeypatch.setattr(motion.Picture, "__init__", counted)
    scorer = scorer_of("flow.safetensors")
    with open_frames(Path("film.ts"), scorer.preps) as video:
        for window in scorer.windows(video):
            scorer.score(scorer.stack([window]))
    assert 0 < most < 8


def test_a_single_frame_has_no_motion(capsys: pytest.CaptureFixture[str]) -> None:
    predictor = Predictor("flow.safetensors", device="cpu", batch_size=1)
    still = torch.full((1, 32, 40, 2), 128, dtype=torch.uint8)
    expected = predictor.timeline(still, fps=25)
    assert np.array_equal(predictor.timeline("short.avi").scores, expected.scores)
    assert len(scores(capsys, *BOTH, "short.avi")["times"]) == 1


def test_folders_are_read_like_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = [np.array(Image.open(path)) for path in sorted(Path("frames").iterdir())]
    predictor = Predictor("flow.safetensors", device="cpu", batch_size=1)
    expected = predictor.timeline(np.stack(pictures), fps=25)
    found = scores(capsys, *FLOW, "frames", "--fps", "25")
    np.testing.assert_allclose(found["scores"], expected.scores, atol=1e-4)
    assert len(scores(capsys, *BOTH, "frames", "--fps", "25")["times"]) >= len(found["times"])
    both = write_frames(tmp_path / "both", 3)
    for number in (1, 2):
        for axis in "xy":
            Image.new("L", (80, 64), 140).save(both / f"flow_{axis}_{number:05}.jpg")
    assert timeline(*BOTH, both) == 2
    assert "give the video, or a folder of its frames alone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("rgb.safetensors rgb.safetensors film.ts", "both take pictures; give one network"),
        ("rgb.safetensors slow.safetensors film.ts", "windows of 4 frames at 12.5 a second; give"),
        ("rgb.safetensors film.ts --fusion 0.5", "--fusion is for two networks"),
        ("rgb.safetensors flow.safetensors film.ts --fusion 2", "weight of the second network is"),
        ("rgb.safetensors flow.safetensors", "no videos were given"),
        ("rgb.safetensors flow.safetensors rgb.safetensors film.ts", "3 files of weights"),
    ],
)
def test_wrong_uses_get_one_line(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert timeline("--weights", *words.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    [line] = err.splitlines()
    assert message in line


def test_networks_of_other_rates_share_windows_of_a_length(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("rgb.safetensors", "slow.safetensors", "film.ts", "--window", "0.4")
    assert timeline("--weights", *words) == 0
    assert "segment" in capsys.readouterr().out
