"""What averaged weights, mixup and CutMix do with few videos: paired runs, same seeds and videos.

    python benchmarks/few_videos.py --out few.jsonl --per-class 4 --seeds 3 -- \
        --recipe sample --data demo/sample --clips-per-video 8 --epochs 10

Arguments after `--` are those of `p3d train`; the test list is scored with one clip a video. A run
is: PER-CLASS videos of each class, drawn by the seed (0: all), one arm, one seed. Each run is
scored three times at its end: with its weights, with those averaged (`--average-epochs`, by default
1), and with averaged weights whose batch statistics are computed anew over an epoch's clips.
A line of JSON a run; runs that have one are not repeated.

Arms: the options as they are, `mixup` of each clip with another one of its batch, `cutmix` of each
clip with a box of another one in all its frames, and `constant`, the options with a constant
learning rate of a third.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from p3d.cli.parse import parse_options
from p3d.data.dataset import VideoDataset
from p3d.data.layouts import read_splits
from p3d.data.loader import Batch, TrainLoader
from p3d.inference.scorer import Scorer
from p3d.inference.scoring import score_videos
from p3d.model.network import P3D
from p3d.preprocessing import normalize
from p3d.scores.accuracy import measure
from p3d.system.device import autocast
from p3d.system.distributed import ALONE
from p3d.training.network import prepare_for_training
from p3d.training.options import TrainOptions
from p3d.training.start import build_loader, start_network
from p3d.training.state import TrainState, build_state

CPU = torch.device("cpu")
ARMS = ("plain", "mixup", "cutmix", "constant")
CUTMIX_ALPHA = 1.0
"""As in Yun et al., "CutMix" (2019)."""


def few_of(dataset: VideoDataset, per_class: int, seed: int) -> VideoDataset:
    """Return some videos of each class, drawn by the seed; all of them for 0."""
    if not per_class:
        return dataset
    by_class = defaultdict(list)
    for record in dataset.records:
        by_class[record.label].append(record)
    drawn = []
    for records in by_class.values():
        order = np.random.default_rng(seed).permutation(len(records))[:per_class]
        drawn += [records[index] for index in sorted(order)]
    return replace(dataset, records=tuple(drawn))


def prepare(
    options: TrainOptions, training: VideoDataset, seed: int
) -> tuple[TrainState, TrainLoader]:
    options = replace(options, seed=seed)
    model, _ = start_network(options, training)
    prepare_for_training(model, options.recipe, sync_norms=False, checkpoint_activations=False)
    loader = build_loader(options, model, training, None, ALONE, CPU)
    state = build_state(
        options.recipe,
        model,
        training,
        CPU,
        clips_per_step=loader.clips_per_step,
        steps_per_epoch=loader.steps_per_epoch,
        seed=seed,
        precision=options.compute.precision,
    )
    return state, loader


Mix = Callable[[Tensor, np.random.Generator], tuple[Tensor, Tensor]]
"""Mixes clips with those of the reversed batch; returns them and each one's own share `(N,)`."""


def mixup(pixels: Tensor, rng: np.random.Generator, alpha: float) -> tuple[Tensor, Tensor]:
    drawn = rng.beta(alpha, alpha, len(pixels))
    share = torch.from_numpy(np.maximum(drawn, 1 - drawn)).float()
    wide = share.view(-1, 1, 1, 1, 1)
    return pixels * wide + pixels.flip(0) * (1 - wide), share


