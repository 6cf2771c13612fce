"""TV-L1 flow in PyTorch: against OpenCV, and against known motion in float64."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from p3d.video.decode import read_clip
from p3d.video.flow_file import quantize
from p3d.video.median import median_5x5
from p3d.video.tvl1 import TVL1
from p3d.video.tvl1_pairs import Pairs
from p3d.video.warping import central_differences, resize_linear, warp


def waves(height: int, width: int, motion: tuple[float, float] = (0, 0)) -> Tensor:
    """Return a sum of waves in [0, 255], moved by (x, y) pixels: float64 `(1, H, W)`."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    total = np.zeros((height, width))
    for angle, phase in rng.uniform(0, 2 * np.pi, (12, 2)):
        length = rng.uniform(8, 24)
        along = (x - motion[0]) * np.cos(angle) + (y - motion[1]) * np.sin(angle)
        total += np.cos(2 * np.pi * along / length + phase)
    return torch.from_numpy(127.5 + 127.5 * total / 12)[None]


def by_opencv(first: Tensor, second: Tensor, options: TVL1) -> Tensor:
    """Return OpenCV's flow of one pair, `(1, 2, H, W)`."""
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'p3d[flow]'")
    if not hasattr(cv2, "optflow"):
        pytest.skip("OpenCV lacks its contrib modules: see p3d[flow]")
    method = cv2.optflow.DualTVL1OpticalFlow_create(
        options.tau,
        options.lambda_,
        options.theta,
        options.scales,
        options.warps,
        options.epsilon,
        options.inner_iterations,
        options.outer_iterations,
        options.scale_step,
        medianFiltering=5 if options.median else 1,
    )
    # OpenCV multiplies floating-point frames by 255.
    frames: list[NDArray[np.float32]] = [f[0].float().numpy() / 255 for f in (first, second)]
    return torch.from_numpy(method.calc(*frames, None)).permute(2, 0, 1)[None]


def endpoint_difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm(dim=1).mean())


# --- parts


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_the_median_is_exact(count: int, height: int, width: int, seed: int) -> None:
    # Few values, so that many are equal.
    pictures = np.random.default_rng(seed).integers(0, 12, (count, height, width)).astype(float)
    padded = np.pad(pictures, ((0, 0), (2, 2), (2, 2)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), (1, 2))
    expected = np.median(windows, axis=(-2, -1))
    assert np.array_equal(median_5x5(torch.from_numpy(pictures)).numpy(), expected)


def test_the_median_of_a_large_picture_has_no_seams() -> None:
    picture = torch.rand(1, 60, 3000, generator=torch.Generator().manual_seed(0))
    parts = [median_5x5(picture[..., at : at + 500]) for at in range(0, 3000, 500)]
    inner = torch.arange(3000) % 500
    whole = median_5x5(picture)
    kept = (inner >= 2) & (inner < 498)
    assert torch.equal(whole[..., kept], torch.cat(parts, -1)[..., kept])


def test_frames_are_warped_to_where_they_moved() -> None:
    images = torch.rand(2, 3, 9, 12, dtype=torch.float64)
    motion = torch.zeros(2, 2, 9, 12, dtype=torch.float64)
    motion[1, 0], motion[1, 1] = 3, -2
    warped = warp(images, motion)
    torch.testing.assert_close(warped[0], images[0])
    torch.testing.assert_close(warped[1, :, 2:, :-3], images[1, :, :-2, 3:])
    assert warped[1, :, 2:, -1].abs().max() < 1e-12


def test_slopes_and_sizes_of_a_plane_are_exact() -> None:
    x = torch.arange(20, dtype=torch.float64).expand(1, 10, 20)
    along_x, along_y = central_differences(3 * x)
    assert along_x[0, :, 1:-1].unique().tolist() == [3]
    assert along_x[0, :, [0, -1]].unique().tolist() == [1.5]
    assert not along_y.any()
    smaller = resize_linear(x, (8, 16), (1.25, 1.25))
    assert smaller.shape == (1, 8, 16)
    torch.testing.assert_close(smaller[0, 0], torch.arange(16).double() * 1.25 + 0.125)


# --- flow


