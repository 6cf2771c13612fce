"""Load `p3d serve` with good and bad requests, and compare its rate with that of the pipe.

    python benchmarks/serve.py --requests 1000 --at-once 32

A small network answers requests with short videos. Among them are random bytes, uploads that end
early, slow clients, and a video that kills its decoder. Each kind has one right status. At the end,
no process and no file may be left. The pipe's own rate is that of `Predictor.stream` on as many
good videos, in a process of its own, before and after.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import date
from pathlib import Path

import av
import httpx
import numpy as np
import torch

from p3d.inference.predictor import Predictor
from p3d.model.network import create_model
from p3d.preprocessing import Preprocessing
from p3d.system.device import set_up_cpu
from p3d.system.machine import describe_processor
from p3d.system.text import format_table
from p3d.weights.metadata import save_model

PREP = Preprocessing(num_frames=8, resize=(72, 72), crop=64)
CLIPS, MEMORY = 2, 60
RIGHT = {"good": 200, "path": 200, "random": 422, "half": 0, "slow": 408, "killer": 502}
"""Status of each kind of request; 0: the client goes before it gets one."""
SHARES = {"good": 0.45, "path": 0.45, "random": 0.04, "half": 0.02, "slow": 0.02, "killer": 0.02}
UPLOAD_SECONDS = 3


def write_video(path: Path, frames: int, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for _ in range(frames):
            pixels = np.kron(
                rng.integers(0, 255, (5, 5, 3)), np.ones((size[0] // 5, size[1] // 5, 1))
            )
            frame = av.VideoFrame.from_ndarray(pixels.astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame.reformat(*size[::-1])))
        container.mux(stream.encode(None))


def prepare(folder: Path) -> None:
    torch.manual_seed(0)
    model = create_model("p3d63", num_classes=8)
    model.preprocessing = PREP
    save_model(model.eval(), folder / "net.safetensors")
    write_video(folder / "good.avi", 40, (120, 160))
    write_video(folder / "killer.avi", 12, (2000, 3000))
    (folder / "random.avi").write_bytes(random.Random(0).randbytes(50_000))


def pipe_rate(folder: Path, videos: int) -> tuple[float, float]:
    """Return the videos that the pipe scores in a second and in a second of processor time.

    They are scored in a process of its own.
    """
    code = "import sys, serve; serve.print_pipe_rate(sys.argv[1], int(sys.argv[2]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(videos)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    elapsed, processor = map(float, done.stdout.split())
    return elapsed, processor


def print_pipe_rate(folder: str, videos: int) -> None:
    set_up_cpu(None)
    predictor = Predictor(Path(folder) / "net.safetensors", device="cpu", clips=CLIPS)
    path = Path(folder) / "good.avi"
    list(predictor.stream([path] * 20))
    started, processor = time.perf_counter(), time.process_time()
    list(predictor.stream([path] * videos))
    print(videos / (time.perf_counter() - started), videos / (time.process_time() - processor))


class Service:
    """A running `p3d serve`."""

    def __init__(self, folder: Path) -> None:
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        flags = {
            "--weights": folder / "net.safetensors",
            "--root": folder,
            "--port": 0,
            "--clips": CLIPS,
            "--device": "cpu",
            "--decoder-memory": MEMORY,
            "--upload-seconds": UPLOAD_SECONDS,
        }
        words = [str(word) for pair in flags.items() for word in pair]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "p3d", "serve", *words],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"TMPDIR": str(self.temporary)},
            start_new_session=True,
        )
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        found = re.search(r"http://127.0.0.1:(\d+)/", line)
        assert found, line
        self.port = int(found[1])

    def memory(self) -> float:
        """Return the memory of the main process in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1000

    def cpu_seconds(self) -> float:
        """Return the processor time of all processes of the service so far."""
        total = 0
        for number in self.processes():
            fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15]))  # user and system, own and of ended children
        return total / os.sysconf("SC_CLK_TCK")

    def processes(self) -> list[int]:
        """Return the processes of the service that are left."""
        own = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == self.process.pid and fields[0] != "Z":
                own.append(int(stat.parent.name))
        return own

    def stop(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGTERM)
        _, text = self.process.communicate(timeout=60)
        return self.process.returncode, text


