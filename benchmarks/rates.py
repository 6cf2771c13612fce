"""Accuracy at other frame rates: a network trained with --fps against one trained natively.

The sample set is written again at twice its rate (each picture twice) and at half its rate (every
other picture), so that a second holds the same motion. The networks are trained on the set at its
own rate, and measured on all three. Since that rate is the one given to --fps, both training runs
draw the same clips and end with the same weights (tests/training/test_fps.py), so one is enough.

    python benchmarks/rates.py --out /tmp/rates
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av

from p3d.data.layouts import read_splits
from p3d.data.manifest import write_manifest
from p3d.prepare.sample import FPS
from p3d.weights.loading import load_model
from p3d.weights.metadata import save_model

RATES = {"half": 0.5, "own": 1.0, "double": 2.0}


def reencode(source: Path, target: Path, factor: float) -> None:
    """Write a video at `factor` times its rate: pictures are repeated or left out."""
    target.parent.mkdir(parents=True, exist_ok=True)
    rate = Fraction(FPS) * Fraction(factor)
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        pictures = [frame.to_ndarray(format="rgb24") for frame in old.decode(video=0)]
        stream = new.add_stream("mjpeg", rate=rate, options={"qmin": "2", "qmax": "2"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuvj420p"
        for number in range(int(len(pictures) * factor)):
            frame = av.VideoFrame.from_ndarray(pictures[int(number / factor)])
            frame.time_base, frame.pts = 1 / rate, number
            new.mux(stream.encode(frame))
        new.mux(stream.encode(None))


def write_set(sample: Path, out: Path, factor: float) -> Path:
    """Write the sample set at another rate with a manifest, and return the manifest."""
    manifest = out / "manifest.csv"
    if manifest.exists():
        return manifest
    splits = read_splits(sample)
    for split, dataset in splits.items():
        for record in dataset.records:
            label = dataset.class_names[record.label]
            reencode(record.path, out / split / label / record.path.name, factor)
    names = splits["train"].class_names
    moved = {
        split: [
            replace(r, path=out / split / names[r.label] / r.path.name) for r in dataset.records
        ]
        for split, dataset in splits.items()
    }
    write_manifest(manifest, names, moved)
    return manifest


def p3d(*words: object) -> None:
    """Run a command of p3d."""
    subprocess.run([sys.executable, "-m", "p3d", *map(str, words)], check=True)


def main() -> None:
    """Train, measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=42)
    options = parser.parse_args()
    out: Path = options.out
    p3d("prepare", "sample", "--out", out / "sample")
    sets = {name: write_set(out / "sample", out / name, factor) for name, factor in RATES.items()}
    run = out / f"native-{options.seed}"
    p3d(
        *("train", "--recipe", "sample", "--data", sets["own"], "--fps", "native", "--out", run),
        *("--epochs", options.epochs, "--seed", options.seed, "--threads", 1, "--resume"),
    )
    model = load_model(run)
    model.preprocessing = replace(model.preprocessing, fps=float(FPS))
    save_model(model, out / "timed.safetensors")
    titles = " | ".join(f"{name}, {FPS * factor:g} fps" for name, factor in RATES.items())
    print(f"| trained with | {titles} |")
    for fps, weights in (("native", run), (FPS, out / "timed.safetensors")):
        cells = []
        for name, manifest in sets.items():
            place = out / f"{fps}-on-{name}"
            p3d(
                *("eval", "--data", manifest, "--weights", weights, "--out", place),
                *("--clips", 1, "--threads", 1),
            )
            found = json.loads((place / "metrics.json").read_text())
            cells.append(f"{100 * found['top1']:.1f}%, loss {found['loss']:.3f}")
        print(f"| --fps {fps} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
