"""Measure `p3d timeline`: long videos whose segments are known, memory, and rate.

    python benchmarks/timeline.py join --sample demo/sample --real videos --out joined
    python benchmarks/timeline.py memory --weights demo/ABC --hours 0.5 1 3
    python benchmarks/timeline.py rate --weights demo/ABC --video film.mp4

`join` joins clips of a sample set, with noise and still pictures between them, to videos of several
frame rates, and writes the true segments; score them with `p3d timeline` and `p3d detection`.
`memory` runs `p3d timeline` on files of small frames and prints its peak memory. `rate` compares it
with the network alone on the same windows; the two take turns, the median round counts. Processor
time is that of a machine with one core, where nothing overlaps.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray

from p3d.data.sampling import frames_at
from p3d.inference.networks import load_network, make_scorer
from p3d.inference.pipe import num_threads
from p3d.inference.timeline.frames import open_frames
from p3d.inference.timeline.motion import read_clips
from p3d.inference.timeline.scan import scan
from p3d.inference.timeline.window_scorer import WindowScorer
from p3d.inference.timeline.windows import make_plan
from p3d.system.csv_file import write_csv
from p3d.system.device import set_up_cpu
from p3d.system.text import format_table
from p3d.weights.loading import find_weights

Pictures = NDArray[np.uint8]
RATES = (25.0, 30.0, 50.0, 60.0, 0.0)
SPLITS = {"train": (12, 40), "validation": (2, 24), "test": (4, 40)}
"""Videos of each split, and actions in a video."""
COLUMNS = ("path", "start", "end", "class")
SOURCE_RATE = 25
TICKS = 60_000


def decode(path: Path, size: tuple[int, int] | None = None) -> Pictures:
    """Return the frames of a video, of another width and height if they are given."""
    width, height = size or (None, None)
    with av.open(str(path)) as container:
        return np.stack(
            [
                frame.to_ndarray(format="rgb24", width=width, height=height)
                for frame in container.decode(video=0)
            ]
        )


def actions(sample: Path, split: str) -> list[tuple[str, list[Path]]]:
    """Return pairs of clips of one class each, in random order."""
    found = []
    for folder in sorted((sample / split).iterdir()):
        clips = sorted(folder.glob("*.avi"))
        found += [(folder.name, clips[n : n + 2]) for n in range(0, len(clips) - 1, 2)]
    return [found[n] for n in np.random.default_rng(0).permutation(len(found))]


def real_videos(folder: Path | None, split: str) -> list[Path]:
    """Return a third of the real videos, another one for each split."""
    found = [] if folder is None else sorted(folder.rglob("*.avi"))
    return found[list(SPLITS).index(split) :: len(SPLITS)]


def between(last: Pictures, number: int, real: list[Path], rng: np.random.Generator) -> Pictures:
    """Return 1 to 3 seconds of noise, of the last picture, or of a real video."""
    count = int(rng.integers(1 * SOURCE_RATE, 3 * SOURCE_RATE))
    kind = number % (3 if real else 2)
    if kind == 0:
        return rng.integers(0, 256, (count, *last.shape), np.uint8)
    if kind == 1:
        return np.repeat(last[None], count, 0)
    height, width = last.shape[:2]
    pictures = decode(real[int(rng.integers(len(real)))], (width, height))
    start = int(rng.integers(max(1, len(pictures) - count)))
    return pictures[start : start + count]


def join_source(
    parts: list[tuple[str, list[Path]]], real: list[Path], seed: int
) -> tuple[Pictures, list[tuple[float, float, str]]]:
    """Return frames at 25 per second, and the true segments."""
    rng = np.random.default_rng(seed)
    pictures, truth, length = list[Pictures](), list[tuple[float, float, str]](), 0
    for number, (name, clips) in enumerate(parts):
        action = np.concatenate([decode(clip) for clip in clips])
        truth.append((length / SOURCE_RATE, (length + len(action)) / SOURCE_RATE, name))
        pictures += [action, between(action[-1], number, real, rng)]
        length += len(action) + len(pictures[-1])
    return np.concatenate(pictures), truth


def shown_at(rate: float, seconds: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return presentation times; a rate of 0 means gaps of 1/60 to 1/15 second."""
    if rate:
        return np.arange(int(seconds * rate)) / rate
    gaps = rng.uniform(1 / 60, 1 / 15, int(60 * seconds))
    times = np.cumsum(gaps) - gaps[0]
    return times[times < seconds]


