"""Read videos and frame folders that are damaged at random.

    python tests/fuzz/fuzz_videos.py --count 5000 --seed 1

For each input, `open_video` must either read the same frames every time or raise `BadVideoError`
with the same message every time, within limits of time and memory. The inputs depend only on seed
and number. A worker process reads them, so that a crash or a hang is a finding too. The exit code
is 1 if there is any.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import resource
import shutil
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from PIL import Image

from helpers.fields import write_fields
from helpers.videos import pack, picture, rewrite_packets, write_video
from p3d.errors import BadVideoError
from p3d.video.decode import open_video
from p3d.video.index_cache import INDICES

FRAMES = 12
SECONDS = 20.0
"""Time limit for an input."""
BYTES = 2**30
"""Limit of the memory that an input may add to that of the worker."""

X264 = {"codec": "libx264", "b_frames": 2}
VIDEOS: dict[str, dict[str, Any]] = {
    "mpeg4.avi": {"b_frames": 2},
    "mpeg4.mp4": {"b_frames": 2},
    "h264.mp4": X264,
    "h264.mkv": X264,
    "h264.ts": X264,
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none:pools=none"}},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "mpeg2.mpg": {"codec": "mpeg2video", "b_frames": 2},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "png.mov": {"codec": "png", "pix_fmt": "rgb24"},
    "flow.mkv": {"codec": "ffv1", "pix_fmt": "ya8"},
    "wmv2.wmv": {"codec": "wmv2"},
    "flv.flv": {"codec": "flv"},
}
PICTURES = ("jpg", "png", "bmp", "webp")


def write_sources(folder: Path) -> dict[str, bytes]:
    """Return the intact files by name; names of pictures begin with "frame"."""
    files: dict[str, bytes] = {}
    for name, arguments in VIDEOS.items():
        path = write_video(folder / name, FRAMES, **{"gop": 5, "size": (48, 64)} | arguments)
        files[name] = path.read_bytes()
    packed = rewrite_packets(folder / "mpeg4.avi", folder / "packed.avi", pack)
    files |= {"packed.avi": packed.read_bytes()}
    files |= {"fields.mp4": write_fields(folder / "fields.mp4", FRAMES).read_bytes()}
    exif = Image.Exif()
    exif[0x0112] = 6
    for suffix in PICTURES:
        path = folder / f"frame.{suffix}"
        Image.fromarray(picture(5)).save(path, **{} if suffix == "bmp" else {"exif": exif})
        files[path.name] = path.read_bytes()
    return files


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """Return data with flipped bits, zeroed or repeated sectors, other bytes, or cut off."""
    changed = bytearray(data)
    # Headers are small, and damage there has the most varied effects.
    end = len(data) if rng.random() < 0.7 else min(len(data), 1024)
    kind = rng.choice(["bits", "bits", "bytes", "values", "zeros", "repeat", "cut"])
    if kind == "bits":
        for position in rng.integers(end, size=rng.integers(1, 9)):
            changed[position] ^= 1 << int(rng.integers(8))
    elif kind == "bytes":
        for position in rng.integers(end, size=rng.integers(1, 33)):
            changed[position] = rng.integers(256)
    elif kind == "values":
        value = bytes(rng.choice([0, 127, 128, 255], size=4).astype(np.uint8))
        position = int(rng.integers(max(1, end - 4)))
        changed[position : position + 4] = value
    elif kind == "cut":
        del changed[int(rng.integers(1, len(data))) :]
    else:
        size = int(rng.choice([16, 512, 4096]))
        position = int(rng.integers(end)) // size * size
        sector = changed[position : position + size]
        changed[position : position + size] = bytes(len(sector)) if kind == "zeros" else sector * 2
    return bytes(changed)


def write_input(folder: Path, files: dict[str, bytes], seed: int, number: int) -> Path:
    """Write input `number` of a seed; return the video file or the frame folder."""
    rng = np.random.default_rng((seed, number))
    name = list(files)[number % len(files)]
    data = damage(files[name], rng)
    path = folder / f"{seed}-{number}-{name}"
    if not name.startswith("frame"):
        path.write_bytes(data)
        return path
    path.mkdir()
    (path / f"1{Path(name).suffix}").write_bytes(files[name] if rng.random() < 0.5 else data)
    (path / f"2{Path(name).suffix}").write_bytes(data)
    return path


def digest(path: Path, part: slice) -> str:
    """Return a hash of frames of a video, read twice from one open, or why it cannot be read."""
    try:
        with open_video(path) as video:
            frames = range(video.num_frames)[part]
            first, second = (
                hashlib.sha256(video.read(frames).numpy().tobytes()).hexdigest() for _ in range(2)
            )
    except BadVideoError as error:
        message = str(error)
        assert "\n" not in message, message
        return message
    assert first == second, "two reads of one open file differ"
    return first


def read(path: Path) -> str:
    """Return whether a video is "read" or "refused".

    Raises:
        AssertionError: It is not the same every time.
    """
    results = []
    for part in (slice(-2, None), slice(None)):
        INDICES.clear()
        first, second = digest(path, part), digest(path, part)
        assert first == second, f"the first open differs from the second: {first}, {second}"
        results.append(first)
    return "refused" if results[-1].startswith(str(path)) else "read"


def serve(connection: Connection) -> None:
    """Read the videos whose paths arrive; answer with result and peak memory in bytes."""
    warnings.simplefilter("ignore")
    while (path := connection.recv()) is not None:
        try:
            result = read(path)
        except BaseException:
            result = traceback.format_exc()
        connection.send((result, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


class Worker:
    """A process that reads videos, and is started again when it hangs or dies."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=serve, args=(other,), daemon=True)
        self._process.start()
        other.close()
        self._peak = 0

    def read(self, path: Path) -> str:
        """Return "read", "refused", or what is wrong."""
        self._connection.send(path)
        # The first answer includes the start of the process.
        if not self._connection.poll(SECONDS + (60 if not self._peak else 0)):
            self.stop()
            self._start()
            return f"a hang: no answer after {SECONDS:.0f} s"
        try:
            result, peak = self._connection.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            self._start()
            return f"a crash: exit code {code}"
        added = peak - self._peak if self._peak else 0
        self._peak = peak
        return f"memory: {added / 2**20:.0f} MiB more" if added > BYTES else str(result)

    @property
    def peak(self) -> int:
        """Largest memory of the process so far, in bytes."""
        return self._peak

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()


