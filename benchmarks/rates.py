"""Accuracy at other frame rates, of networks trained with --fps and without.

The sample set is written again at half its rate (every other picture) and at twice its rate (each
picture twice), so that a second holds the same motion at all three.

`own`: a network is trained on the set at its own rate, and measured on all three. Since that rate
is the one given to --fps, both training runs draw the same clips and end with the same weights
(tests/training/test_fps.py), so one is enough.

`mixed`: the pictures are shown at 25 a second, and each training and validation video is written at
one of the three rates, in turns, as where videos come from many cameras. A network is trained for
each choice of --fps, at equal steps, and measured on the test videos at each rate.

    python benchmarks/rates.py own --out /tmp/rates
    python benchmarks/rates.py mixed --out /tmp/mixed -- --precision bf16
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import cycle
from pathlib import Path

import av

from p3d.data.dataset import VideoRecord
from p3d.data.layouts import read_splits
from p3d.data.manifest_writer import write_manifest
from p3d.prepare.sample import FPS
from p3d.weights.loading import load_model
from p3d.weights.metadata import save_model

FACTORS = {"half": 0.5, "own": 1.0, "double": 2.0}
MIXED_FPS = 25
"""Pictures a second of the sample set in `mixed`, the rate of the recipes."""
CHOICES = ("native", "25", "12.5")


def reencode(source: Path, target: Path, fps: int, factor: float) -> None:
    """Write a video at `factor` times a rate: pictures are repeated or left out."""
    target.parent.mkdir(parents=True, exist_ok=True)
    rate = Fraction(fps) * Fraction(factor)
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


def write_set(sample: Path, out: Path, fps: int, factors: Mapping[str, Sequence[float]]) -> Path:
    """Write splits of the sample set at other rates with a manifest, and return the manifest.

    Args:
        sample: The sample set.
        out: Folder of the new one.
        fps: Its pictures a second.
        factors: For each split that is written, the factors of its videos, which take turns.
    """
    manifest = out / "manifest.csv"
    if manifest.exists():
        return manifest
    datasets = read_splits(sample)
    names = datasets["train"].class_names
    written: dict[str, list[VideoRecord]] = {}
    for split, turns in factors.items():
        for record, factor in zip(datasets[split].records, cycle(turns)):
            target = out / split / names[record.label] / record.path.name
            reencode(record.path, target, fps, factor)
            written.setdefault(split, []).append(replace(record, path=target))
    write_manifest(manifest, names, written)
    return manifest


def p3d(*words: object) -> None:
    """Run a command of p3d."""
    subprocess.run([sys.executable, "-m", "p3d", *map(str, words)], check=True)


def train(options: argparse.Namespace, data: Path, fps: str) -> Path:
    """Train with the recipe of the sample set, and return the run's folder."""
    run: Path = options.out / f"{fps}-{options.seed}"
    p3d(
        *("train", "--recipe", "sample", "--data", data, "--fps", fps, "--out", run),
        *("--epochs", options.epochs, "--seed", options.seed, "--threads", 1, "--resume"),
        *options.words,
    )
    return run


def measure(weights: Path, data: Path, place: Path) -> str:
    """Return accuracy and loss on the test videos of a set, one clip a video."""
    p3d(
        *("eval", "--data", data, "--weights", weights, "--out", place),
        *("--clips", 1, "--threads", 1),
    )
    found = json.loads((place / "metrics.json").read_text())
    return f"{100 * found['top1']:.1f}%, loss {found['loss']:.3f}"


def print_table(fps: int, rows: Mapping[str, Sequence[str]]) -> None:
    titles = " | ".join(f"{name}, {fps * factor:g} fps" for name, factor in FACTORS.items())
    print(f"| trained with | {titles} |\n| --- | --- | --- | --- |")
    for choice, cells in rows.items():
        print(f"| `--fps {choice}` | {' | '.join(cells)} |")


def own(options: argparse.Namespace) -> None:
    """Train on one rate, and measure on all."""
    out: Path = options.out
    splits = ("train", "validation", "test")
    sets = {
        name: write_set(out / "sample", out / name, FPS, {split: [factor] for split in splits})
        for name, factor in FACTORS.items()
    }
    run = train(options, sets["own"], "native")
    model = load_model(run)
    model.preprocessing = replace(model.preprocessing, fps=float(FPS))
    save_model(model, out / "timed.safetensors")
    rows = {
        choice: [measure(weights, data, out / f"{choice}-on-{name}") for name, data in sets.items()]
        for choice, weights in (("native", run), (str(FPS), out / "timed.safetensors"))
    }
    print_table(FPS, rows)


def mixed(options: argparse.Namespace) -> None:
    """Train on all rates, once for each choice of --fps, and measure on each."""
    out: Path = options.out
    turns = list(FACTORS.values())
    data = write_set(
        out / "sample", out / "mixed", MIXED_FPS, {"train": turns, "validation": turns}
    )
    tests = {
        name: write_set(out / "sample", out / name, MIXED_FPS, {"test": [factor]})
        for name, factor in FACTORS.items()
    }
    rows = {}
    for choice in options.choices:
        run = train(options, data, choice)
        rows[choice] = [
            measure(run, test, out / f"{choice}-{options.seed}-on-{name}")
            for name, test in tests.items()
        ]
        print_table(MIXED_FPS, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    commands = parser.add_subparsers(required=True)
    for run in (own, mixed):
        command = commands.add_parser(run.__name__, help=run.__doc__)
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--epochs", type=int, default=6)
        command.add_argument("--seed", type=int, default=42)
        if run is mixed:
            command.add_argument("--choices", nargs="+", default=CHOICES, help="values of --fps")
        command.add_argument("words", nargs="*", help="options of p3d train, after --")
        command.set_defaults(run=run)
    options = parser.parse_args()
    p3d("prepare", "sample", "--out", options.out / "sample")
    options.run(options)


if __name__ == "__main__":
    main()