def write(path: Path, frames: Iterator[tuple[float, Pictures]], rate: float) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate or 30).limit_denominator())
        assert isinstance(stream, av.VideoStream)
        stream.pix_fmt = "yuv420p"
        stream.options = {"threads": "1", "preset": "veryfast"}
        stream.codec_context.time_base = Fraction(1, TICKS)
        for number, (instant, pixels) in enumerate(frames):
            if number == 0:
                stream.height, stream.width = pixels.shape[:2]
            frame = av.VideoFrame.from_ndarray(pixels)
            frame.pts, frame.time_base = round(instant * TICKS), Fraction(1, TICKS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def join(options: argparse.Namespace) -> None:
    for rate in options.rates:
        name, everything = f"{rate:g}fps" if rate else "variable", []
        for split, (videos, count) in SPLITS.items():
            if split in options.splits:
                rows = join_split(options, split, rate, name, videos, count)
                everything += [(f"{split}/{path}", *rest, split) for path, *rest in rows]
                write_csv(options.out / split / f"{name}.csv", COLUMNS, rows)
        write_csv(options.out / f"{name}.csv", (*COLUMNS, "split"), everything)
        print(f"{name}: {len(everything)} segments")


def join_split(
    options: argparse.Namespace, split: str, rate: float, name: str, videos: int, count: int
) -> list[tuple[str, str, str, str]]:
    """Write the videos of a split, and return the rows of their segments."""
    (options.out / split).mkdir(parents=True, exist_ok=True)
    real, parts, rows = real_videos(options.real, split), actions(options.sample, split), []
    for number in range(videos):
        part = parts[number * count : (number + 1) * count]
        source, truth = join_source(part, real, number)
        times = shown_at(rate, len(source) / SOURCE_RATE, np.random.default_rng(number))
        source_times = np.arange(len(source)) / SOURCE_RATE
        shown = [int(frames_at(source_times, t, 1, 1)[0]) for t in times.tolist()]
        path = options.out / split / f"{name}-{number}.mp4"
        write(path, zip(times.tolist(), (source[n] for n in shown), strict=True), rate)
        rows += [(path.name, f"{start:.3f}", f"{end:.3f}", label) for start, end, label in truth]
    return rows


def small_frames() -> Iterator[tuple[float, Pictures]]:
    """Yield a minute of 48x48 frames at 25 per second: a block that moves over a texture."""
    rows, columns = np.mgrid[:48, :48]
    ground = np.stack([((rows * 7 + columns * 13) % 256).astype(np.uint8)] * 3, -1)
    for number in range(60 * 25):
        frame = ground.copy()
        left = number % 40
        frame[20:28, left : left + 8] = 255
        yield number / 25, frame


def write_long(path: Path, hours: float) -> None:
    """Write a minute of video, and its packets again and again."""
    minute = path.with_name("minute.mp4")
    write(minute, small_frames(), 25.0)
    with av.open(str(minute)) as source, av.open(str(path), "w") as target:
        template = source.streams.video[0]
        packets = [packet for packet in source.demux(template) if packet.size]
        stream = target.add_stream_from_template(template)
        base = packets[0].time_base
        stamps = [(packet.pts or 0, packet.dts or 0) for packet in packets]
        for number in range(round(60 * hours)):
            shift = round(60 * number / base)
            for packet, (pts, dts) in zip(packets, stamps, strict=True):
                copy = av.Packet(bytes(packet))
                copy.stream, copy.time_base = stream, base
                copy.pts, copy.dts = pts + shift, dts + shift
                copy.is_keyframe = packet.is_keyframe
                target.mux(copy)


def memory(options: argparse.Namespace) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for hours in options.hours:
            path = Path(folder) / f"{hours:g}.mp4"
            write_long(path, hours)
            words = (
                "timeline",
                str(path),
                "--weights",
                str(options.weights),
                "--stride",
                "2",
                "--json",
            )
            command = [sys.executable, "-c", PEAK, *words]
            started = time.perf_counter()
            result = subprocess.run(command, check=True, capture_output=True, text=True)
            wall = time.perf_counter() - started
            peak = float(result.stderr.split()[-1])
            speed = f"{3600 * hours / wall:.0f}"
            rows.append((f"{hours:g} h", f"{peak:.0f}", f"{wall:.0f}", speed))
            path.unlink()
            print(rows[-1], flush=True)
    print(format_table(("length", "peak MiB", "seconds", "times real time"), rows))


PEAK = """
import resource, sys
from p3d.cli import main
code = main()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, file=sys.stderr)
sys.exit(code)
"""


PREROLL = 6.0
"""Seconds that are sent at once, since FFmpeg reads up to 5 s before it knows a stream."""


class Sender:
    """Sends a video as MPEG-TS; after the preroll, at the times of its frames.

    Attributes:
        ready: Set it when the receiver is connected; the sender waits for it after the preroll.
        began: When second 0 would have been sent.
    """

    def __init__(self, video: Path, seconds: float, speed: float) -> None:
        self._video, self._seconds, self._speed = video, seconds, speed
        self.began, self.ready = 0.0, threading.Event()

    def send(self, target: Any) -> None:
        """Send to a file, or to an address."""
        now = {"flush_packets": "1"}
        with (
            av.open(str(self._video)) as source,
            av.open(target, "w", format="mpegts", options=now, buffer_size=1316) as out,
        ):
            stream = out.add_stream("libx264", rate=SOURCE_RATE)
            assert isinstance(stream, av.VideoStream)
            stream.options = {"preset": "ultrafast", "tune": "zerolatency", "g": "25"}
            stream.pix_fmt, stream.codec_context.time_base = "yuv420p", Fraction(1, TICKS)
            for frame in source.decode(video=0):
                instant = float(frame.time or 0)
                if instant > self._seconds:
                    break
                if not stream.codec_context.is_open:
                    stream.height, stream.width = frame.height, frame.width
                if instant > PREROLL:
                    self._wait(instant)
                frame.pts, frame.time_base = round(instant * TICKS), Fraction(1, TICKS)
                frame.pict_type = av.video.frame.PictureType.NONE
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))

    def _wait(self, instant: float) -> None:
        if not self.began:
            self.ready.wait()
            time.sleep(1)
            self.began = time.monotonic() - instant / self._speed
        time.sleep(max(0, self.began + instant / self._speed - time.monotonic()))


