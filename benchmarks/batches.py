"""Time clips of several sizes in batches of several sizes, on the CPU.

python benchmarks/batches.py
"""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from p3d.inference.scorer import Scorer
from p3d.model.network import create_model
from p3d.system.device import Precision
from p3d.system.machine import describe_processor

CLIPS = 16
BATCHES = (1, 2, 4, 8, 16)
SHAPES = ((8, 40), (8, 64), (16, 80), (16, 112), (16, 160))
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
ROUNDS = 3


def milliseconds(scorer: Scorer, clips: torch.Tensor) -> float:
    """Return the best time of a clip in some rounds, after one batch that does not count."""
    scorer(clips[: scorer.batch_size])
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        scorer(clips)
        times.append(time.perf_counter() - start)
    return 1000 * min(times) / len(clips)


def main() -> None:
    print(f"{describe_processor()}, {torch.get_num_threads()} threads, P3D-63, ms a clip")
    model = create_model("p3d63", num_classes=101)
    for frames, size in SHAPES:
        model.preprocessing = replace(
            model.preprocessing, num_frames=frames, crop=size, resize=(size, size)
        )
        clips = torch.randint(0, 256, (CLIPS, frames, size, size, 3), dtype=torch.uint8)
        for precision in PRECISIONS:
            times = [
                milliseconds(Scorer(model, torch.device("cpu"), precision, batch_size=batch), clips)
                for batch in BATCHES
            ]
            shown = "  ".join(
                f"{batch}: {value:.1f}" for batch, value in zip(BATCHES, times, strict=True)
            )
            print(f"{frames}x{size}x{size} {precision}  {shown}")


if __name__ == "__main__":
    main()
