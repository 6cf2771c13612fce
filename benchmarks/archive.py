"""Kill `p3d score` at random moments, and compare its records with those of an undisturbed run.

    python benchmarks/archive.py --videos 2000 --kills 20
    python benchmarks/archive.py --videos 13320 --kills 20 --nodes 0 1 3

The command or one of its worker processes is killed. Each number of --nodes is a disturbed run on a
Ray cluster of that many nodes on this machine, where the command or an actor is killed; 0 is
without Ray. Prints the rate and the memory of the undisturbed run, and of each disturbed run
whether every video has the same record.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from p3d.archive.attempts import ATTEMPTS_FILE
from p3d.archive.parts import part_files, read_part
from p3d.archive.results import PARTS
from p3d.model.network import create_model
from p3d.preprocessing import IMAGENET
from p3d.system.machine import describe_processor
from p3d.weights.metadata import save_model

_SIZE = (32, 40)


def write_videos(folder: Path, count: int) -> None:
    """Write videos of 8 frames of noise."""
    folder.mkdir()
    for number in range(count):
        rng = np.random.default_rng(number)
        with av.open(str(folder / f"{number:06d}.avi"), "w") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.height, stream.width = _SIZE
            stream.pix_fmt = "yuv420p"
            for _ in range(8):
                pixels = rng.integers(0, 256, (*_SIZE, 3), np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
            container.mux(stream.encode(None))


def write_network(path: Path) -> None:
    """Write a P3D-63 for tiny clips."""
    torch.manual_seed(0)
    model = create_model("p3d63", num_classes=3)
    model.preprocessing = replace(IMAGENET, num_frames=4, resize=(18, 24), crop=16)
    save_model(model, path)


def start(root: Path, out: Path, address: str | None = None) -> subprocess.Popen[bytes]:
    """Start the command, on the Ray cluster at an address if one is given."""
    command = [sys.executable, "-m", "p3d", "score", root / "videos", "--out", out]
    command += ["--weights", root / "net.safetensors", "--clips", "1", "--threads", "1"]
    command += ["--what", "scores", "--format", "jsonl", "--device", "cpu", "--backend", "eager"]
    command += ["--ray", address] if address else []
    quiet = subprocess.DEVNULL
    return subprocess.Popen([*map(str, command)], stdout=quiet, stderr=quiet)


def descendants(process: int) -> list[int]:
    """Return the processes that a process started, and those that they started (Linux)."""
    found: list[int] = []
    with suppress(OSError):
        for word in Path(f"/proc/{process}/task/{process}/children").read_text().split():
            found += [int(word), *descendants(int(word))]
    return found


def resident(process: int) -> int:
    """Return the resident memory of a process and its descendants, in bytes."""
    pages = 0
    for number in (process, *descendants(process)):
        with suppress(OSError):
            pages += int(Path(f"/proc/{number}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def undisturbed(root: Path, out: Path) -> tuple[float, list[int]]:
    """Run the command; return its seconds, and its memory every half second while it works.

    Raises:
        RuntimeError: It failed.
    """
    started, process = time.monotonic(), start(root, out)
    memory: list[int] = []
    while process.poll() is None:
        if (out / ATTEMPTS_FILE).exists():  # from the first video to the last
            memory.append(resident(process.pid))
        time.sleep(0.5)
    if process.returncode:
        raise RuntimeError(f"the command ended with exit code {process.returncode}")
    return time.monotonic() - started, memory


def growth(memory: Sequence[int], videos: int) -> float:
    """Return the slope of the straight line through memory, in bytes a video.

    Args:
        memory: Bytes, at equal steps of time.
        videos: Videos that were done in this time, at one rate.
    """
    return float(np.polyfit(np.linspace(0, videos, len(memory)), memory, 1)[0])


def print_memory(memory: Sequence[int], videos: int) -> None:
    """Print the largest memory and its growth, over the whole run and over its second half."""
    late, mib = memory[len(memory) // 2 :], 2**20
    for name, part, count in (("run", memory, videos), ("second half", late, videos // 2)):
        slope = growth(part, count) * 1000 / mib if len(part) > 1 else float("nan")
        print(f"memory, {name}: at most {max(part, default=0) / mib:.0f} MiB, ", end="")
        print(f"{slope:+.2f} MiB per 1,000 videos")


@contextmanager
def cluster(nodes: int) -> Iterator[str | None]:
    """Start a Ray cluster of nodes with a place for one actor each; no cluster for 0 nodes."""
    if not nodes:
        yield None
        return
    from ray.cluster_utils import Cluster

    started = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    for _ in range(nodes - 1):
        started.add_node(num_cpus=1)
    yield started.address
    started.shutdown()


def actors() -> list[int]:
    """Return the processes of this machine that are actors of p3d (Linux)."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if file.read_bytes().startswith(b"ray::Actor"):
                found.append(int(file.parent.name))
    return found


def disturbed(root: Path, out: Path, kills: int, longest: float, address: str | None) -> int:
    """Kill and start again until all is done; return the number of kills."""
    rng, killed = random.Random(0), 0
    process = start(root, out, address)
    while killed < kills:
        time.sleep(rng.uniform(0, longest))
        if process.poll() == 0:
            break
        if process.poll() is not None:  # one line about what was killed; the same command goes on
            process = start(root, out, address)
            continue
        workers = actors() if address else descendants(process.pid)
        victim = rng.choice([process.pid, *workers])
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
            killed += 1
        if victim == process.pid:
            process.wait()
            process = start(root, out, address)
    if process.wait():
        start(root, out, address).wait()
    return killed


def records(out: Path) -> dict[str, Any]:
    """Return the rows by video."""
    found = [row for file in part_files(out / PARTS) for row in read_part(file).rows]
    by_path = {record["path"]: record for record in found}
    assert len(by_path) == len(found), "a video is there twice"
    return by_path


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--longest", type=float, default=10, help="seconds between two kills")
    parser.add_argument("--nodes", type=int, nargs="+", default=[0], help="of a Ray cluster")
    options = parser.parse_args(arguments)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    print(f"{describe_processor()}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_videos(root / "videos", options.videos)
        write_network(root / "net.safetensors")
        seconds, memory = undisturbed(root, root / "quiet")
        quiet = records(root / "quiet")
        print(f"{len(quiet):,} videos in {seconds:.0f} s, with the start of the command")
        print_memory(memory, len(quiet))
        for nodes in options.nodes:
            out, started = root / f"killed-{nodes}", time.monotonic()
            with cluster(nodes) as address:
                killed = disturbed(root, out, options.kills, options.longest, address)
            found = records(out)
            differing = sum(found.get(path) != record for path, record in quiet.items())
            where = f"Ray, nodes: {nodes}" if nodes else "without Ray"
            print(f"{where}: {killed} kills in {time.monotonic() - started:.0f} s, ", end="")
            print(f"{len(found):,} records, {differing} differ from the undisturbed run")


if __name__ == "__main__":
    main()