def serve_once(sender: Sender) -> tuple[str, Callable[[], None]]:
    """Return the address of an HTTP server that sends the video, and what ends the server."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "video/mp2t")
            self.send_header("Connection", "close")
            self.end_headers()
            sender.send(self.wfile)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/live", server.shutdown


def serve_by(command: str, sender: Sender) -> Callable[[], None]:
    """Send the video to the stdin of a server, and return what ends that."""
    server = subprocess.Popen(shlex.split(command), bufsize=0, stdin=subprocess.PIPE)
    threading.Thread(target=lambda: send_and_close(sender, server.stdin), daemon=True).start()
    time.sleep(2)  # until it listens
    return server.terminate


def latency(options: argparse.Namespace) -> None:
    sender = Sender(options.video, options.seconds, options.speed)
    source, end = "-", None
    if options.by == "http":
        source, end = serve_once(sender)
    elif options.by == "server":
        source, end = options.address, serve_by(options.server, sender)
    words = ("timeline", source, "--weights", str(options.weights), "--windows", "--threads", "1")
    process = subprocess.Popen(
        [sys.executable, "-m", "p3d", *words, *options.words],
        bufsize=0,
        stdin=subprocess.PIPE if end is None else None,
        stdout=subprocess.PIPE,
    )
    if end is None:
        threading.Thread(target=lambda: send_and_close(sender, process.stdin), daemon=True).start()
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append((time.monotonic(), json.loads(line)))
        sender.ready.set()
    process.wait()
    if end is not None:
        end()
    report_latency(lines, sender, options.window)


def send_and_close(sender: Sender, pipe: Any) -> None:
    sender.send(pipe)
    pipe.close()


def report_latency(lines: list[tuple[float, Any]], sender: Sender, window: float) -> None:
    """Print how long after the frame at its end each line came."""
    [stated] = (line["latency"] for _, line in lines if "latency" in line)
    dropped = [line["dropped"] for _, line in lines if "dropped" in line]
    ends = {
        "windows": [(at, line["time"] + window / 2) for at, line in lines if "scores" in line],
        "segments": [(at, line["end"]) for at, line in lines if "label" in line],
    }
    print(f"stated {stated:.2f} s; {sum(dropped)} windows dropped")
    rows = []
    for name, pairs in ends.items():
        late = sorted(at - sender.began - instant for at, instant in pairs)
        if late:
            rows.append(
                (name, len(late), *(f"{x:.2f}" for x in (statistics.median(late), late[-1])))
            )
    print(format_table(("line", "number", "median s", "highest s"), rows))


def rate(options: argparse.Namespace) -> None:
    set_up_cpu(options.threads)
    network = load_network(find_weights(options.weights))
    scorer = make_scorer(network, torch.device("cpu"))
    plan, preps = make_plan(scorer.preprocessing, None, options.stride), [scorer.preprocessing]
    whole_scorer = WindowScorer(plan, [scorer])
    threads = num_threads(None, scorer.device)
    with open_frames(options.video, preps) as frames:
        windows = islice(whole_scorer.windows(frames), options.windows)
        clips = read_clips(window.clip() for window in windows)
    count = len(clips) // scorer.batch_size * scorer.batch_size
    batches = clips[:count].split(scorer.batch_size)

    def alone() -> None:
        for batch in batches:
            scorer(batch)

    def whole() -> None:
        with open_frames(options.video, preps) as frames:
            windows = islice(whole_scorer.windows(frames), count)
            with closing(scan(whole_scorer, windows, threads)) as scored:
                assert sum(map(len, scored)) == count

    rows = []
    times: dict[str, list[tuple[float, float]]] = {"network alone": [], "timeline": []}
    alone()
    for _ in range(options.rounds):
        times["network alone"].append(timed(alone))
        times["timeline"].append(timed(whole))
    for index, name in enumerate(("wall clock", "processor time")):
        first, second = ([each[index] for each in rounds] for rounds in times.values())
        ratio = statistics.median(a / b for a, b in zip(first, second, strict=True))
        speeds = (f"{count / statistics.median(each):.1f}" for each in (first, second))
        rows.append((name, *speeds, f"{ratio:.2f}"))
    print(f"{count} windows, batches of {scorer.batch_size}")
    print(format_table(("windows/s by", *times, "ratio"), rows))


def timed(call: Callable[[], None]) -> tuple[float, float]:
    """Return the seconds of a call: by the clock, and of all processors."""
    wall, used = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("join")
    one.add_argument("--sample", type=Path, required=True)
    one.add_argument("--out", type=Path, required=True)
    one.add_argument("--splits", nargs="+", choices=SPLITS, default=["test"])
    one.add_argument("--real", type=Path, help="folder of real videos, parts of which come between")
    one.add_argument("--rates", type=float, nargs="+", default=RATES, help="0: variable")
    one.set_defaults(run=join)
    two = commands.add_parser("memory")
    two.add_argument("--weights", type=Path, required=True)
    two.add_argument("--hours", type=float, nargs="+", default=[0.5, 1.0, 3.0])
    two.add_argument("--stride", type=float)
    two.set_defaults(run=memory)
    four = commands.add_parser("latency")
    four.add_argument("--weights", type=Path, required=True)
    four.add_argument("--video", type=Path, required=True)
    four.add_argument("--by", choices=("pipe", "http", "server"), default="pipe")
    four.add_argument("--server", help="command that serves the MPEG-TS on its stdin")
    four.add_argument("--address", help="where it serves, such as rtsp://127.0.0.1:8554/live")
    four.add_argument("--seconds", type=float, default=40.0)
    four.add_argument("--speed", type=float, default=1.0, help="1: as the video is shown")
    four.add_argument("--window", type=float, required=True, help="seconds of a window")
    four.add_argument("words", nargs="*", help="options of p3d timeline, after --")
    four.set_defaults(run=latency)
    three = commands.add_parser("rate")
    three.add_argument("--weights", type=Path, required=True)
    three.add_argument("--video", type=Path, required=True)
    three.add_argument("--windows", type=int, default=64)
    three.add_argument("--stride", type=float)
    three.add_argument("--rounds", type=int, default=5)
    three.add_argument("--threads", type=int)
    three.set_defaults(run=rate)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
