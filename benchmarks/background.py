"""Timelines of a network that is trained with --background against one that is not.

Both see equally many clips of actions: as many epochs, with as many clips of each segment. The
background comes on top, so that its run has more steps. Options for the segments are fitted to the
validation videos, once for F1 and once for mAP, as `p3d calibrate --truth` does, and measured on
the test videos beside the defaults.

    python benchmarks/timeline.py join --sample demo/sample --real videos --out joined \
        --splits train validation test --rates 25
    python benchmarks/background.py --joined joined --out runs/background -- --precision bf16
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

from p3d.evaluation.timeline_fit import Goal, fit_cut
from p3d.inference.timeline.cut_options import CutOptions
from p3d.inference.timeline.score_log import read_kept_scores
from p3d.inference.timeline.timeline import Timeline, make_timeline
from p3d.scores.detection import Found, detection_figures
from p3d.scores.segment_file import read_segments, video_key
from p3d.system.text import format_table

ARMS = {"plain": (), "background": ("--background",)}
HEADER = ("arm, options", "average mAP", "mAP at 0.5", "F1@10", "F1@25", "F1@50", "found", "true")


def p3d(*words: object) -> None:
    """Run a command of p3d."""
    subprocess.run([sys.executable, "-m", "p3d", *map(str, words)], check=True)


def train(options: argparse.Namespace, arm: str) -> Path:
    """Train a network, and return the folder of its run."""
    run: Path = options.out / f"{arm}-{options.seed}"
    p3d(
        *("train", "--recipe", "sample", "--data", options.joined / "25fps.csv", "--out", run),
        *("--fps", 25, "--epochs", options.epochs, "--clips-per-video", 2, "--seed", options.seed),
        *("--threads", 1, "--resume", *ARMS[arm], *options.words),
    )
    return run


def timelines(options: argparse.Namespace, run: Path, split: str) -> list[Timeline]:
    """Score the windows of the videos of a split."""
    videos = sorted((options.joined / split).glob("25fps-*.mp4"))
    scores = run / f"{split}.scores"
    p3d("timeline", *videos, "--weights", run, "--scores", scores, "--threads", 1, "--json")
    kept = read_kept_scores(scores)
    return [
        make_timeline(Path(video.name), video.windows, video.duration, kept.class_names, 1.0)
        for video in kept.videos
    ]


def figures(found: Iterable[Timeline], truth: list[Found], cut: CutOptions) -> list[str]:
    """Return the cells of a row."""
    segments = [
        Found(video_key(timeline.name), *segment)
        for timeline in found
        for segment in timeline.cut(cut).segments
    ]
    values = detection_figures(segments, truth)
    precision = values.mean_average_precision
    shares = (precision.mean(), precision[0], *values.f1)
    counts = (values.found_segments, values.true_segments)
    return [*(f"{100 * share:.1f}%" for share in shares), *map(str, counts)]


def main() -> None:
    """Train both, and print a row for each network and set of options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--joined", type=Path, required=True, help="of benchmarks/timeline.py join")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("words", nargs="*", help="options of p3d train, after --")
    options = parser.parse_args()
    truth = {
        split: read_segments([options.joined / split / "25fps.csv"])
        for split in ("validation", "test")
    }
    rows = []
    for arm in ARMS:
        run = train(options, arm)
        validation, test = (timelines(options, run, split) for split in truth)
        cuts = {"default": CutOptions()}
        cuts |= {
            goal: fit_cut(validation, truth["validation"], goal).cut for goal in get_args(Goal)
        }
        for name, cut in cuts.items():
            rows.append((f"{arm}, {name}", *figures(test, truth["test"], cut)))
    print(format_table(HEADER, rows))


if __name__ == "__main__":
    main()
