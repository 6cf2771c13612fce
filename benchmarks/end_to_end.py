"""Time videos from file to label, against the naive loop.

    python benchmarks/end_to_end.py --data $P3D_REAL_VIDEOS --videos 20 --rounds 3

In the naive loop each clip of a video is decoded apart (open, seek, decode, resize the frames),
and scored alone by a plain network of Conv3d layers in fp32. Both networks have the same weights.
Methods take turns; the median round counts, and the time to compile does not. Videos are right if
their folder has the name of the class. Without --weights the network is untrained: then "auto"
takes as many clips as an untrained network needs, which says nothing about a trained one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from p3d.bench.backends import matrix_rate
from p3d.data.clips import read_eval_clips
from p3d.inference.predictor import Predictor
from p3d.model.config import P3DConfig
from p3d.model.network import P3D
from p3d.model.plain import PlainP3D, plain_twin
from p3d.prepare.folder import walk_videos
from p3d.preprocessing import normalize
from p3d.system.device import Precision, set_up_cpu
from p3d.system.machine import describe_processor
from p3d.system.text import format_table
from p3d.video.decode import open_video
from p3d.video.index_cache import INDICES
from p3d.weights.loading import convert_state_dict, load_model
from p3d.weights.port import to_port

Method = Callable[[Sequence[Path]], "list[Answer]"]
DEVICE = torch.device("cpu")
HEADER = ("method", "videos/s", "times naive", "clips", "same answer", "right")


class Answer(NamedTuple):
    """The class of a video, and how many clips it took."""

    label: int
    num_clips: int


def networks(weights: Path | None, name: str) -> tuple[P3D, nn.Module]:
    """Return a network and its plain twin with the same weights."""
    if weights is not None:
        model = load_model(weights)
        plain = PlainP3D(model.config)
        shapes = {key: value.shape for key, value in plain.state_dict().items()}
        ported = to_port(model.state_dict())
        plain.load_state_dict({key: ported[key].view(shape) for key, shape in shapes.items()})
        return model, plain.eval()
    config = P3DConfig(name, num_classes=101)  # type: ignore[arg-type]
    plain = plain_twin(config)
    model = P3D(config)
    model.load_state_dict(convert_state_dict(plain.state_dict()))
    return model, plain.eval()


def naive(model: P3D, plain: nn.Module, num_clips: int) -> Method:
    """Return the naive loop: each clip decoded apart, in fp32, one after another."""

    @torch.inference_mode()
    def answer(path: Path) -> Answer:
        scores = []
        for number in range(num_clips):
            with open_video(path) as video:
                clip = read_eval_clips(video, model.preprocessing, num_clips, numbers=[number])
            pixels = normalize(clip, model.preprocessing).contiguous()
            scores.append(plain(pixels).softmax(1))
        return Answer(int(torch.cat(scores).mean(0).argmax()), num_clips)

    return lambda paths: [answer(path) for path in paths]


def ours(predictor: Predictor) -> Method:
    """Return prediction as `p3d predict` does it."""
    return lambda paths: [
        Answer(int(found.scores.argmax()), found.num_clips) for found in predictor([*paths])
    ]


def methods(
    model: P3D, plain: nn.Module, precision: Precision, num_clips: int, videos: int
) -> dict[str, Method]:
    """Return all methods for a list of `videos` by name, the naive loop first."""
    found = {f"naive loop, fp32, {num_clips} clips": naive(model, plain, num_clips)}
    for clips in (num_clips, "auto"):
        for backend in ("eager", "compiled"):
            predictor = Predictor(
                model,
                device="cpu",
                precision=precision,
                clips=clips,  # type: ignore[arg-type]
                backend=backend,  # type: ignore[arg-type]
                videos=videos,
            )
            found[f"p3d, {precision}, {clips} clips, {backend}"] = ours(predictor)
    return found


def measure(
    todo: dict[str, Method], paths: Sequence[Path], rounds: int
) -> dict[str, tuple[float, list[Answer]]]:
    """Return each method's median seconds for all videos, and its answers.

    Indices of the videos are forgotten before each turn: a user's videos are new.
    """
    seconds: dict[str, list[float]] = {name: [] for name in todo}
    answers: dict[str, list[Answer]] = {}
    for _ in range(rounds):
        for name, method in todo.items():
            INDICES.clear()
            started = time.perf_counter()
            answers[name] = method(paths)
            seconds[name].append(time.perf_counter() - started)
    return {name: (statistics.median(times), answers[name]) for name, times in seconds.items()}


def table_rows(
    found: dict[str, tuple[float, list[Answer]]],
    paths: Sequence[Path],
    class_names: Sequence[str] | None,
) -> list[tuple[str, ...]]:
    """Return a row of the table for each method; the first one is the naive loop."""
    (slowest, expected), *_ = found.values()
    names = class_names or ()
    labels = [names.index(path.parent.name) if path.parent.name in names else -1 for path in paths]
    rows = []
    for name, (seconds, answers) in found.items():
        same = sum(a.label == b.label for a, b in zip(answers, expected, strict=True))
        right = sum(a.label == b for a, b in zip(answers, labels, strict=True))
        mean_clips = statistics.fmean(answer.num_clips for answer in answers)
        row = (f"{len(paths) / seconds:.2f}", f"{slowest / seconds:.1f}", f"{mean_clips:.1f}")
        rows.append((name, *row, f"{same}/{len(paths)}", f"{right}/{len(paths)}" if names else "-"))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--network", default="p3d63")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--videos", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    set_up_cpu(None)
    paths = sorted(walk_videos(options.data))[: options.videos]
    model, plain = networks(options.weights, options.network)
    todo = methods(model, plain, options.precision, options.clips, len(paths))
    for method in todo.values():  # the first call is slower
        method(paths[:1])
    found = measure(todo, paths, options.rounds)
    rows = table_rows(found, paths, model.class_names)
    print(f"{describe_processor()}, {torch.get_num_threads()} threads, {len(paths)} videos")
    for precision in ("fp32", options.precision):
        print(f"matrix rate {precision}: {matrix_rate(DEVICE, precision) / 1e9:.0f} GFLOP/s")
    print(format_table(HEADER, rows))


if __name__ == "__main__":
    main()
