"""`p3d timeline` used in a wrong way: one line that says what to do, and nothing left behind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.tiny_networks import make_networks_narrow, tiny_network
from helpers.videos import write_video
from p3d.cli import main
from p3d.inference.timeline.calibrated import kept_values
from p3d.inference.timeline.cut_options import CutOptions
from p3d.weights.metadata import save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("wrong")
    with pytest.MonkeyPatch.context() as patch:
        make_networks_narrow(patch)
        model = tiny_network()
        model.preprocessing = replace(model.preprocessing, fps=25.0)
        save_model(model, root / "net.safetensors")
        model.calibration = kept_values(CutOptions()) | {"timeline_low": 0.9}
        save_model(model, root / "damaged.safetensors")
        write_video(root / "a.avi", 4)
        write_video(root / "b.avi", 2)
        (root / "c.avi").write_bytes(b"no video")
        write_video(root / "d.mp4", 4)
        (root / "e.mp4").symlink_to(root / "d.mp4")
        (root / "a.csv").write_text("path\na.avi\n")
        yield root


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no videos were given"),
        (("a.avi", "--window", "0"), "--window is 0; give seconds"),
        (("a.avi", "--stride", "-1"), "--stride is -1"),
        (("a.avi", "--high", "0.2", "--low", "0.3"), "the low one not above the high one"),
        (("a.avi", "--high", "1.2"), "--high is 1.2; give probabilities"),
        (("a.avi", "--smooth", "-1"), "--smooth is -1; give seconds"),
        (("a.avi", "--merge", "-1"), "--merge is -1"),
        (("a.avi", "--fps", "0"), "fps is 0"),
        (("a.avi", "--out", "x.doc"), "--out x.doc: give a name that ends in .csv"),
        (("a.avi", "--out", "absent/x.csv"), "its folder does not exist"),
        (("a.avi", "--strip", "absent/x.svg"), "--strip absent/x.svg: its folder does not exist"),
        (("a.avi", "--format", "srt"), "--format srt is for --out FOLDER; give a folder, or"),
        (("a.avi", "--out", "x.csv", "--format", "srt"), "--out a name that ends in .srt"),
        (("a.avi", "--batch-size", "0"), "--batch-size is 0"),
        (("a.avi", "b.avi", "--out", "x.srt"), "for one video, but there are 2"),
        (("a.avi", "b.avi", "--strip", "x.svg"), "--strip is for one video"),
        (("a.avi", "--strip", "x.gif"), "--strip x.gif: give a name that ends in .svg or .png"),
        (("a.avi", "--annotate", "x.avi"), "--annotate x.avi: give a name that ends in .mp4"),
        (("a.avi", "--scores", "a.avi"), "holds something else"),
        (("d.mp4", "--annotate", "d.mp4"), "--annotate d.mp4: is the input itself, which would be"),
        ((".", "--annotate", "e.mp4"), "--annotate is for one video, but there are 5"),
        (("d.mp4", "--annotate", "e.mp4"), "--annotate e.mp4: is the input itself"),  # a link
        (("a.csv", "--out", "a.csv"), "--out a.csv: is the input itself, which would be replaced"),
        (("a.avi", "--weights", "damaged.safetensors"), "of timelines is damaged (--low is 0.9"),
        (("c.avi",), "c.avi: not a video that FFmpeg can read"),
        (("absent.avi",), "absent.avi: no such file"),
        (("rtsp://127.0.0.1:9/a",), "check the address, and that something sends there"),
        (("http://127.0.0.1:9/a",), "check the address, and that something sends there"),
        (("rtsp://",), "rtsp://: cannot be opened"),
        (("http://127.0.0.1:99999/a",), "cannot be an address (Invalid argument); check it"),
        (("foo://127.0.0.1:9/a",), "foo is no protocol for live video"),
        (("/dev/video987",), "check the device and your permissions"),
        (("/dev/null",), "check the device and your permissions"),
        (("/dev/null", "a.avi"), "a live stream is watched alone"),
        (("/dev/null", "--strip", "x.svg"), "--strip is for files, which end"),
        (("a.avi", "--stall", "0"), "--stall is 0; give seconds"),
        (("a.avi", "--retry", "-1"), "--retry is -1; give seconds"),
    ],
)
def test_wrong_use_gets_one_line(
    words: tuple[str, ...],
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    weights = () if "--weights" in words else ("--weights", "net.safetensors")
    assert main(["timeline", *words, *weights, "--device", "cpu"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
