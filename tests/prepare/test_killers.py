"""Videos that crash the decoder cost one video each, and a killed command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers.videos import write_video
from p3d.archive.machines import open_machine
from p3d.archive.work import OneStage
from p3d.cli import main
from p3d.data.dataset import Part, VideoRecord
from p3d.data.layouts import DataOptions
from p3d.prepare.check import check_dataset, examine
from p3d.prepare.derive import Derived, Summary, derive, stages
from p3d.prepare.findings import VideoFacts
from p3d.prepare.options import CheckOptions

NAMES = ("a", "b", "killer", "c", "d")


@dataclass(frozen=True)
class Copying:
    """Copies each video; a decoder that crashes at one of them."""

    crash: bool = True

    def start(self, number: int) -> OneStage:  # noqa: ARG002
        return stages(self._copy)

    def _copy(self, target: Path, records: Sequence[VideoRecord]) -> Derived:
        (record,) = records
        if self.crash and record.path.stem == "killer":
            target.parent.mkdir(parents=True, exist_ok=True)
            target.with_name(f".p3d-partial-{time.monotonic()}-{target.name}").touch()
            os.kill(os.getpid(), signal.SIGSEGV)
        if target.exists():
            return Derived((record,), 1, written=False)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(record.path.read_bytes())
        return Derived((record,), 1, written=True)


@dataclass(frozen=True)
class Crashing:
    """Examines each video; a decoder that crashes at one of them."""

    all_frames: bool

    def start(self, number: int) -> OneStage:  # noqa: ARG002
        return OneStage(self._examine)

    def _examine(self, item: tuple[Part, VideoRecord]) -> VideoFacts:
        if item[1].path.stem == "killer":
            os.kill(os.getpid(), signal.SIGSEGV)
        return examine(item, all_frames=self.all_frames)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / "data" / "run").mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / "run" / f"{name}.avi").write_bytes(b"video")
    return tmp_path / "data"


def copy(data: Path, work: Copying) -> Summary:
    out = data.with_name("out")
    with open_machine(None, 2, "cpu", 1) as machine:
        return derive(DataOptions(data), out, work, machine, what="copies", suffix=".avi")


def test_a_crash_costs_one_video_and_is_not_tried_again(
    data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, killer = data.with_name("out"), data / "run" / "killer.avi"
    first = copy(data, Copying())
    assert (first.written, first.kept) == (4, 0)
    assert first.broken == (f"{killer}: its worker died 3 times (killed by SIGSEGV)",)
    assert f"delete {out / 'attempts.jsonl'}" in capfd.readouterr().err
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    videos = {f"run/{name}.avi" for name in NAMES if name != "killer"}
    assert files - {".lock"} == {*videos, "manifest.csv", "bad.csv", "attempts.jsonl"}
    assert (out / "bad.csv").read_text().splitlines()[1].startswith(f"{killer},its worker died")

    again = copy(data, Copying(crash=False))  # it would not crash now, but is not tried
    assert (again.written, again.kept, len(again.broken)) == (0, 4, 1)
    (out / "attempts.jsonl").unlink()
    last = copy(data, Copying(crash=False))
    assert (last.written, last.kept, last.broken) == (1, 4, ())
    assert not (out / "bad.csv").exists()
    assert not (out / "attempts.jsonl").exists()


def test_check_finds_a_video_that_kills_the_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NAMES:
        (tmp_path / "run").mkdir(exist_ok=True)
        write_video(tmp_path / "run" / f"{name}.avi", 16, size=(48, 64))
    monkeypatch.setattr("p3d.prepare.check._Work", Crashing)
    report = check_dataset(CheckOptions(DataOptions(tmp_path), workers=2))
    assert [facts.record.path.stem for facts in report.sound] == ["a", "b", "c", "d"]
    assert "broken: 1, which training skips" in "\n".join(report.lines())
    assert [facts.reason for facts in report.broken] == [
        "its worker died 3 times (killed by SIGSEGV)"
    ]


def test_killed_command_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(5):
        (tmp_path / "data" / "run").mkdir(parents=True, exist_ok=True)
        write_video(tmp_path / "data" / "run" / f"{number}.avi", 12, size=(48, 64))
    (tmp_path / "data" / "run" / "bad.avi").write_bytes(b"no video")
    out = tmp_path / "out"
    words = ["prepare", "frames", "--data", str(tmp_path / "data"), "--out", str(out)]
    words += ["--workers", "1"]
    process = subprocess.Popen([sys.executable, "-m", "p3d", *words])
    # The frames of a video that is still written are in a hidden folder.
    while process.poll() is None and not [*out.glob("run/[!.]*/*-0012.jpg")]:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert main(words) == 1
    printed = capsys.readouterr().out
    assert f"ERROR: {tmp_path / 'data' / 'run' / 'bad.avi'}: " in printed
    assert "60 frames of 5 videos (" in printed
    assert "(0 kept" not in printed
    assert not [*out.rglob(".p3d-partial-*")]
    assert len([*out.glob("run/*/*-0012.jpg")]) == 5
    assert main(words) == 1
    assert "(5 kept, 1 broken)" in capsys.readouterr().out
