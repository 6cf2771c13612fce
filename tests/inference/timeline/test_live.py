"""Live streams: the same frames give the same timeline, and what is lost comes back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.tiny_networks import make_blocks_few, tiny_network
from helpers.videos import write_video
from p3d.cli import main
from p3d.errors import UserError
from p3d.inference.timeline.cut_options import CutOptions
from p3d.inference.timeline.frames import network_frames
from p3d.inference.timeline.live import latency
from p3d.inference.timeline.live_queue import Connected, Ended, Event, Failed, LiveQueue, LiveReader
from p3d.inference.timeline.windows import Window, make_plan
from p3d.preprocessing import Preprocessing
from p3d.video.live import LiveSource, find_live_source
from p3d.weights.metadata import save_model

LOOSE = ("--high", "0.35", "--low", "0.3", "--smooth", "0", "--shortest", "0", "--merge", "0")
NO_LENGTH = -1
"""Of an answer: it ends when the server closes the connection."""
PREP = Preprocessing(num_frames=4, resize=16, crop=16, fps=25.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("live")
    with pytest.MonkeyPatch.context() as patch:
        make_blocks_few(patch)
        model = tiny_network()
        model.preprocessing = replace(model.preprocessing, fps=25.0)
        save_model(model, root / "net.safetensors")
        write_video(root / "film.ts", 60, codec="libx264", b_frames=2)
        write_video(root / "film.mkv", 60, codec="libx264", fps=30)
        write_video(root / "large.ts", 40, codec="libx264", size=(96, 128))
        yield root


@pytest.fixture(autouse=True)
def _in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def timeline(*words: object) -> int:
    fixed = ("--weights", "net.safetensors", "--device", "cpu", "--batch-size", "1", *LOOSE)
    return main(["timeline", *map(str, words), *fixed])


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def segments_of_file(name: str, capsys: pytest.CaptureFixture[str]) -> list[tuple[Any, ...]]:
    assert timeline(name, "--json") == 0
    [values] = lines_of(capsys.readouterr().out)
    return [(*each["segment"], each["label"], each["score"]) for each in values["segments"]]


def live_segments(text: str) -> list[tuple[Any, ...]]:
    return sorted(tuple(line.values()) for line in lines_of(text) if "label" in line)


@contextmanager
def pipe_of(path: Path, *contents: bytes) -> Iterator[Path]:
    """Make a named pipe to which a thread writes."""
    os.mkfifo(path)

    def write() -> None:
        with path.open("wb") as pipe:
            for content in contents:
                pipe.write(content)

    thread = threading.Thread(target=write)
    thread.start()
    yield path
    thread.join()


@contextmanager
def server(*answers: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """Serve HTTP; the nth request gets the nth answer, the last one all that follow."""
    rest = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            (rest.pop(0) if len(rest) > 1 else rest[0])(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}/film"
        http.shutdown()


def send(content: bytes, *, length: int | None = None, pause: float = 0) -> Callable[..., None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "video/mp2t")
        if length != NO_LENGTH:
            handler.send_header("Content-Length", str(length or len(content)))
        handler.end_headers()
        handler.wfile.write(content)
        handler.wfile.flush()
        time.sleep(pause)

    return answer


@pytest.mark.parametrize(
    ("name", "way"), [("film.ts", "pipe"), ("film.mkv", "server"), ("film.ts", "endless")]
)
def test_same_frames_give_the_same_timeline(
    name: str, way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = segments_of_file(name, capsys)
    assert len(expected) > 2
    content, out = Path(name).read_bytes(), tmp_path / "out.csv"
    opened = {
        "pipe": lambda: pipe_of(tmp_path / "pipe", content),
        "server": lambda: server(send(content)),
        "endless": lambda: server(send(content, length=NO_LENGTH)),
    }[way]()
    with opened as source:
        assert timeline(source, "--out", out) == 0
    printed = capsys.readouterr()
    assert live_segments(printed.out) == expected
    assert "segments are printed at most" in printed.err
    assert "lost" not in printed.err
    rows = [line.split(",")[1:] for line in out.read_text().splitlines()[1:]]
    assert [(float(start), float(end), label) for start, end, label, _ in rows] == [
        segment[:3] for segment in expected
    ]


def test_windows_are_printed_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert timeline("film.ts", "--json", "--windows") == 0
    [values] = lines_of(capsys.readouterr().out)
    with pipe_of(tmp_path / "pipe", Path("film.ts").read_bytes()) as pipe:
        assert timeline(pipe, "--windows") == 0
    found = [line for line in lines_of(capsys.readouterr().out) if "scores" in line]
    assert [line["time"] for line in found] == values["times"]
    assert [list(line["scores"].values()) for line in found] == values["scores"]


def test_a_stream_may_change_its_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = [Path(name).read_bytes() for name in ("film.ts", "large.ts", "film.ts")]
    Path("three.ts").write_bytes(b"".join(parts))
    expected = segments_of_file("three.ts", capsys)
    with pipe_of(tmp_path / "pipe", *parts) as pipe:
        assert timeline(pipe) == 0
    printed = capsys.readouterr()
    assert live_segments(printed.out) == expected
    assert "timestamps went back 2 times, time goes on" in printed.err
    assert expected[-1][1] == pytest.approx(160 / 25, abs=0.1)


def events_of(source: LiveSource, waits: list[float], **options: float) -> list[Event]:
    """Read a source to its end."""
    queue, events = LiveQueue(1000, drops=False), list[Event]()
    reader = LiveReader(
        source,
        lambda video: make_plan(PREP, None, None).windows(
            network_frames(video, [PREP], torch.device("cpu"))
        ),
        stall=options.get("stall", 5),
        retry=options.get("retry", 100),
        queue=queue,
        sleep=waits.append,
    )
    reader.start()
    while not events or not isinstance(events[-1], Failed):
        event, dropped = queue.get(20)
        assert event is not None
        assert not dropped
        events.append(event)
    return events


def test_a_lost_stream_is_connected_again() -> None:
    content = Path("film.ts").read_bytes()
    cut = send(content[: len(content) // 2], length=len(content))
    waits: list[float] = []
    with server(cut, send(b"", length=9), send(b"", length=9), send(content)) as address:
        events = events_of(LiveSource(address, "download"), waits)
    kinds = [type(event) for event in events if not isinstance(event, Window)]
    assert kinds == [Connected, Ended, Connected, Ended, Failed]
    first, second = (event for event in events if isinstance(event, Ended))
    assert first.lost
    assert not second.lost
    assert 0.5 < first.duration < second.duration == pytest.approx(60 / 25)
    assert waits == [1, 2, 4]
    assert events[-1] == Failed(None)


def test_a_stream_that_stalls_is_lost() -> None:
    content = Path("film.ts").read_bytes()
    silent = send(content[: len(content) // 2], length=len(content), pause=3)
    with server(silent) as address:
        events = events_of(LiveSource(address, "download"), [], stall=0.5, retry=0)
    ended = next(event for event in events if isinstance(event, Ended))
    assert ended.lost == "nothing came for 0.5 s"
    assert isinstance(events[-1], Failed)
    assert "did not come back in 0 s" in str(events[-1].error)


def test_a_camera_that_ends_is_lost() -> None:
    waits: list[float] = []
    with server(send(Path("film.ts").read_bytes()), send(b"", length=9)) as address:
        events = events_of(LiveSource(address, "network"), waits, retry=1.5)
    lost = [event.lost for event in events if isinstance(event, Ended)]
    assert lost == ["the source has ended it"]
    assert waits == [1]


def test_the_oldest_windows_are_dropped_and_counted() -> None:
    queue = LiveQueue(2, drops=True)
    connected = Connected(0, 25)
    windows = [Window(float(n), ()) for n in range(5)]
    queue.put(connected)
    for window in windows:
        queue.put(window)
    assert queue.get(0) == (connected, 3)
    found = [queue.get(0) for _ in range(3)]
    assert [event and event.time for event, _ in found[:2]] == [3.0, 4.0]  # type: ignore[union-attr]
    assert [dropped for _, dropped in found] == [0, 0, 0]
    assert found[2] == (None, 0)


def test_a_queue_that_drops_nothing_waits() -> None:
    queue = LiveQueue(1, drops=False)
    windows = [Window(float(n), ()) for n in range(20)]
    thread = threading.Thread(target=lambda: [queue.put(window) for window in windows])
    thread.start()
    found = [queue.get(5) for _ in windows]
    thread.join()
    assert [event and event.time for event, _ in found] == list(range(20))  # type: ignore[union-attr]


def test_dropped_windows_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pipe_of(tmp_path / "pipe", Path("film.ts").read_bytes()) as pipe:
        assert timeline(pipe, "--drop", "yes", "--stride", "0.001") == 0
    printed = capsys.readouterr()
    totals = [line for line in lines_of(printed.out) if "dropped" in line]
    assert sum(line["dropped"] for line in totals) == totals[-1]["total"] > 0
    assert printed.err.count("the oldest windows are dropped; give a longer --stride") == 1


def test_a_signal_ends_a_stream_with_what_is_there() -> None:
    program = (
        "import pytest; from helpers.tiny_networks import make_blocks_few; "
        "make_blocks_few(pytest.MonkeyPatch()); from p3d.cli import main; raise SystemExit(main())"
    )
    words = ("timeline", "-", "--weights", "net.safetensors", "--device", "cpu", "--windows")
    process = subprocess.Popen(
        [sys.executable, "-c", program, *words, *LOOSE],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(Path("film.ts").read_bytes())
    process.stdin.flush()
    read = [process.stdout.readline() for _ in range(5)]
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=600)
    assert process.returncode == 130, errors
    lines = lines_of((b"".join(read) + printed).decode())
    windows = [line["time"] for line in lines if "time" in line]
    last = max(line["end"] for line in lines if "end" in line)
    assert last == pytest.approx(windows[-1], abs=1e-3)


def test_latency_is_that_of_the_last_window_that_matters() -> None:
    cut = CutOptions(smooth=1.0, merge=0.5)
    native = Preprocessing(num_frames=16)
    assert latency(make_plan(native, None, None), cut, 25.0, 1) == pytest.approx(
        0.32 + 0.5 + 0.5 + 4 * 0.32
    )
    assert latency(make_plan(PREP, 2.0, 0.5), cut, 25.0, 2) == pytest.approx(1 + 1 + 5 * 0.5)


def test_what_is_no_video_gets_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pipe_of(tmp_path / "pipe", b"no video") as pipe:
        assert timeline(pipe) == 2
    assert "sends no video that FFmpeg can read" in capsys.readouterr().err
    with server(send(b"no video at all" * 100)) as address:
        assert timeline(address) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "sends no video" in line


def test_a_terminal_is_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UserError, match="stdin is a terminal; pipe a video into it"):
        find_live_source("-", is_address=False)
    assert find_live_source("film.ts", is_address=False) is None
