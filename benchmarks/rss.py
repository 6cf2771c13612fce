"""Print the memory of the main process and its loader workers after each epoch, to find leaks.

    python benchmarks/rss.py [--files 4000] [--epochs 3] [--workers 2]

The files are links to a few small videos. Each has its own path, and therefore its own index in
each worker's cache. Needs Linux, since it reads /proc.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import av
import numpy as np

from p3d.data.dataset import VideoDataset, VideoRecord
from p3d.data.loader import TrainLoader
from p3d.preprocessing import IMAGENET

PREP = replace(IMAGENET, num_frames=8, resize=(48, 64), crop=40)


def write_video(path: Path, frames: int) -> None:
    rng = np.random.default_rng(frames)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(frames):
            noise = rng.integers(0, 255, (48, 64, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise)))
        container.mux(stream.encode(None))


def private_mib(process: int) -> float:
    """Return the memory of a process that it shares with no other, in MiB."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    kib = [int(line.split()[1]) for line in lines if line.startswith("Private_")]
    return sum(kib) / 1024


def children(process: int) -> list[int]:
    text = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(child) for child in text.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="p3d-rss-") as folder:
        root = Path(folder)
        for number in range(8):
            write_video(root / f"source-{number}.avi", 20 + number)
        for number in range(options.files):
            os.link(root / f"source-{number % 8}.avi", root / f"video-{number:06d}.avi")
        records = [VideoRecord(root / f"video-{n:06d}.avi", 0) for n in range(options.files)]
        loader = TrainLoader(
            VideoDataset(("a",), tuple(records)),
            PREP,
            batch_size=8,
            seed=0,
            workers=options.workers,
        )
        for epoch in range(options.epochs):
            for batch in loader.epoch(epoch):
                assert not batch.bad
            own = private_mib(os.getpid())
            workers = [f"{private_mib(child):.1f}" for child in children(os.getpid())]
            print(f"epoch {epoch}: main {own:.1f} MiB, workers {', '.join(workers)} MiB")


if __name__ == "__main__":
    main()
