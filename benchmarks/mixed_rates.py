"""Which --fps suits a training set of videos of several rates: 12.5, 25, or native.

The motions of the sample set are rendered anew, each half of the training groups at another rate,
so that a second of each holds the same motion. The networks are trained on all of them, and
measured on test videos of each of several rates.

    python benchmarks/mixed_rates.py --out /tmp/mixed
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from p3d.data.dataset import SPLITS, VideoRecord
from p3d.data.manifest import write_manifest
from p3d.prepare import motions
from p3d.prepare.motions import CLASSES, MOTIONS, NUM_FRAMES, Scene, Take, render
from p3d.prepare.sample import FPS, SampleSpec, SampleVideo

TRAINED = (12, 24)
TESTED = (12, 24, 30, 48)
CHOICES = ("native", "12.5", "25")
NAMES = tuple(CLASSES)


def render_at(video: SampleVideo, rate: int, seed: int) -> NDArray[np.uint8]:
    """Render a video of the sample set at another rate: more pictures of the same motion."""
    motion, backwards = CLASSES[video.class_name]
    key, factor = (seed, MOTIONS.index(motion), video.group), rate / FPS
    take = Take.draw(np.random.default_rng([*key, 1 + video.clip]))
    scene = Scene.draw(np.random.default_rng([*key, 0]))
    motions.NUM_FRAMES = round((NUM_FRAMES - 1) * factor) + 1
    frames = render(motion, scene, replace(take, speed=take.speed / factor))
    return frames[::-1] if backwards else frames


def write(path: Path, frames: NDArray[np.uint8], rate: int) -> None:
    """Write an AVI file of Motion JPEG, as the sample set has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=rate, options={"qmin": "3", "qmax": "3"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuvj444p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_set(out: Path, seed: int) -> None:
    """Write the set, and a manifest for each rate of its test videos."""
    spec, found = SampleSpec(), dict[str, dict[int, list[VideoRecord]]]()
    for split in SPLITS:
        found[split] = {}
        for video in spec.videos(split):
            for rate in TESTED if split == "test" else (TRAINED[video.group % len(TRAINED)],):
                path = out / f"{rate}fps" / video.path
                write(path, render_at(video, rate, seed), rate)
                record = VideoRecord(path, NAMES.index(video.class_name), str(video.group))
                found[split].setdefault(rate, []).append(record)
    parts = {
        split: [record for records in found[split].values() for record in records]
        for split in ("train", "validation")
    }
    for rate in TESTED:
        write_manifest(out / f"{rate}.csv", NAMES, {**parts, "test": found["test"][rate]})


def p3d(*words: object) -> None:
    """Run a command of p3d."""
    subprocess.run([sys.executable, "-m", "p3d", *map(str, words)], check=True)


def main() -> None:
    """Train, measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--choices", nargs="+", choices=CHOICES, default=CHOICES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    options = parser.parse_args()
    out: Path = options.out
    if not (out / f"{TESTED[-1]}.csv").exists():
        write_set(out, 0)
    print(f"| trained with | seed | {' | '.join(f'{rate} fps' for rate in TESTED)} |", flush=True)
    for seed in options.seeds:
        for fps in options.choices:
            run = out / f"{fps}-{seed}"
            p3d(
                *("train", "--recipe", "sample", "--data", out / f"{TESTED[0]}.csv"),
                *("--fps", fps, "--out", run, "--epochs", options.epochs, "--seed", seed),
                *("--threads", 1, "--workers", 1, "--precision", "bf16", "--resume"),
            )
            cells = []
            for rate in TESTED:
                place = out / f"{fps}-{seed}-{rate}"
                p3d(
                    *("eval", "--data", out / f"{rate}.csv", "--weights", run, "--out", place),
                    *("--clips", 1, "--threads", 1, "--precision", "bf16"),
                )
                found = json.loads((place / "metrics.json").read_text())
                cells.append(f"{100 * found['top1']:.1f}%, loss {found['loss']:.3f}")
            print(f"| --fps {fps} | {seed} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
