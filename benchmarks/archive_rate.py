"""Compare the rate of `p3d score` with what the cores could do at best.

    python benchmarks/archive_rate.py --data videos --weights best.safetensors --clips 4
    python benchmarks/archive_rate.py --videos 2000

Reading and the network are timed apart, on one core. With all cores busy all the time, so many
seconds of a video would be done at once: the ideal rate is cores / (reading + network). The rate of
the command is that from its first video to its last; its start is stated apart. Without --data, the
videos are tiny and of noise, as in archive.py.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from archive import write_network, write_videos
from p3d.inference.arguments import VideoFinder
from p3d.inference.score_work import ScoreWork
from p3d.system.files import file_sha256
from p3d.system.machine import describe_processor, num_cores
from p3d.weights.loading import find_weights

_DONE = re.compile(r"([\d,]+) videos done in .* \(([\d.e+]+) a second\)")


def seconds_apart(work: ScoreWork, videos: Sequence[str]) -> tuple[float, float]:
    """Return the seconds of reading and of the network for a video, each on one core."""
    stages = work.start(0)
    stages.compute(videos[0], stages.read(videos[0]))  # the first one takes longer
    reading = network = 0.0
    for video in videos:
        started = time.perf_counter()
        content = stages.read(video)
        read = time.perf_counter()
        stages.compute(video, content)
        reading += read - started
        network += time.perf_counter() - read
    return reading / len(videos), network / len(videos)


def command_rate(
    work: ScoreWork, data: Path, out: Path, more: Sequence[str]
) -> tuple[float, float]:
    """Return the rate of the command in videos a second, and the seconds besides.

    Raises:
        RuntimeError: It failed.
    """
    command = [sys.executable, "-m", "p3d", "score", data, "--weights", work.weights, "--out", out]
    command += ["--clips", work.clips, "--what", work.what, "--backend", work.backend]
    command += ["--precision", work.precision, "--device", "cpu", *more]
    started = time.monotonic()
    ended = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    seconds = time.monotonic() - started
    found = _DONE.search(ended.stderr)
    if found is None:
        raise RuntimeError(ended.stderr)
    rate = float(found[2])
    return rate, seconds - int(found[1].replace(",", "")) / rate


def measure(options: argparse.Namespace, root: Path) -> None:
    """Measure, and print the figures."""
    data, weights = options.data, options.weights
    if data is None:
        data, weights = root / "videos", root / "net.safetensors"
        write_videos(data, options.videos)
        write_network(weights)
    weights = find_weights(weights).absolute()
    work = ScoreWork(
        weights=weights,
        sha256=file_sha256(weights),
        what="scores",
        top=5,
        clips=options.clips,
        batch_size=None,
        backend=options.backend,
        device="cpu",
        precision=options.precision,
        threads=1,
        workers=0,
        frame_rate=None,
    )
    videos = [str(path) for path in VideoFinder([str(data)]).items]
    step = max(1, len(videos) // options.timed)
    cores = num_cores()
    reading, network = seconds_apart(work, videos[::step])
    ideal = cores / (reading + network)
    print(f"{len(videos):,} videos, {options.clips} clips each, {options.backend}")
    print(f"one core: {reading * 1000:.2f} ms reading, {network * 1000:.2f} ms network a video")
    for number, more in enumerate(options.command or ["", f"--processes {cores}"]):
        rate, rest = command_rate(work, data, root / f"out-{number}", more.split())
        print(
            f"{cores} cores: {rate:.4g} videos a second, {rate / ideal:.1%} of {ideal:.4g}; ",
            end="",
        )
        print(f"{rest:.1f} s besides ({more or 'no other options'})")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of videos; by default tiny ones")
    parser.add_argument("--weights", type=Path, help="the network, with --data")
    parser.add_argument("--clips", type=int, default=1)
    parser.add_argument("--videos", type=int, default=1000, help="tiny videos, without --data")
    parser.add_argument("--timed", type=int, default=100, help="videos that are timed on one core")
    parser.add_argument("--backend", choices=("eager", "compiled"), default="eager")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--command", nargs="*", help="other options of the command, each in quotes")
    options = parser.parse_args(arguments)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    print(f"{describe_processor()}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        measure(options, Path(folder))


if __name__ == "__main__":
    main()
