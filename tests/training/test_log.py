"""The log of a run: JSON lines and TensorBoard events, also on a full disk."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers.runs import logged_steps
from p3d.run_folder import LOG_FILE, read_log
from p3d.training.log import RunLog
from p3d.video.flow_file import quantize
from p3d.video.thumbnails import flow_colors

pytestmark = pytest.mark.usefixtures("narrow_networks")


def test_resumed_run_replaces_later_lines(tmp_path: Path) -> None:
    with RunLog(tmp_path, 0) as log:
        for step in (1, 2, 3):
            log.write("step", step, loss=1 / step, note="ß <&>")
    before = read_log(tmp_path)
    assert before[2] == {"event": "step", "step": 3, "loss": 1 / 3, "note": "ß <&>"}
    with RunLog(tmp_path, 2) as log:
        log.write("step", 3, loss=0.5)
    assert read_log(tmp_path) == [*before[:2], {"event": "step", "step": 3, "loss": 0.5}]
    with RunLog(tmp_path, 0):
        assert read_log(tmp_path) == []


def test_folder_without_a_log_has_no_lines(tmp_path: Path) -> None:
    assert read_log(tmp_path) == []


LINES = [{"event": "step", "step": step, "loss": step / 7} for step in range(1, 5)]


@settings(max_examples=60, deadline=None)
@given(
    index=st.integers(0, len(LINES)),
    damage=st.one_of(
        st.binary(max_size=40).filter(lambda text: b"\n" not in text),
        st.sampled_from(
            [
                b"",
                b"7",
                b"null",
                b"{}",
                b'{"event": 1, "step": 2}',
                b'{"event": "step", "step": "2"}',
                b'{"event":',
                b"\xe2\x80\xa8",
                b"1" * 9_999,
                b"[" * 100_000,
            ]
        ),
    ),
)
def test_damaged_line_is_skipped(
    index: int, damage: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lines = [json.dumps(line).encode() for line in LINES]
    folder = tmp_path_factory.mktemp("log")
    (folder / LOG_FILE).write_bytes(b"\n".join([*lines[:index], damage, *lines[index:]]))
    assert read_log(folder) == LINES


def test_full_disk_drops_lines_with_one_warning(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    full, path = Path("/dev/full"), tmp_path / LOG_FILE
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with RunLog(tmp_path, 0) as log:
        path.unlink()
        path.symlink_to(full)
        for step in (1, 2):
            log.write("step", step)
        warning = capfd.readouterr().err
        assert warning.count("\n") == 1
        assert "log.jsonl: cannot be written (No space left on device); going on" in warning
        path.unlink()
        for step in (3, 4):
            log.write("step", step)
        assert capfd.readouterr().err == ""
        log.write("step", 5)
    assert logged_steps(tmp_path) == [3, 4, 5]


LIMITED = """
import resource, sys
from pathlib import Path
from p3d.training.log import RunLog

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

with RunLog(Path(sys.argv[1]), 0, tensorboard=len(sys.argv) > 2) as log:
    for size, numbers in ((500, range(1, 21)), (10**6, range(21, 31)), (500, range(31, 41))):
        limit(size)
        for step in numbers:
            log.write("step", step, loss=1 / step)
    limit(10**6)
    log.write("step", 41, loss=1 / 41)
