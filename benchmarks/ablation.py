"""The paper's ablation on the sample set: which blocks tell a motion from its reverse?

    p3d prepare sample --out demo/sample
    python benchmarks/ablation.py --data demo/sample --out runs/ablation --seeds 5

Trains each variant with each seed (`VARIANT-SEED/` in the folder of `--out`), evaluates it on the
test list, and writes the tables to `ablation.md` there, after every run. A run that was interrupted
is resumed by the same command; one that is evaluated is not repeated. Seeds are the outer loop, so
that the tables compare the same seeds of all variants at any time, and only those.

All arguments after `--` go to `p3d train`.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import statistics
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import torch

from p3d import create_model
from p3d.inference.scorer import Scorer
from p3d.prepare.motions import CLASSES
from p3d.scores.arrays import Floats
from p3d.scores.resampling import Bootstrap, number_groups
from p3d.scores.score_file import ScoreFile, read_score_file
from p3d.system.machine import describe_processor
from p3d.system.text import counted

VARIANTS = ("A", "B", "C", "ABC", "2d")
MOTION_VARIANTS = ("ABC", "2d")
ORDERS = ("ordered", "reversed", "shuffled", "still")
DONE = "evaluated"
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t at 97.5% for 1 to 9 degrees of freedom."""


def call_p3d(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "p3d", *arguments], check=True)


def train_and_evaluate(options: argparse.Namespace, variant: str, seed: int) -> None:
    run = options.out / f"{variant}-{seed}"
    if is_done(run):
        return
    data = ("--data", str(options.data))
    # Without validation the last network counts, and nothing is chosen by a look at other videos.
    chosen = ("--recipe", "sample", "--validation-clips", "0", *options.train)
    which = ("--variant", variant, "--seed", str(seed), "--out", str(run), "--resume")
    call_p3d("train", *data, *chosen, *which)
    frames = "all" if variant in MOTION_VARIANTS else "ordered"
    weights = ("--weights", str(run / "best.safetensors"), "--out", str(run / "test"))
    call_p3d("eval", *data, *weights, "--clips", "1", "--frames", frames, "--backend", "eager")
    for path in (*run.glob("*.safetensors"), *run.glob("checkpoint-*")):  # 300 MB a run
        path.unlink()
    (run / DONE).touch()


def is_done(run: Path) -> bool:
    return (run / DONE).is_file()


def is_right(scores: ScoreFile) -> Floats:
    return (scores.probabilities().argmax(1) == scores.labels).astype(np.float64)


def scenes(scores: ScoreFile) -> list[str]:
    """Return what videos share: a class has the frames of its partner, played backwards."""
    motions = (CLASSES[scores.class_names[label]][0] for label in scores.labels)
    numbers = (group.rpartition("_")[2] for group in scores.groups)
    return [f"{motion} {number}" for motion, number in zip(motions, numbers, strict=True)]


class Answers:
    """What is right, by video and seed, for each variant and order of frames."""

    def __init__(self, out: Path, seeds: list[int]) -> None:
        self.out, self.seeds = out, seeds
        self.groups = number_groups(scenes(self._read("ABC", "ordered", seeds[0])))

    def _read(self, variant: str, order: str, seed: int) -> ScoreFile:
        place = self.out / f"{variant}-{seed}" / "test"
        return read_score_file(place if order == "ordered" else place / order)

    def of(self, variant: str, order: str = "ordered") -> Floats:
        """Return float64 `(videos, seeds)`."""
        return np.stack([is_right(self._read(variant, order, seed)) for seed in self.seeds], 1)

    def interval(self, values: Floats) -> str:
        """Return the 95% interval of the mean of values `(V,)`, over groups of videos."""
        interval = Bootstrap(10_000).interval_of_mean(self.groups, values)
        return "" if interval is None else f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"


def interval_over_seeds(rates: list[float]) -> str:
    """Return Student's 95% interval of the mean of the seeds' accuracies."""
    if len(rates) < 2:
        return ""
    half = T_975[len(rates) - 2] * statistics.stdev(rates) / math.sqrt(len(rates))
    mean = statistics.fmean(rates)
    return f"{100 * max(0.0, mean - half):.1f} to {100 * min(1.0, mean + half):.1f}"


