"""Hostile videos: `prepare check` and training report each one, without a hang or a crash."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.hostile import CASES, FRAMES, whole
from helpers.videos import write_frames, write_video
from p3d.cli import main
from p3d.data.dataset import VideoDataset, VideoRecord
from p3d.data.layouts import DataOptions
from p3d.data.loader import Batch, TrainLoader
from p3d.data.manifest_writer import write_manifest
from p3d.data.workers import explain_death
from p3d.errors import BadVideoError, UserError, printable
from p3d.prepare.check import check_dataset
from p3d.prepare.check_report import CheckReport
from p3d.prepare.options import CheckOptions
from p3d.preprocessing import IMAGENET
from p3d.video.decode import open_video

SMALL = replace(IMAGENET, num_frames=4, resize=(18, 24), crop=16)
NO_VIDEO = r"not a video that FFmpeg can read \(.+\)"
NO_FRAME = "packets decodes: damaged, or frames of more than 33,554,432 pixels"
BROKEN = {
    "header.avi": NO_VIDEO,
    "index.mp4": NO_VIDEO,
    "front-header.mp4": NO_VIDEO,
    "front-first-key.mp4": f"none of its 1 {NO_FRAME}",
    "zero.avi": "holds no frame",
    "zero.mp4": "has no video stream",
    "audio.mp4": "has no video stream",
    "audio.avi": "has no video stream",
    "jpeg.avi": NO_VIDEO,
    "text.avi": NO_VIDEO,
    "zeros.avi": NO_VIDEO,
    "empty.avi": r"the file is empty \(0 bytes\)",
    "huge.avi": f"none of its 3 {NO_FRAME}",
    "large.avi": f"none of its 3 {NO_FRAME}",
    "undecodable.avi": f"none of its 4 {NO_FRAME}",
    "pipe.avi": "neither a file nor a folder",
    "loop.avi": r"cannot be opened \(Too many levels of symbolic links\)",
    "dangling.avi": "is a link to nowhere.avi, which does not exist",
    "folder.avi": r"a folder without frames \(JPEG, PNG, BMP or WebP files\)",
    "frames-broken": r"walk-0001\.jpg cannot be read \(.+\)",
    "frames-large": "its frames are 5900x5900, more than 33,554,432 pixels",
    "frames-pipe": r"walk-0001\.jpg is not a regular file",
}
CUT_OFF = {  # frames that are left; reported
    "first-key.avi": 1,
    "key.avi": 11,
    "p.avi": 16,
    "b.avi": 16,
    "front-key.mp4": 10,
    "front-p.mp4": 15,
    "declares-10x.avi": FRAMES,
    "declares-max.avi": FRAMES,
}
SHORTER = {  # frames that are left; not reported: the file does not show it, or one is missing
    "front-end.mp4": 19,
    "zeroed.avi": 19,
    "cut.mkv": 6,
    "cut.ts": 16,
    "one.avi": 1,
    "one.mp4": 1,
    "frames-one": 1,
}
LINES = {name: rf".*{re.escape(printable(name))}: {reason}" for name, reason in BROKEN.items()}
SKIP = "; --on-bad-video skip goes on without it"


class TooLongError(BaseException):
    """Not an `OSError` like `TimeoutError`, which would count as a broken video."""


@pytest.fixture(autouse=True)
def _timeout() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TooLongError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(600)
    yield
    signal.alarm(0)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All cases in a folder with a manifest, except one whose name is not UTF-8."""
    root = tmp_path_factory.mktemp("hostile")
    for name, make in CASES.items():
        make(root / name)
    records = [r for r in dataset(root).records if "\udcff" not in r.path.name]
    write_manifest(root / "manifest.csv", ("a",), {"train": records, "test": records[:0]})
    return root


def dataset(root: Path, *names: str) -> VideoDataset:
    return VideoDataset(("a",), tuple(VideoRecord(root / n, 0) for n in names or CASES))


def load(root: Path, *names: str, workers: int, **options: Any) -> list[Batch]:
    loader = TrainLoader(
        dataset(root, *names), SMALL, workers=workers, **{"batch_size": 4, "seed": 0} | options
    )
    return [batch for step in loader.steps(0) for batch in step]


@pytest.fixture(scope="module", params=["ends", "all"])
def report(request: pytest.FixtureRequest, root: Path) -> CheckReport:
    return check_dataset(CheckOptions(DataOptions(root), frames=request.param))


def test_check_reports_broken_and_cut_off_videos(report: CheckReport) -> None:
    reasons = {facts.record.path.name: facts.reason for facts in report.broken}
    assert reasons.keys() == BROKEN.keys()
    for name, reason in reasons.items():
        assert re.fullmatch(BROKEN[name], reason), (name, reason)
    assert {f.record.path.name: f.record.num_frames for f in report.incomplete} == CUT_OFF
    left = CUT_OFF | SHORTER
    for facts in report.sound:
        expected = {left.get(facts.record.path.name, FRAMES)}
        if facts.record.path.name == "cut.mkv":
            expected.add(5)  # The bytes that the encoder writes differ a little from run to run.
        assert facts.record.num_frames in expected, facts
    assert len(report.videos) == len(CASES) - 1
    assert all(printable(line) == line for line in map(printable, report.lines()))