"""


def run_limited(folder: Path, *arguments: str) -> str:
    """Log 41 steps with a limit of 500 bytes a file, except in steps 21 to 30 and 41."""
    process = subprocess.run(
        [sys.executable, "-c", LIMITED, str(folder), *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return process.stderr


def test_partly_written_line_is_removed(tmp_path: Path) -> None:
    warnings = run_limited(tmp_path).splitlines()
    assert len(warnings) == 2
    assert all("File too large" in line for line in warnings)
    written = logged_steps(tmp_path)
    complete = written.index(21)
    assert written == [*range(1, complete + 1), *range(21, 31), 41]
    assert 5 < complete < 20
    text = (tmp_path / LOG_FILE).read_text()
    assert all(json.loads(line) for line in text.split("\n") if line)


def load_events(folder: Path, kind: str, tag: str) -> list[tuple[int, object]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    read = {"scalars": events.Scalars, "images": events.Images}[kind]
    return [
        (event.step, event.value if kind == "scalars" else event.encoded_image_string)
        for event in read(tag)
    ]


def test_tensorboard_file_is_readable_after_a_full_disk(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    warnings = run_limited(tmp_path, "tensorboard")
    assert warnings.count("events.out.tfevents") == 2
    assert "Traceback" not in warnings
    read = [step for step, _ in load_events(tmp_path, "scalars", "step/loss")]
    complete = read.index(21)
    assert read == [*range(1, complete + 1), *range(21, 31), 41]


def test_resumed_run_replaces_later_tensorboard_scalars(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    for start, loss in ((0, 1.0), (2, 5.0)):
        with RunLog(tmp_path, start, tensorboard=True) as log:
            for step in range(start + 1, start + 4):
                log.write("step", step, loss=loss, note="not a number")
    assert load_events(tmp_path, "scalars", "step/loss") == [
        (1, 1.0),
        (2, 1.0),
        (3, 5.0),
        (4, 5.0),
        (5, 5.0),
    ]


def test_tensorboard_times_rise_after_the_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    start = time.time()
    for step, clock in ((0, start), (2, start - 9e4)):
        monkeypatch.setattr(time, "time", lambda clock=clock: clock)
        with RunLog(tmp_path, step, tensorboard=True) as log:
            log.write("step", step + 1, loss=1.0)
            monkeypatch.setattr(time, "time", lambda clock=clock: clock - 7200)
            log.write("step", step + 2, loss=2.0)
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    read = events.Scalars("step/loss")
    assert [event.step for event in read] == [1, 2, 3, 4]
    times = [event.wall_time for event in read]
    assert times == sorted(times)
    assert times[0] == pytest.approx(start, abs=1e-3)


def clip_of(colors: list[tuple[int, int, int]], side: int = 20) -> torch.Tensor:
    frames = torch.tensor(colors, dtype=torch.uint8)
    return frames[:, None, None, :].expand(-1, side, side + 4, -1)


def test_tensorboard_receives_clips_as_gifs(tmp_path: Path) -> None:
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    clips = torch.stack([clip_of(colors), clip_of(colors[::-1])])
    with RunLog(tmp_path, 0, tensorboard=True) as log:
        log.write_clips("training", clips, 3, ["Ça va <b>", "走る"])
    for number, expected in ((0, colors), (1, colors[::-1])):
        [(step, encoded)] = load_events(tmp_path, "images", f"training/{number}")
        assert step == 3
        with Image.open(io.BytesIO(encoded)) as gif:
            assert (gif.format, gif.n_frames, gif.info["loop"]) == ("GIF", 3, 0)
            assert gif.width == 24 * 5
            for frame, color in enumerate(expected):
                gif.seek(frame)
                shown = np.array(gif.convert("RGB"))
                assert np.abs(shown[:100].astype(int) - color).max() <= 8
                assert (shown[100:] < 100).all(-1).any()  # the caption


def test_clips_are_ignored_without_tensorboard(tmp_path: Path) -> None:
    with RunLog(tmp_path, 0) as log:
        log.write_clips("training", clip_of([(1, 2, 3)])[None], 1, ["one"])
    assert [path.name for path in tmp_path.iterdir()] == [LOG_FILE]


def test_flow_clips_are_shown_in_color(tmp_path: Path) -> None:
    clips = torch.full((1, 2, 16, 16, 2), 128, dtype=torch.uint8)
    clips[..., :8, 0] = 255
    with RunLog(tmp_path, 0, tensorboard=True) as log:
        log.write_clips("flow", clips, 1, [""])
    [(_, encoded)] = load_events(tmp_path, "images", "flow/0")
    with Image.open(io.BytesIO(encoded)) as gif:
        shown = np.array(gif.convert("RGB"))
    assert shown.shape == (128, 128, 3)
    assert (shown[:, 64:] >= 250).all()
    assert shown[0, 0, 0] > 240
    assert shown[0, 0, 1:].max() < 16


def test_color_of_flow_shows_direction_and_speed() -> None:
    turns = np.linspace(0, 2 * np.pi, 7)[:6]  # red, yellow, green, cyan, blue, magenta
    motion = np.stack([np.cos(turns), np.sin(turns)], -1).astype(np.float32) * 19
    saturated = [(255, 0, 0), (255, 255, 0), (0, 255, 0), (0, 255, 255), (0, 0, 255), (255, 0, 255)]
    assert np.abs(flow_colors(quantize(motion)).astype(int) - saturated).max() <= 4
    slow = flow_colors(quantize(np.concatenate([motion, motion / 2])))[6:]
    assert np.abs(slow.astype(int) - (np.array(saturated) + 255) / 2).max() <= 6
    assert (flow_colors(np.full((3, 2), 128, np.uint8)) == 255).all()