def measure_speed(path: Path, frames: int = 16, size: int = 160, rounds: int = 7) -> None:
    """Time one clip at a time of each variant in turns, in processor time of one thread."""
    torch.set_num_threads(1)
    device, clip = torch.device("cpu"), torch.zeros(1, frames, size, size, 3, dtype=torch.uint8)
    models = {name: create_model("p3d63", num_classes=8, variant=name) for name in VARIANTS}
    scorers = {name: Scorer(model.eval(), device, batch_size=1) for name, model in models.items()}
    times: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(rounds):
        for name, scorer in scorers.items():
            start = time.thread_time()
            scorer(clip)
            times[name].append(time.thread_time() - start)
    figures = {
        name: {
            "parameters": sum(p.numel() for p in model.parameters()),
            "mb": sum(t.nbytes for t in model.state_dict().values()) / 1e6,
            "clips_per_second": 1 / statistics.median(times[name][1:]),
        }
        for name, model in models.items()
    }
    path.write_text(json.dumps(figures, indent=2))


def markdown(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---", *("---:" for _ in header[1:])), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def ablation_table(answers: Answers, costs: dict[str, dict[str, float]]) -> str:
    mixed, rows = answers.of("ABC").mean(1), []
    for variant in VARIANTS:
        right, cost = answers.of(variant), costs[variant]
        rates = right.mean(0).tolist()
        rows.append(
            (
                variant,
                f"{cost['parameters'] / 1e6:.1f} M",
                f"{cost['mb']:.0f}",
                f"{cost['clips_per_second']:.2f}",
                f"{100 * statistics.fmean(rates):.1f}",
                answers.interval(right.mean(1)),
                interval_over_seeds(rates),
                "" if variant == "ABC" else f"{100 * (right.mean(1) - mixed).mean():+.1f}",
                "" if variant == "ABC" else answers.interval(right.mean(1) - mixed),
                " ".join(f"{100 * rate:.1f}" for rate in rates),
            )
        )
    header = ("variant", "parameters", "MB", "clips/s", "top-1, %", "95% over groups")
    more = ("95% over seeds", "minus ABC", "95% over groups", "each seed")
    return markdown((*header, *more), rows)


def motion_table(answers: Answers) -> str:
    rows = []
    for variant in MOTION_VARIANTS:
        ordered = answers.of(variant).mean(1)
        for order in ORDERS:
            right = answers.of(variant, order)
            difference = right.mean(1) - ordered
            is_first = order == "ordered"
            rows.append(
                (
                    f"{variant}, {order}",
                    f"{100 * right.mean():.1f}",
                    answers.interval(right.mean(1)),
                    "" if is_first else f"{100 * difference.mean():+.1f}",
                    "" if is_first else answers.interval(difference),
                    " ".join(f"{100 * rate:.1f}" for rate in right.mean(0)),
                )
            )
    header = ("variant, frames", "top-1, %", "95% over groups", "difference", "95% over groups")
    return markdown((*header, "each seed"), rows)


def write_tables(options: argparse.Namespace) -> None:
    """Write the tables over the seeds that all variants have."""
    done = [
        seed
        for seed in range(1, options.seeds + 1)
        if all(is_done(options.out / f"{name}-{seed}") for name in VARIANTS)
    ]
    if not done:
        return
    costs = json.loads((options.out / "costs.json").read_text())
    answers = Answers(options.out, done)
    videos = len(answers.groups.numbers)
    parts = (
        f"{datetime.now():%Y-%m-%d %H:%M}, {describe_processor()}, torch {torch.__version__}, "
        f"{counted(len(done), 'seed')}, {videos} test videos in {answers.groups.describe()}",
        f"    {shlex.join(['python', *sys.argv])}",
        ablation_table(answers, costs),
        motion_table(answers),
    )
    (options.out / "ablation.md").write_text("\n\n".join(parts) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    own, _, rest = " ".join(map(shlex.quote, sys.argv[1:])).partition(" -- ")
    options = parser.parse_args(shlex.split(own))
    options.train = shlex.split(rest)
    options.out.mkdir(parents=True, exist_ok=True)
    if not (options.out / "costs.json").is_file():
        measure_speed(options.out / "costs.json")
    for seed in range(1, options.seeds + 1):
        for variant in VARIANTS:
            train_and_evaluate(options, variant, seed)
            write_tables(options)


if __name__ == "__main__":
    main()
