"""OpenCV's TV-L1 on an OpenCL device: on the device or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.videos import write_video
from p3d.data.layouts import DataOptions
from p3d.errors import UserError
from p3d.model.network import create_model
from p3d.prepare.flow import FlowOptions, compute_flow
from p3d.video.decode import open_video
from p3d.video.tvl1_opencl import OpenCLTVL1
from p3d.weights.metadata import save_model

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'p3d[flow]'")
if not hasattr(cv2, "optflow"):
    pytest.skip("OpenCV lacks its contrib modules: see p3d[flow]", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("narrow_networks")
needs_device = pytest.mark.skipif(not cv2.ocl.useOpenCL(), reason="no OpenCL device")


def pair(motion: tuple[int, int], side: int = 48) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return two frames of a texture that moves by (x, y) pixels."""
    noise = np.random.default_rng(sum(motion)).standard_normal((side, side))
    texture = cv2.GaussianBlur(noise, (0, 0), 2.5)
    first = np.interp(texture, (texture.min(), texture.max()), (0, 255)).astype(np.uint8)
    return first, np.roll(first, motion[::-1], axis=(0, 1))


def difference(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Return the mean distance of the ends of two motions, in pixels."""
    return float(np.linalg.norm(first - second, axis=-1).mean())


RUN = """
import contextlib, io, json, sys
from p3d.cli import main
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as messages:
        code = main(words)
    print(json.dumps([code, messages.getvalue().splitlines()]))
"""


def run(commands: list[list[str]], **variables: str) -> list[tuple[int, list[str]]]:
    """Run commands in one process with these environment variables.

    Returns:
        The exit code and the lines of standard error of each.
    """
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(commands)],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=120,
    )
    lines = done.stdout.splitlines()[-len(commands) :]  # a compiler may have written the others
    return [tuple(json.loads(line)) for line in lines]


@pytest.fixture
def commands(tmp_path: Path) -> list[list[str]]:
    """Return commands that compute flow by OpenCL."""
    model = create_model("p3d63", num_classes=2, modality="flow")
    model.preprocessing = replace(
        model.preprocessing, num_frames=4, crop=32, resize=(36, 40), flow_method="tvl1-opencl"
    )
    save_model(model, tmp_path / "flow.safetensors")
    film = tmp_path / "data" / "train" / "Walk" / "film.avi"
    film.parent.mkdir(parents=True)
    write_video(film, 4)
    weights = ["--weights", str(tmp_path / "flow.safetensors"), "--device", "cpu"]
    data = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    return [
        ["prepare", "flow", "--method", "tvl1-opencl", "--workers", "1", *data],
        ["predict", *weights, str(film)],
        ["timeline", *weights, str(film)],
    ]


def test_without_a_device_there_is_no_flow(commands: list[list[str]], tmp_path: Path) -> None:
    answers = run(commands, OPENCV_OPENCL_RUNTIME="disabled")
    assert [code for code, _ in answers] == [2, 2, 2]
    for _, messages in answers:
        assert "the method tvl1-opencl needs an OpenCL device" in messages[-1]
        assert "pocl-opencl-icd" in messages[-1]
        assert len(messages) == 1
    assert not (tmp_path / "out").exists()


@needs_device
def test_a_device_that_cannot_compile_is_refused(commands: list[list[str]]) -> None:
    broken = {"OPENCV_OPENCL_BUILD_EXTRA_OPTIONS": "-Dfloat=foo", "OPENCV_OPENCL_CACHE_ENABLE": "0"}
    [(code, messages)] = run(commands[:1], **broken)
    assert code == 2
    assert "tvl1-opencl does not run on the OpenCL device" in messages[-1]


@needs_device
def test_flow_is_close_to_that_of_the_cpu() -> None:
    for side in (16, 48):
        first, second = pair((2, 1), side)
        on_cpu = cv2.optflow.DualTVL1OpticalFlow_create().calc(first, second, None)
        found = OpenCLTVL1(cv2)(first, second)
        assert not np.array_equal(found, on_cpu), "the CPU computed it"
        inner = slice(side // 4, -side // 4), slice(side // 4, -side // 4)
        assert difference(found[inner], on_cpu[inner]) < 0.1


@needs_device
def test_flow_does_not_depend_on_the_pair_before() -> None:
    method = OpenCLTVL1(cv2)
    alone = [OpenCLTVL1(cv2)(*pair(motion)) for motion in ((3, 0), (0, 2))]
    for index in (0, 1, 0, 1):
        found = method(*pair(((3, 0), (0, 2))[index]))
        assert difference(found, alone[index]) < 0.1


@needs_device
def test_each_thread_turns_opencl_on() -> None:
    method = OpenCLTVL1(cv2)
    expected = method(*pair((2, 0)))

    def compute() -> NDArray[np.float32]:
        cv2.ocl.setUseOpenCL(False)
        return method(*pair((2, 0)))

    with ThreadPoolExecutor(1) as thread:
        assert difference(thread.submit(compute).result(), expected) < 0.1


@needs_device
def test_a_frame_that_the_device_refuses_is_an_error() -> None:
    with pytest.raises(UserError, match=r"tvl1-opencl fails on this OpenCL device \(.*\); use"):
        OpenCLTVL1(cv2)(np.zeros((16, 16), np.uint8), np.zeros((16, 17), np.uint8))


@needs_device
def test_processes_prepare_flow(tmp_path: Path) -> None:
    (tmp_path / "data" / "train" / "Walk").mkdir(parents=True)
    for name in ("first", "second"):
        write_video(tmp_path / "data" / "train" / "Walk" / f"{name}.avi", 4)
    data = DataOptions(tmp_path / "data")
    out = tmp_path / "out"
    assert compute_flow(FlowOptions(data, out, method="tvl1-opencl", workers=2)).written == 2
    with open_video(out / "train" / "Walk" / "second.mkv") as video:
        assert video.flow is not None
        assert video.flow.method == "tvl1-opencl"
    with pytest.raises(UserError, match="holds flow by tvl1-opencl; give --method tvl1-opencl to"):
        compute_flow(FlowOptions(data, out, method="tvl1-opencv", workers=2))