@dataclass
class Summary:
    """Results of a run."""

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    slowest: float = 0.0
    peak: int = 0

    def lines(self) -> Iterator[str]:
        """Yield the findings, and a line of totals."""
        yield from self.findings
        yield (
            f"{self.counts.total()} inputs: {self.counts['read']} read, "
            f"{self.counts['refused']} refused, {len(self.findings)} findings; slowest "
            f"{self.slowest:.1f} s, largest process {self.peak / 2**20:.0f} MiB"
        )


def fuzz(
    count: int,
    seed: int,
    *,
    seconds: float = float("inf"),
    keep: Path | None = None,
) -> Summary:
    """Read up to `count` damaged inputs.

    Args:
        count: Number of inputs.
        seed: Determines them, with their number.
        seconds: Start no input after this time.
        keep: Folder for copies of the inputs of findings.
    """
    summary, worker = Summary(), Worker()
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = write_sources(folder)
        started = time.monotonic()
        for number in range(count):
            before = time.monotonic()
            if before - started > seconds:
                break
            path = write_input(folder, files, seed, number)
            result = worker.read(path)
            summary.counts[result if result in ("read", "refused") else "finding"] += 1
            if number:
                summary.slowest = max(summary.slowest, time.monotonic() - before)
            summary.peak = max(summary.peak, worker.peak)
            if result not in ("read", "refused"):
                summary.findings.append(f"{path.name}: {result}")
                if keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    copy = shutil.copytree if path.is_dir() else shutil.copy
                    copy(path, keep / path.name)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    worker.stop()
    return summary


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="number of inputs")
    parser.add_argument("--seed", type=int, default=0, help="determines the inputs")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--keep", type=Path, help="folder for copies of the inputs of findings")
    options = parser.parse_args()
    summary = fuzz(options.count, options.seed, seconds=options.seconds, keep=options.keep)
    print("\n".join(summary.lines()))
    return 1 if summary.findings else 0


if __name__ == "__main__":
    sys.exit(main())