def cutmix(pixels: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Paste a box of another clip into all frames of each clip; shares are parts of the area."""
    mixed, share = pixels.clone(), torch.ones(len(pixels))
    height, width = pixels.shape[-2:]
    for place, other in enumerate(pixels.flip(0)):
        side = math.sqrt(1 - rng.beta(CUTMIX_ALPHA, CUTMIX_ALPHA))
        middle = rng.random(2)
        top, bottom = cut(middle[0], side, height)
        left, right = cut(middle[1], side, width)
        mixed[place, ..., top:bottom, left:right] = other[..., top:bottom, left:right]
        share[place] = 1 - (bottom - top) * (right - left) / (height * width)
    return mixed, share


def cut(middle: float, side: float, length: int) -> tuple[int, int]:
    """Return where a box begins and ends in a frame; the middle and the side are fractions."""
    ends = (round(length * (middle - side / 2)), round(length * (middle + side / 2)))
    return max(0, ends[0]), min(length, ends[1])


def mixing(arm: str, alpha: float) -> Mix | None:
    """Return how an arm mixes clips."""
    return {"mixup": partial(mixup, alpha=alpha), "cutmix": cutmix}.get(arm)


def step(state: TrainState, batch: Batch, mix: Mix | None, rng: np.random.Generator) -> None:
    """Make a step with clips as they are, or mixed."""
    pixels = normalize(batch.clips, state.model.preprocessing)
    targets = F.one_hot(batch.labels, state.model.config.num_classes).float()
    if mix is not None:
        pixels, share = mix(pixels, rng)
        targets = targets * share[:, None] + targets.flip(0) * (1 - share)[:, None]
    with autocast(CPU, state.precision):
        logits = state.model(pixels)
    F.cross_entropy(logits.float(), targets).backward()
    limit = state.recipe.clip_gradients
    nn.utils.clip_grad_norm_(state.model.parameters(), math.inf if limit is None else limit)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.schedule.step()
    state.progress.step += 1
    assert state.average is not None
    state.average.update(state.model, state.progress.step)


def with_new_statistics(network: P3D, state: TrainState, loader: TrainLoader) -> P3D:
    """Return a network whose batch statistics are the means over the clips of an epoch."""
    renewed = copy.deepcopy(network).train()
    for norm in renewed.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.training:
            norm.reset_running_stats()
            norm.momentum = None
    with torch.no_grad(), autocast(CPU, state.precision):
        for (batch,) in loader.steps(1_000):
            renewed(normalize(batch.clips, renewed.preprocessing))
    return renewed.eval()


def accuracy(network: P3D, test: VideoDataset) -> tuple[float, float]:
    scorer = Scorer(network, CPU)
    scored = score_videos(scorer, test, num_clips=1, workers=0)
    measured = measure(scored.probabilities, scored.labels)
    return measured.top1, measured.loss


def train(
    options: TrainOptions, splits: Any, arm: str, seed: int, per_class: int, alpha: float
) -> dict[str, Any]:
    recipe = options.recipe
    if arm == "constant":
        recipe = replace(recipe, schedule="constant", lr=recipe.lr / 3)
    recipe = replace(recipe, average_epochs=recipe.average_epochs or 1.0)
    torch.manual_seed(seed)
    started = time.process_time()
    training = few_of(splits["train"], per_class, seed)
    state, loader = prepare(replace(options, recipe=recipe), training, seed)
    rng = np.random.default_rng(seed)
    state.model.train()
    for epoch in range(recipe.epochs):
        for (batch,) in loader.steps(epoch):
            step(state, batch, mixing(arm, alpha), rng)
    assert state.average is not None
    average = state.average.network
    test = splits["test"]
    return {
        "arm": arm,
        "seed": seed,
        "videos": len(training.records),
        "test": len(test.records),
        "steps": state.progress.step,
        "last": accuracy(state.model, test),
        "averaged": accuracy(average, test),
        "new statistics": accuracy(with_new_statistics(average, state, loader), test),
        "processor_seconds": round(time.process_time() - started),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--per-class", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--alpha", type=float, default=0.4)
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    split = sys.argv.index("--")
    own = parser.parse_args(sys.argv[1:split])
    options = parse_options("train", sys.argv[split + 1 :])
    torch.set_num_threads(options.compute.threads or 1)
    splits = read_splits(options.data, ("train", "test"))
    lines = own.out.read_text().splitlines() if own.out.is_file() else []
    done = {(line["arm"], line["seed"]) for line in map(json.loads, lines)}
    for seed in range(1, own.seeds + 1):
        for arm in own.arms:
            if (arm, seed) not in done:
                result = train(options, splits, arm, seed, own.per_class, own.alpha)
                with own.out.open("a") as file:
                    file.write(json.dumps(result) + "\n")
                print(result, flush=True)


if __name__ == "__main__":
    main()