async def ask(client: httpx.AsyncClient, folder: Path, kind: str, port: int) -> int:
    """Send a request and return its status; 0 if the client goes first."""
    if kind == "path":
        return (await client.post("/v1/predict", json={"path": "good.avi"})).status_code
    if kind in ("half", "slow"):
        return await stall(port, wait=kind == "slow")
    files = {"video": (f"{kind}.avi", (folder / f"{kind}.avi").read_bytes())}
    return (await client.post("/v1/predict", files=files)).status_code


async def stall(port: int, *, wait: bool) -> int:
    """Send the first half of an upload; then go, or wait for the service to lose patience."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
        b'Content-Disposition: form-data; name="video"; filename="a.avi"\r\n\r\n' + bytes(5000)
    )
    await writer.drain()
    status = 0
    if wait:
        status = int((await reader.readline()).split()[1])
    else:
        await asyncio.sleep(0.05)
    writer.close()
    return status


async def load(
    service: Service, folder: Path, kinds: list[str], at_once: int
) -> tuple[Counter[tuple[str, int]], dict[str, list[float]], list[float]]:
    """Send requests; return statuses, seconds of each kind, and the memory every 100 requests."""
    found: Counter[tuple[str, int]] = Counter()
    seconds: dict[str, list[float]] = {kind: [] for kind in RIGHT}
    memory: list[float] = []
    waiting = iter(kinds)

    async def work(client: httpx.AsyncClient) -> None:
        for kind in waiting:
            started = time.perf_counter()
            status = await ask(client, folder, kind, service.port)
            seconds[kind].append(time.perf_counter() - started)
            found[kind, status] += 1
            if sum(found.values()) % 100 == 0:
                memory.append(service.memory())

    limits = httpx.Limits(max_connections=at_once)
    base = f"http://127.0.0.1:{service.port}"
    async with httpx.AsyncClient(base_url=base, timeout=120, limits=limits) as client:
        await asyncio.gather(*(work(client) for _ in range(at_once)))
    return found, seconds, memory


def choose(count: int) -> list[str]:
    kinds = [kind for kind, share in SHARES.items() for _ in range(round(share * count))]
    random.Random(0).shuffle(kinds)
    return kinds


def percentiles(values: list[float]) -> str:
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return f"p50 {cuts[49]:.2f} s, p99 {cuts[98]:.2f} s"


def main() -> int:
    parser = argparse.ArgumentParser(description="Load p3d serve with good and bad requests.")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=32)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        pipe = [pipe_rate(folder, options.requests // 4)]
        service = Service(folder)
        asyncio.run(load(service, folder, ["good"] * 32, options.at_once))
        started, processor = time.perf_counter(), service.cpu_seconds()
        asyncio.run(load(service, folder, ["good"] * (options.requests // 4), options.at_once))
        rate = options.requests // 4 / (time.perf_counter() - started)
        processor_rate = options.requests // 4 / (service.cpu_seconds() - processor)
        started = time.perf_counter()
        found, seconds, memory = asyncio.run(
            load(service, folder, choose(options.requests), options.at_once)
        )
        mixed = options.requests / (time.perf_counter() - started)
        is_alive = service.process.poll() is None
        files = list(service.temporary.glob("p3d-serve-*/*"))
        code, text = service.stop()
        pipe.append(pipe_rate(folder, options.requests // 4))
        left = [*service.temporary.iterdir(), *service.processes(), *files]
    rows = [
        (kind, count, status or "none", "yes" if status == RIGHT[kind] else "NO")
        for (kind, status), count in sorted(found.items())
    ]
    print(f"{date.today()}, {describe_processor()}")
    print(format_table(("request", "number", "status", "right"), rows))
    for what, own, of_pipe in (
        ("second", rate, [elapsed for elapsed, _ in pipe]),
        ("second of processor time", processor_rate, [processor for _, processor in pipe]),
    ):
        before, after = of_pipe
        ratio = own / statistics.mean(of_pipe)
        print(f"good requests alone: {own:.1f} a {what}; the pipe {before:.1f} and {after:.1f}")
        print(f"ratio: {ratio:.2f}")
    print(f"all kinds: {mixed:.1f} a second")
    print(f"good ones among the others: {percentiles(seconds['good'] + seconds['path'])}")
    print(f"memory every 100 requests in MB: {', '.join(f'{value:.0f}' for value in memory)}")
    print(f"alive: {is_alive}; exit code {code}; left: {left or 'nothing'}")
    others = [line for line in text.splitlines() if "died" not in line]
    print(f"lines on stderr about decoders that died: {text.count('died')}; others: {others}")
    return int(not is_alive or bool(left) or any(row[3] == "NO" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