@pytest.mark.parametrize("workers", [0, 1])
def test_training_skips_broken_videos_and_uses_all_others(root: Path, workers: int) -> None:
    batches = load(root, workers=workers, on_bad_video="skip", batch_size=1)
    bad = sorted(line for batch in batches for line in batch.bad)
    assert len(bad) == len(BROKEN), bad
    for pattern in LINES.values():
        assert sum(bool(re.fullmatch(pattern, line)) for line in bad) == 1, pattern
    used = {int(batch.indices) for batch in batches if len(batch.indices)}
    assert {name for i, name in enumerate(CASES) if i not in used} == BROKEN.keys()


@pytest.mark.parametrize("name", BROKEN)
def test_training_stops_at_a_broken_video_with_one_line(root: Path, name: str) -> None:
    with pytest.raises(BadVideoError) as caught:
        load(root, "sound.avi", name, workers=0)
    assert re.fullmatch(LINES[name] + SKIP, str(caught.value))


def test_a_worker_reports_a_broken_video_with_one_line(root: Path) -> None:
    """One worker process for all: it returns the error and goes on."""
    loader = TrainLoader(dataset(root, *BROKEN), SMALL, batch_size=1, seed=0, workers=1)
    seen = set()
    for step in range(len(BROKEN)):
        with pytest.raises(BadVideoError) as caught:
            next(loader.steps(0, step))
        seen.add(caught.value.path.name)
        assert re.fullmatch(LINES[caught.value.path.name] + SKIP, str(caught.value))
        del caught  # a loader among cyclic garbage waits 5 s for each of its workers
    assert seen == BROKEN.keys()


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    mjpeg = {"codec": "mjpeg", "pix_fmt": "yuvj420p"}  # larger than FFmpeg's read-ahead
    path = write_video(tmp_path / "a.avi", FRAMES, size=(240, 320), **mjpeg)
    with open_video(path) as video:
        assert video.read([0]).shape[0] == 1
        os.truncate(path, path.stat().st_size // 2)
        with pytest.raises(BadVideoError, match=r"a\.avi: frame \d+ cannot be decoded$"):
            video.read([FRAMES - 1])
    (batch,) = load(tmp_path, "a.avi", workers=0)
    assert len(batch.labels) == 1
    frames = write_frames(tmp_path / "frames", 3)
    with open_video(frames) as video:
        (frames / "walk-0002.jpg").unlink()
        with pytest.raises(BadVideoError, match=r"walk-0002\.jpg cannot be read"):
            video.read(range(3))


@contextmanager
def unprivileged() -> Iterator[None]:
    """Drop the rights of root, for which permissions do not apply."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="this system has no users to change to")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_without_read_permission(tmp_path: Path, workers: int) -> None:
    path = tmp_path / "secret.avi"
    path.write_bytes(whole())
    path.chmod(0)
    with unprivileged():
        (batch,) = load(tmp_path, path.name, workers=workers, on_bad_video="skip")
    assert batch.bad == (f"{path}: cannot be opened (Permission denied)",)


def test_check_prints_any_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["bytes-\udcff.avi", "new\nline.avi", "Übung-走る-🎥.avi"]
    for split in ("train", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
        for name in names:
            write_video(tmp_path / split / "a" / name, 3)
    assert main(["prepare", "check", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "/bytes-\\udcff.avi (" in printed
    assert "/new\\nline.avi (" in printed
    assert "/Übung-走る-🎥.avi (" in printed
    out = tmp_path / "manifest.csv"
    assert main(["prepare", "check", str(tmp_path), "--out", str(out)]) == 0
    assert os.fsencode("bytes-\udcff.avi") in out.read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and signals")
def test_the_error_for_a_killed_worker_names_its_video(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a crash in a decoder, or when memory runs out."""
    monkeypatch.setattr("p3d.data.track.open_video", lambda *_, **__: os.kill(os.getpid(), 9))
    with pytest.raises((UserError, RuntimeError)) as caught:
        load(root, "sound.avi", workers=1)
    error = caught.value
    message = error if isinstance(error, UserError) else explain_death(error)
    assert re.fullmatch(
        rf"{root}/sound\.avi: the worker process that read it died .*", str(message)
    )


def test_other_errors_are_not_explained() -> None:
    assert explain_death(RuntimeError("shapes do not match")) is None


def test_nothing_is_printed(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in CASES:
        with suppress(BadVideoError), open_video(root / name) as video:
            assert video.read([video.num_frames - 1]).dtype == torch.uint8
    assert capfd.readouterr() == ("", "")
