"""Kill `p3d score` at random, and compare its rows with those of an undisturbed run.

    python benchmarks/archive.py --videos 13320 --kills 20

Prints the rate, the kills, and whether every video has the same row, bit for bit.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np
import torch

from p3d.archive.parts import part_files, read_part
from p3d.model.network import create_model
from p3d.preprocessing import IMAGENET
from p3d.system.machine import describe_processor
from p3d.weights.metadata import save_model


def write_videos(folder: Path, count: int) -> None:
    """Write videos of 8 frames of noise, 32x40 pixels."""
    folder.mkdir()
    for number in range(count):
        rng = np.random.default_rng(number)
        with av.open(str(folder / f"{number:06d}.avi"), "w") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.height, stream.width, stream.pix_fmt = 32, 40, "yuv420p"
            for _ in range(8):
                pixels = rng.integers(0, 256, (32, 40, 3), np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
            container.mux(stream.encode(None))


def write_network(path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("p3d63", num_classes=3)
    model.preprocessing = replace(IMAGENET, num_frames=4, resize=(18, 24), crop=16)
    save_model(model, path)


def start(root: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "p3d", "score", root / "videos", "--out", out, "--what"]
    command += ["scores", "--weights", root / "net.safetensors", "--clips", "1", "--threads", "1"]
    command += ["--device", "cpu", "--part-videos", "20"]
    return subprocess.Popen([*map(str, command)])


def children(process: int) -> list[int]:
    """Return the processes that a process started (Linux)."""
    found = Path(f"/proc/{process}/task/{process}/children")
    return [int(word) for word in found.read_text().split()] if found.exists() else []


def kill_at_random(root: Path, out: Path, kills: int, longest: float) -> int:
    """Run until all is done, killing the command or one of its processes; return the kills."""
    random.seed(0)
    killed = 0
    process = start(root, out)
    while process.poll() is None:
        if killed == kills:
            process.wait()
            break
        time.sleep(random.uniform(0, longest))
        if process.poll() is not None:
            break
        victim = random.choice([process.pid, *children(process.pid)])
        os.kill(victim, signal.SIGKILL)
        killed += 1
        if victim == process.pid:
            process.wait()
            process = start(root, out)
    return killed


def rows_of(out: Path) -> dict[str, dict[str, Any]]:
    rows = [row for file in part_files(out) for row in read_part(file).rows]
    found = {row["path"]: row for row in rows}
    assert len(found) == len(rows), "a video is there twice"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=13320)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--longest", type=float, default=20, help="seconds between two kills")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        root = Path(folder)
        write_videos(root / "videos", options.videos)
        write_network(root / "net.safetensors")
        started = time.monotonic()
        start(root, root / "quiet").wait()
        seconds = time.monotonic() - started
        killed = kill_at_random(root, root / "killed", options.kills, options.longest)
        quiet, disturbed = rows_of(root / "quiet"), rows_of(root / "killed")
    print(time.strftime("%d %B %Y"), describe_processor(), sep=", ")
    print(f"{len(quiet)} videos in {seconds:.0f} s with the start of the command; {killed} kills")
    print("rows equal, bit for bit" if quiet == disturbed else "ROWS DIFFER")


if __name__ == "__main__":
    main()