@pytest.mark.parametrize("motion", [(1.5, -0.75), (-2.25, 0.5), (0.0, 3.0)])
def test_a_known_translation_is_found(motion: tuple[float, float]) -> None:
    flow = TVL1()(waves(48, 64), waves(48, 64, motion))
    assert flow.dtype == torch.float64
    errors = (flow[0] - torch.tensor(motion).view(2, 1, 1)).norm(dim=0)
    # OpenCV is as far off: central differences are flatter than the waves.
    assert errors[8:-8, 8:-8].mean() < 0.06


OPTIONS = [
    (TVL1(scales=1, warps=1), 1e-4),
    (TVL1(scales=1, warps=2, median=False), 1e-4),
    (TVL1(scales=2, warps=1, epsilon=0, outer_iterations=3, inner_iterations=4), 1e-4),
    (TVL1(tau=0.2, lambda_=0.1, theta=0.25, scales=3, scale_step=0.7, warps=2), 1e-3),
    (TVL1(), 2e-3),
]


@pytest.mark.parametrize(("options", "limit"), OPTIONS)
@pytest.mark.parametrize("size", [(33, 47), (16, 24), (10, 30)])
def test_opencv_gives_the_same_flow(options: TVL1, limit: float, size: tuple[int, int]) -> None:
    first, second = waves(*size).float(), waves(*size, (1.25, -0.5)).float()
    flow = options(first, second)
    assert flow.dtype == torch.float32
    assert endpoint_difference(flow, by_opencv(first, second, options)) < limit


def test_frames_that_do_not_change_give_exactly_no_motion() -> None:
    for size in ((24, 32), (45, 61)):
        assert not TVL1()(waves(*size).float(), waves(*size).float()).any()


def test_pairs_of_a_batch_do_not_change_each_other() -> None:
    seconds = [waves(24, 32, motion) for motion in ((0.0, 0.0), (0.3, 0.2), (3.0, 1.0))]
    first = waves(24, 32)
    together = TVL1()(first.expand(3, -1, -1).contiguous(), torch.cat(seconds))
    for flow, second in zip(together, seconds, strict=True):
        torch.testing.assert_close(flow, TVL1()(first, second)[0])
    assert not together[0].any()


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (20, 2)])
def test_frames_may_be_tiny_and_without_texture(size: tuple[int, int]) -> None:
    flat = torch.full((2, *size), 90.0)
    assert torch.equal(TVL1()(flat, flat), torch.zeros(2, 2, *size))
    assert TVL1()(flat, flat + 5).isfinite().all()


def test_iterations_and_median_compile_as_whole_graphs() -> None:
    first, second = waves(20, 24), waves(20, 24, (1, 0))
    plain = TVL1(scales=1, warps=1)
    images = torch.stack([second, *central_differences(second)], 1)
    changes = []
    for iterate in (Pairs.iterate, torch.compile(Pairs.iterate, fullgraph=True, backend="eager")):
        pairs = Pairs.start(torch.zeros(1, 2, 20, 24, dtype=torch.float64))
        pairs.linearize(first, images, plain.tau / plain.theta)
        changes += [torch.cat([iterate(pairs, plain.tau, 0.045) for _ in range(5)])]
    torch.testing.assert_close(*changes)
    compiled = torch.compile(median_5x5, fullgraph=True, backend="eager")
    assert torch.equal(compiled(first), median_5x5(first))


def test_matmul_precision_changes_nothing() -> None:
    first, second = waves(20, 24).float(), waves(20, 24, (1, 0)).float()
    options = replace(TVL1(), scales=2)
    before = torch.get_float32_matmul_precision()
    flows = []
    try:
        for precision in ("highest", "medium"):
            torch.set_float32_matmul_precision(precision)
            flows.append(options(first, second))
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(*flows)


@pytest.mark.skipif("P3D_REAL_VIDEOS" not in os.environ, reason="P3D_REAL_VIDEOS is not set")
def test_real_frames_have_the_bytes_of_opencv() -> None:
    clips = sorted((Path(os.environ["P3D_REAL_VIDEOS"]) / "ucf101" / "videos").rglob("*.avi"))[:2]
    for clip in clips:
        frames = read_clip(clip, [10, 11]).float().mean(-1)[:, 60:188, 80:240]
        first, second = frames[:1].round(), frames[1:].round()
        flows = TVL1()(first, second), by_opencv(first, second, TVL1())
        ours, theirs = (quantize(flow.numpy()).astype(int) for flow in flows)
        assert (abs(ours - theirs) <= 1).mean() > 0.95
