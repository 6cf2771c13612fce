"""The sample set: properties of the videos, files, interrupted runs and errors."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from helpers.disk import no_file_above
from p3d.data.dataset import SPLITS
from p3d.errors import UserError
from p3d.model.network import create_model
from p3d.prepare import motions
from p3d.prepare.motions import (
    CLASSES,
    MOTIONS,
    NUM_FRAMES,
    SIZE,
    Scene,
    Take,
    render,
    render_video,
)
from p3d.prepare.sample import SampleSpec, encode, write_sample

TINY = {
    "seed": 3,
    "train_groups": 2,
    "validation_groups": 1,
    "test_groups": 1,
    "clips_per_group": 1,
}
PAIRS = [
    tuple(
        sorted(
            (name for name in CLASSES if CLASSES[name][0] == motion), key=lambda n: CLASSES[n][1]
        )
    )
    for motion in MOTIONS
]


def decode(file: Path | bytes) -> NDArray[np.uint8]:
    source = io.BytesIO(file) if isinstance(file, bytes) else str(file)
    with av.open(source) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sample") / "set"
    write_sample(out, **TINY, workers=0)
    return out


# Videos


def test_every_class_has_one_partner() -> None:
    assert list(CLASSES) == sorted(CLASSES)
    assert len(PAIRS) == 4
    assert all([CLASSES[name][1] for name in pair] == [False, True] for pair in PAIRS)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("clip", [1, 2])
def test_partner_is_the_same_video_backwards(pair: tuple[str, str], clip: int) -> None:
    forwards, backwards = (render_video(name, 5, clip, seed=1) for name in pair)
    assert np.array_equal(forwards, backwards[::-1])
    assert not np.array_equal(forwards, backwards)
    assert np.array_equal(decode(encode(forwards)), decode(encode(backwards))[::-1])


@pytest.mark.parametrize(("frames", "stride"), [(8, 2), (4, 2), (12, 2), (5, 4)])
def test_centered_windows_of_partners_have_the_same_frames(frames: int, stride: int) -> None:
    start = (NUM_FRAMES - (frames - 1) * stride - 1) // 2
    window = start + stride * np.arange(frames)
    assert np.array_equal(window, (NUM_FRAMES - 1 - window)[::-1])


def test_motions_match_their_classes() -> None:
    flat = Scene(
        background=np.zeros((2, 2, 3), np.float32),
        texture=np.ones((3, 3, 3), np.float32),
        roundness=2.0,
        aspect=0.3,
    )
    take = Take(0, 0, radius=8, angle=np.pi / 2, speed=0.5, shift=(0, 0), gain=1, noise_seed=0)
    shape = {m: np.array([moments(frame) for frame in render(m, flat, take)]) for m in MOTIONS}
    steps = NUM_FRAMES - 1
    # Mean change per frame: center to the right, center down, distance from it, area.
    change = {m: np.diff(values, axis=0).mean(0) for m, values in shape.items()}
    tolerance = [0.01, 0.01, 0.01, 0.2]

    def check(motion: str, expected: list[float]) -> None:
        assert np.all(np.abs(change[motion] - expected) < tolerance), (motion, change[motion])

    check("sideways", [take.speed, 0, 0, 0])
    check("vertical", [0, take.speed, 0, 0])
    check("apart", [0, 0, take.speed * motions.APART, 0])
    assert change["zoom"][:2] == pytest.approx([0, 0], abs=0.01)
    log_growth = take.speed * steps * motions.ZOOM
    area_growth = np.pi * take.radius**2 * 2 * np.sinh(log_growth)
    assert change["zoom"][3] == pytest.approx(area_growth / steps, rel=0.02)


def moments(frame: NDArray[np.uint8]) -> tuple[float, float, float, float]:
    weight = np.where(frame.mean(-1) > 25, frame.mean(-1) / 255, 0)
    y, x = np.mgrid[:SIZE, :SIZE].astype(float)
    area = weight.sum()
    cx, cy = (weight * x).sum() / area, (weight * y).sum() / area
    return cx, cy, (weight * np.abs(x - cx)).sum() / area, area


def features(frames: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    late = np.sign(np.arange(NUM_FRAMES) - (NUM_FRAMES - 1) / 2)[:, None, None, None]
    unordered = np.concatenate([frames.mean(0).ravel(), frames.std(0).ravel()])
    return {"unordered frames": unordered, "late minus early": (late * frames).mean(0).ravel()}


@pytest.fixture(scope="module")
def examples() -> list[tuple[int, int, dict[str, NDArray[np.float64]]]]:
    """Group, label and features of one video per class in 16 groups."""
    rows = []
    for group in range(16):
        for pair in PAIRS:
            frames = render_video(pair[0], group, 1, seed=0)
            for name, video in zip(pair, (frames, frames[::-1]), strict=True):
                rows.append((group, list(CLASSES).index(name), features(video)))
    return rows


@pytest.mark.parametrize("kind", ["unordered frames", "late minus early"])
def test_classes_differ_only_in_the_order_of_frames(
    examples: list[tuple[int, int, dict[str, NDArray[np.float64]]]], kind: str
) -> None:
    """The nearest class mean of 10 groups classifies 6 other groups."""
    train = [(label, row[kind]) for group, label, row in examples if group < 10]
    test = [(label, row[kind]) for group, label, row in examples if group >= 10]
    means = [np.mean([row for label, row in train if label == i], axis=0) for i in range(8)]
    right = [np.argmin([((m - row) ** 2).sum() for m in means]) == label for label, row in test]
    accuracy = np.mean(right)
    assert accuracy <= 0.5 if kind == "unordered frames" else accuracy > 0.6


def test_network_without_time_gives_partners_equal_logits() -> None:
    """So it is right for at most half of any list, unlike the mixed network."""
    window = np.arange(4, 19, 2)
    pair = [render_video(name, 1, 1, 0)[window] for name in PAIRS[0]]
    clips = torch.from_numpy(np.stack(pair)).permute(0, 4, 1, 2, 3) / 64 - 2
    gap = {}
    for variant in ("2d", "ABC"):
        torch.manual_seed(0)
        model = create_model("p3d63", num_classes=len(CLASSES), variant=variant).eval()
        with torch.inference_mode():
            logits = model(clips)
        gap[variant] = ((logits[0] - logits[1]).abs().max() / logits.std()).item()
    assert gap["2d"] < 1e-4
    assert gap["ABC"] > 1e-2


def test_videos_of_a_class_differ_in_everything_but_motion() -> None:
    videos = [render_video("MoveLeft", group, clip, 0) for group in (1, 2) for clip in (1, 2)]
    middle_frames = [v[NUM_FRAMES // 2].astype(int) for v in videos]
    assert all(
        np.abs(a - b).mean() > 5 for i, a in enumerate(middle_frames) for b in middle_frames[:i]
    )
    rng = np.random.default_rng(0)
    scene, take = Scene.draw(rng), Take.draw(rng)
    noisier = render("zoom", scene, replace(take, noise_seed=take.noise_seed + 1))
    assert 0 < np.abs(noisier.astype(int) - render("zoom", scene, take)).mean() < 4


def test_compression_error_is_small() -> None:
    frames = render_video("ZoomIn", 1, 1, 0)
    decoded = decode(encode(frames))
    assert decoded.shape == frames.shape == (NUM_FRAMES, SIZE, SIZE, 3)
    assert frames.dtype == np.uint8
    assert np.abs(decoded.astype(int) - frames).mean() < 5


# Files


def test_layout_of_ucf101(sample: Path) -> None:
    lists = {p.name: p.read_text().splitlines() for p in (sample / "ucfTrainTestlist").iterdir()}
    assert set(lists) == {
        "classInd.txt",
        "trainlist01.txt",
        "validationlist01.txt",
        "testlist01.txt",
    }
    assert lists["classInd.txt"] == [f"{i} {name}" for i, name in enumerate(CLASSES, start=1)]
    assert lists["trainlist01.txt"][0] == "MoveApart/v_MoveApart_g01_c01.avi 1"
    assert lists["trainlist01.txt"][-1] == "ZoomOut/v_ZoomOut_g02_c01.avi 8"
    assert lists["validationlist01.txt"][1] == "MoveDown/v_MoveDown_g03_c01.avi 2"
    assert lists["testlist01.txt"][-1] == "ZoomOut/v_ZoomOut_g04_c01.avi"
    assert {split: len(lists[f"{split}list01.txt"]) for split in SPLITS} == {
        "train": 16,
        "validation": 8,
        "test": 8,
    }


def test_lists_match_the_files_and_share_no_group(sample: Path) -> None:
    groups = {}
    for split in SPLITS:
        lines = (sample / "ucfTrainTestlist" / f"{split}list01.txt").read_text().splitlines()
        entries = [line.split()[0] for line in lines]
        assert {f"{split}/{e}" for e in entries} == {
            f for f in files(sample) if f.startswith(split + "/")
        }
        groups[split] = {re.fullmatch(r"\w+/v_(\w+)_g(\d\d)_c\d\d\.avi", e)[2] for e in entries}
    assert not groups["train"] & groups["test"]
    assert not groups["train"] & groups["validation"]
    assert not groups["validation"] & groups["test"]


def test_every_split_of_the_default_set_has_complete_pairs() -> None:
    for split in SPLITS:
        videos = SampleSpec().videos(split)
        takes = {
            name: {(v.group, v.clip) for v in videos if v.class_name == name} for name in CLASSES
        }
        assert all(takes[name] == takes["MoveDown"] for name in CLASSES)
        assert len(videos) == len(takes) * len(takes["MoveDown"])


def test_files_match_the_rendered_videos(sample: Path) -> None:
    name = "MoveTogether"
    decoded = decode(sample / "test" / name / f"v_{name}_g04_c01.avi")
    assert np.abs(decoded.astype(int) - render_video(name, 4, 1, seed=3)).mean() < 5


def test_files_depend_on_the_seed_but_not_on_the_number_of_processes(
    sample: Path, tmp_path: Path
) -> None:
    write_sample(tmp_path / "parallel", **TINY, workers=2)
    assert files(tmp_path / "parallel") == files(sample)
    write_sample(tmp_path / "other", **{**TINY, "seed": 4}, workers=0)
    video = "test/ZoomIn/v_ZoomIn_g04_c01.avi"
    assert files(tmp_path / "other")[video] != files(sample)[video]


# Interruptions and errors


def test_next_run_completes_a_killed_one(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    code = (
        f"from p3d.prepare.sample import *; write_sample(Path({str(out)!r}), **{TINY}, workers=0)"
    )

    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ)
    deadline = time.monotonic() + 600
    # A hidden file is one that is still written.
    while not list(out.rglob("v_*.avi")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    written = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("v_*")}
    assert written
    assert written.items() <= files(sample).items()
    write_sample(out, **TINY, workers=0)
    assert "complete" in capsys.readouterr().out
    assert files(out) == files(sample)


def test_a_set_without_all_its_lists_is_none(sample: Path, tmp_path: Path) -> None:
    """Otherwise it could be trained on before its validation list is there."""
    out = tmp_path / "set"
    shutil.copytree(sample, out)
    lists = out / "ucfTrainTestlist"
    for path in lists.iterdir():
        path.unlink()
    with pytest.raises(UserError, match="cannot be written"), no_file_above(150):
        write_sample(out, **TINY, workers=0)
    assert not (lists / "classInd.txt").exists()


def test_complete_set_is_not_changed(sample: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.stat().st_mtime_ns for p in sample.rglob("*")}
    write_sample(sample, **TINY)
    assert "already there" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in sample.rglob("*")} == before


def test_missing_files_are_written_again(sample: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    write_sample(out, **TINY, workers=0)
    (out / "train" / "MoveUp" / "v_MoveUp_g02_c01.avi").unlink()
    (out / "ucfTrainTestlist" / "testlist01.txt").unlink()
    write_sample(out, **TINY, workers=0)
    assert files(out) == files(sample)


def test_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        write_sample(tmp_path, **TINY)
    assert files(tmp_path) == {"precious.txt": b"mine"}


@pytest.mark.parametrize("marker", [None, "{", '{"seed": 3}'])
def test_other_sample_set_is_refused(tmp_path: Path, marker: str | None) -> None:
    out = tmp_path / "set"
    spec = {**TINY, "train_groups": 1}
    write_sample(out, **spec, workers=0)
    if marker is not None:
        (out / "sample.json").write_text(marker)
        spec = TINY
    before = files(out)
    with pytest.raises(UserError, match="another sample set"):
        write_sample(out, **{**spec, "seed": 9}, workers=0)
    assert files(out) == before


def test_folder_that_cannot_be_written_gives_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="cannot be written") as caught:
            write_sample(out, **TINY, workers=0)
        assert "\n" not in str(caught.value)
        assert str(out) in str(caught.value)


@pytest.mark.parametrize(
    "invalid",
    [{"train_groups": 0}, {"test_groups": 98}, {"clips_per_group": 100}, {"seed": -1}],
)
def test_invalid_numbers_are_refused(tmp_path: Path, invalid: dict[str, int]) -> None:
    with pytest.raises(UserError, match="give"):
        write_sample(tmp_path / "set", **{**TINY, **invalid})
    assert not (tmp_path / "set").exists()
