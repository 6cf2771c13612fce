"""Time the methods of optical flow, and compare each with OpenCV's TV-L1.

    python benchmarks/flow.py --data UCF101/videos --clips 6 --threads 1 2

From each of some clips, spread over the folder, one pair of frames is taken in the middle. Times
are the median of the rounds, wall clock, in turns; the machine should have nothing else to do. The
last row is OpenCV's TV-L1 on frames changed by 1e-4 gray levels: no other method can agree better.

OpenCL is left out where OpenCV finds no device. Its own runs differ, which another row shows. The
threads of a device that is a processor are set elsewhere, for PoCL by POCL_MAX_PTHREAD_COUNT.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from p3d.errors import UserError
from p3d.inference.arrays import FramesInMemory
from p3d.prepare.flow import write_flow
from p3d.prepare.folder import walk_videos
from p3d.preprocessing import AUTHORS_FLOW, FlowMethod
from p3d.system.machine import describe_processor
from p3d.system.text import format_table
from p3d.video.decode import open_video
from p3d.video.flow_file import quantize
from p3d.video.flow_methods import Estimator, load_opencv, make_estimator, to_gray

REFERENCE: FlowMethod = "tvl1-opencv"
OPENCL: FlowMethod = "tvl1-opencl"


@dataclass
class Result:
    """What was measured of one method.

    Attributes:
        flows: Motion of each pair, float32 `(H, W, 2)`, in pixels.
        repeated: The same, of the last round.
        seconds: Median time of each pair, by number of threads.
    """

    flows: list[NDArray[np.float32]] = field(default_factory=list)
    repeated: list[NDArray[np.float32]] = field(default_factory=list)
    seconds: dict[int, list[float]] = field(default_factory=dict)


def read_pairs(data: Path, clips: int) -> list[Tensor]:
    """Return two gray frames, uint8 `(2, H, W)`, of each of some clips."""
    paths = sorted(walk_videos(data))
    chosen = [paths[round(at)] for at in np.linspace(0, len(paths) - 1, min(clips, len(paths)))]
    pairs = []
    for path in chosen:
        with open_video(path) as video:
            middle = video.num_frames // 2
            pairs.append(to_gray(video.read([middle - 1, middle])))
    return pairs


def make_estimators() -> dict[str, Estimator]:
    """Return all methods that work here."""
    found: dict[str, Estimator] = {}
    for method in get_args(FlowMethod):
        try:
            found[method] = make_estimator(method, torch.device("cpu"))
        except UserError as error:
            if method != OPENCL:
                raise
            print(f"left out: {error}")
    return found


def measure(pairs: Sequence[Tensor], threads: Sequence[int], rounds: int) -> dict[str, Result]:
    """Run all methods on all pairs."""
    estimators = make_estimators()
    results = {method: Result() for method in estimators}
    for count in threads:
        torch.set_num_threads(count)
        load_opencv().setNumThreads(count)
        for pair in pairs:
            times: dict[str, list[float]] = {method: [] for method in results}
            for number in range(rounds):
                for method, estimate in estimators.items():
                    seconds, flow = _time(estimate, pair)
                    times[method].append(seconds)
                    if number == 0 and count == threads[0]:
                        results[method].flows.append(flow)
                    if number == rounds - 1 and count == threads[0]:
                        results[method].repeated.append(flow)
            for method, values in times.items():
                median = statistics.median(values)
                results[method].seconds.setdefault(count, []).append(median)
    return results


def _time(estimate: Estimator, pair: Tensor) -> tuple[float, NDArray[np.float32]]:
    start = time.perf_counter()
    flow = estimate(pair[:1], pair[1:])
    return time.perf_counter() - start, flow[0].numpy()


def with_noise(pairs: Sequence[Tensor]) -> list[NDArray[np.float32]]:
    """Return OpenCV's TV-L1 flow of frames changed by 1e-4 gray levels (standard deviation)."""
    method = load_opencv().optflow.DualTVL1OpticalFlow_create()
    rng = np.random.default_rng(0)
    # OpenCV multiplies floating-point frames by 255.
    noisy = [
        [
            ((frame + 1e-4 * rng.standard_normal(frame.shape)) / 255).astype(np.float32)
            for frame in p
        ]
        for p in (pair.numpy() for pair in pairs)
    ]
    return [method.calc(first, second, None) for first, second in noisy]


def agreement(
    flows: Sequence[NDArray[np.float32]], reference: Sequence[NDArray[np.float32]]
) -> list[str]:
    """Return mean endpoint difference (px), and shares of equal and of neighboring bytes."""
    pairs = list(zip(flows, reference, strict=True))
    distance = np.mean([np.linalg.norm(a - b, axis=-1).mean() for a, b in pairs])
    steps = [np.abs(quantize(a).astype(int) - quantize(b)) for a, b in pairs]
    equal, near = (np.mean([(step <= limit).mean() for step in steps]) for limit in (0, 1))
    return [f"{distance:.4f}", f"{equal:.2%}", f"{near:.2%}"]


def bytes_per_frame(flows: Sequence[NDArray[np.float32]]) -> int:
    """Return the size of a flow file, per frame."""
    frames = np.stack([quantize(flow) for flow in flows])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flow.mkv"
        write_flow(path, FramesInMemory(frames, AUTHORS_FLOW))
        return path.stat().st_size // len(flows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(arguments)
    pairs = read_pairs(args.data, args.clips)
    results = measure(pairs, args.threads, args.rounds)
    versions = f"OpenCV {load_opencv().__version__}, torch {torch.__version__}"
    print(f"{describe_processor()}, {versions}, {len(pairs)} pairs")
    times = [f"ms, {count} thread{'s' * (count > 1)}" for count in args.threads]
    header = ["method", *times, "difference, px", "equal bytes", "within 1", "bytes/frame"]
    rows = []
    reference = results[REFERENCE].flows
    for method, result in results.items():
        ms = [f"{1000 * statistics.mean(result.seconds[count]):.1f}" for count in args.threads]
        size = f"{bytes_per_frame(result.flows):,}"
        rows.append([method, *ms, *agreement(result.flows, reference), size])
    if OPENCL in results:
        again = agreement(results[OPENCL].repeated, results[OPENCL].flows)
        rows.append([f"{OPENCL}, against itself", *["" for _ in times], *again, ""])
    noise = agreement(with_noise(pairs), reference)
    rows.append([f"{REFERENCE}, noise", *["" for _ in times], *noise, ""])
    print(format_table(header, rows))


if __name__ == "__main__":
    main()
