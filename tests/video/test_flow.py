"""Optical flow: its direction, its files, and networks that use it."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from p3d.cli import main
from p3d.data.clip_dataset import EvalClipDataset
from p3d.data.clips import EvalClips, Sample, Unread
from p3d.data.layouts import DataOptions, read_dataset
from p3d.data.loader import TrainLoader, with_scale_of
from p3d.data.splits import SplitRule
from p3d.data.transforms import crop, eval_transform, horizontal_flip
from p3d.data.workers import Videos
from p3d.errors import BadVideoError, OtherFlowError, UserError
from p3d.inference.arrays import FramesInMemory
from p3d.inference.extractor import Extractor
from p3d.inference.feature_options import FeaturesOptions
from p3d.inference.network_input import network_input
from p3d.inference.scorer import Scorer
from p3d.inference.scoring import score_videos
from p3d.inference.timeline.frames import memory_frames, network_frames
from p3d.inference.timeline.motion import read_clips
from p3d.model.network import create_model
from p3d.prepare.check import check_dataset
from p3d.prepare.flow import FlowOptions, compute_flow, write_flow
from p3d.prepare.options import CheckOptions, FramesOptions
from p3d.preprocessing import AUTHORS_FLOW, IMAGENET, FlowMethod
from p3d.system.files import TEMPORARY
from p3d.video import sources
from p3d.video.decode import open_video, read_clip
from p3d.video.flow import ComputedFlow
from p3d.video.flow_file import (
    BOUND,
    PARAMETERS,
    STEP,
    FlowInfo,
    motion_of,
    quantize,
    read_flow_info,
)
from p3d.video.flow_methods import to_gray
from p3d.video.geometry import Box, resize
from p3d.video.tvl1 import TVL1
from p3d.weights.metadata import save_model

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'p3d[flow]'")
if not hasattr(cv2, "optflow"):
    pytest.skip("OpenCV lacks its contrib modules: see p3d[flow]", allow_module_level=True)

RULE = SplitRule(group_pattern=r"_g(\d+)", test_groups=("3",), validation_groups=("2",))
SPLIT_OF = {1: "train", 2: "validation", 3: "test"}
MOTIONS = {"left": (-2, 0), "right": (2, 0)}
FRAMES = 7
METHODS = [
    pytest.param(
        method,
        marks=pytest.mark.skipif(
            method == "tvl1-opencl" and not cv2.ocl.useOpenCL(), reason="no OpenCL device"
        ),
    )
    for method in get_args(FlowMethod)
]


def moving(
    motion: tuple[int, int], frames: int = 3, *, size: tuple[int, int] = (40, 48), seed: int = 0
) -> Tensor:
    """Return a texture moving by (x, y) pixels per frame: uint8 `(frames, height, width, 3)`."""
    noise = np.random.default_rng(seed).standard_normal((160, 160)).astype(np.float32)
    texture = cv2.GaussianBlur(noise, (0, 0), 2.5)
    texture = np.interp(texture, (texture.min(), texture.max()), (0, 255)).astype(np.uint8)
    rolled = [
        np.roll(texture, (motion[1] * number, motion[0] * number), axis=(0, 1))
        for number in range(frames)
    ]
    clip = np.stack(rolled)[:, 40 : 40 + size[0], 40 : 40 + size[1]]
    return torch.from_numpy(np.repeat(clip[..., None], 3, axis=-1))


class Frames:
    """Frames in memory; `asked` collects the frame numbers read."""

    fps = 25.0
    knows_fps = True
    flow = None

    def __init__(self, frames: Tensor) -> None:
        self.frames = frames
        self.num_frames, self.height, self.width = frames.shape[:3]
        self.times = np.arange(self.num_frames) / self.fps
        self.asked: list[int] = []

    def read(self, indices: Sequence[int]) -> Tensor:
        self.asked += indices
        return self.frames[list(indices)]


def flow_of(frames: Tensor, short_side: int = 256) -> Tensor:
    flow = ComputedFlow(Frames(frames), short_side)
    return flow.read(range(flow.num_frames))


def inner_motion(flow: Tensor) -> NDArray[np.float32]:
    """Return the median motion (x, y), without the edges, where new texture appears."""
    inside = motion_of(flow.numpy())[:, 8:-8, 8:-8]
    return np.median(inside, axis=(0, 1, 2))


def mean_difference(first: Tensor, second: Tensor) -> float:
    """Return the mean difference of bytes."""
    return (first.float() - second.float()).abs().mean().item()


def write_lossless(path: Path, frames: Tensor) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25, options={"threads": "1"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0"
        for number, frame in enumerate(frames.numpy()):
            picture = av.VideoFrame.from_ndarray(frame)
            picture.pts = number
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes: textures moving left and textures moving right."""
    root = tmp_path_factory.mktemp("videos")
    for name, motion in MOTIONS.items():
        for group in SPLIT_OF:
            clip = moving(motion, FRAMES, seed=group)
            write_lossless(root / name / f"{name}_g{group}.avi", clip)
    return root


@pytest.fixture(scope="module")
def made(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The flow of all videos."""
    out = tmp_path_factory.mktemp("flow") / "set"
    rule = DataOptions(videos, splits=RULE)
    compute_flow(FlowOptions(rule, out, method="tvl1-opencv", workers=1))
    return out


@pytest.fixture
def options(videos: Path, made: Path, tmp_path: Path) -> FlowOptions:
    """Copies of both, which a test may change."""
    data = shutil.copytree(videos, tmp_path / "data")
    out = shutil.copytree(made, tmp_path / "out")
    return FlowOptions(DataOptions(data, splits=RULE), out, method="tvl1-opencv", workers=2)


# --- stored bytes


@given(st.floats(-60, 60, width=32))
def test_bytes_are_symmetric_and_exact_to_half_a_step(motion: float) -> None:
    there, back = quantize(np.float32([motion, -motion]))
    assert int(there) + int(back) == 256
    if abs(motion) <= BOUND:
        assert abs(float(motion_of(there)) - motion) <= STEP / 2 + 1e-5
    assert 1 <= there <= 255


def test_no_motion_is_128_and_the_bound_is_reached() -> None:
    assert quantize(np.float32([0, 20, -20, 1])).tolist() == [128, 255, 1, 134]


@given(st.integers(0, 2**32 - 1))
def test_flipping_flow_twice_changes_nothing(seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(1, 256, (2, 3, 4, 2), np.uint8)
    clip = torch.from_numpy(pixels)
    assert torch.equal(horizontal_flip(horizontal_flip(clip)), clip)
    assert torch.equal(horizontal_flip(clip)[..., 1], clip[..., 1].flip(2))


def test_flow_is_cropped_and_flipped_like_pixels() -> None:
    clip = torch.from_numpy(np.random.default_rng(0).integers(1, 256, (2, 8, 10, 2), np.uint8))
    box, mirrored = Box(1, 2, 5, 4), Box(1, 10 - 2 - 4, 5, 4)
    assert torch.equal(horizontal_flip(crop(clip, box)), crop(horizontal_flip(clip), mirrored))


def test_resizing_keeps_motion_in_pixels_of_the_file() -> None:
    clip = torch.empty(2, 20, 30, 2, dtype=torch.uint8)
    clip[..., 0], clip[..., 1] = 150, 100
    for size in ((10, 15), (40, 33)):
        small = resize(clip, *size)
        assert small.shape == (2, *size, 2)
        assert small[..., 0].unique().tolist() == [150]
        assert small[..., 1].unique().tolist() == [100]


# --- computing


@pytest.mark.parametrize("motion", [(2, 1), (-1, 2), (0, -2)])
def test_flow_points_in_the_direction_of_motion(motion: tuple[int, int]) -> None:
    np.testing.assert_allclose(inner_motion(flow_of(moving(motion))), motion, atol=0.15)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_the_motion(method: FlowMethod) -> None:
    flow = ComputedFlow(Frames(moving((2, 1))), 256, method)
    np.testing.assert_allclose(inner_motion(flow.read([0, 1])), (2, 1), atol=0.15)


def test_pairs_in_batches_give_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = moving((1, 0), 6)
    whole = ComputedFlow(Frames(frames), 256, "tvl1").read(range(5))
    monkeypatch.setattr("p3d.video.flow.pairs_at_once", lambda *_: 2)
    for chunk in (1, 10**9):
        monkeypatch.setattr(sources, "CHUNK_BYTES", chunk)
        batched = ComputedFlow(Frames(frames), 256, "tvl1")
        assert torch.equal(batched.read(range(5)), whole)
        assert torch.equal(batched.read([0, 2, 4]), whole[[0, 2, 4]])


def test_gray_is_that_of_opencv() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    expected = cv2.cvtColor(frames, cv2.COLOR_RGB2GRAY)
    assert np.array_equal(to_gray(torch.from_numpy(frames)).numpy(), expected)


def test_the_stated_parameters_are_those_used() -> None:
    own = {name.rstrip("_"): value for name, value in asdict(TVL1()).items()}
    assert own | {"median": 5} == PARAMETERS["tvl1"]
    method = cv2.optflow.DualTVL1OpticalFlow_create()
    getters = {"scales": "ScalesNumber", "warps": "WarpingsNumber", "median": "MedianFiltering"}
    for name, value in PARAMETERS["tvl1-opencv"].items():
        getter = getters.get(name) or name.title().replace("_", "")
        assert getattr(method, f"get{getter}")() == value


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_flow_has_one_frame_fewer_but_at_least_one(frames: int) -> None:
    flow = flow_of(moving((0, 0), 1).expand(frames, -1, -1, -1))
    assert flow.shape == (max(1, frames - 1), 40, 48, 2)
    assert flow.unique().tolist() == [128]


def test_motion_is_in_pixels_of_the_scaled_frames() -> None:
    frames = moving((4, 2), 2, size=(80, 100))
    assert flow_of(frames, 40).shape == (1, 40, 50, 2)
    np.testing.assert_allclose(inner_motion(flow_of(frames, 40)), (2, 1), atol=0.15)
    assert flow_of(frames, 500).shape == (1, 80, 100, 2)


def test_a_mirrored_video_has_mirrored_flow() -> None:
    frames = moving((2, 1))
    before = flow_of(frames.flip(2)).int()
    after = horizontal_flip(flow_of(frames)).int()
    # The method itself runs from left to right, so mirroring changes its result slightly.
    assert (before - after).abs().float()[:, 8:-8, 8:-8].mean() < 1


def test_only_frames_that_are_needed_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = moving((1, 0), 5)
    whole = flow_of(frames)
    source = Frames(frames)
    flow = ComputedFlow(source, 256)
    assert torch.equal(flow.read([3, 0, 3]), whole[[3, 0, 3]])
    assert sorted(source.asked) == [0, 1, 3, 4]
    monkeypatch.setattr(sources, "CHUNK_BYTES", 1)
    assert torch.equal(flow.read(range(4)), whole)
    with pytest.raises(IndexError):
        flow.read([4])


@pytest.mark.parametrize("opencv", [None, SimpleNamespace()])
def test_missing_opencv_is_an_error(opencv: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", opencv)
    assert ComputedFlow(Frames(moving((0, 0))), 256, "tvl1").read([0]).unique().tolist() == [128]
    with pytest.raises(UserError, match=r"optical flow needs OpenCV.* install.* tvl1 does without"):
        flow_of(moving((0, 0)))


# --- preparing


def test_prepared_flow_is_a_data_set_of_the_computed_flow(videos: Path, made: Path) -> None:
    for group, split in SPLIT_OF.items():
        dataset = read_dataset(DataOptions(made), split)  # type: ignore[arg-type]
        assert dataset.class_names == ("left", "right")
        for record, (name, motion) in zip(dataset.records, MOTIONS.items(), strict=True):
            assert record.path == made / split / name / f"{name}_g{group}.mkv"
            assert (record.num_frames, record.fps, record.group) == (FRAMES - 1, 25.0, str(group))
            with open_video(record.path) as video:
                assert video.flow == FlowInfo(256, (40, 48))
                clip = video.read(range(FRAMES - 1))
            np.testing.assert_allclose(inner_motion(clip), motion, atol=0.15)
    frames = read_clip(videos / "left" / "left_g1.avi", range(FRAMES))
    assert torch.equal(
        read_clip(made / "train/left/left_g1.mkv", range(FRAMES - 1)), flow_of(frames)
    )


def test_flow_files_are_lossless_and_read_in_any_order(made: Path, videos: Path) -> None:
    path = made / "train" / "left" / "left_g1.mkv"
    whole = read_clip(path, range(FRAMES - 1))
    assert torch.equal(read_clip(path, [5, 2, 2, 4]), whole[[5, 2, 2, 4]])
    grays = read_clip(videos / "left" / "left_g1.avi", [3, 4])[..., 0].contiguous().numpy()
    exact = cv2.optflow.DualTVL1OpticalFlow_create().calc(*grays, None)
    error = np.abs(motion_of(whole[3].numpy()) - exact.clip(-BOUND, BOUND))
    assert error.max() <= STEP / 2 + 1e-5


def test_a_second_run_keeps_whole_files_and_replaces_others(options: FlowOptions) -> None:
    cut = options.out / "train" / "left" / "left_g1.mkv"
    whole = cut.read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    left_over = cut.with_name(f"{TEMPORARY}0-left_g1.mkv")
    left_over.write_bytes(b"half")
    summary = compute_flow(options)
    assert (summary.written, summary.kept, summary.frames) == (1, 5, 6 * (FRAMES - 1))
    assert cut.read_bytes() == whole
    assert not left_over.exists()


def test_another_scale_replaces_files_only_if_it_matters(options: FlowOptions) -> None:
    assert compute_flow(replace(options, short_side=40)).kept == 6
    assert compute_flow(replace(options, short_side=24)).written == 6


def test_flow_by_another_method_is_refused_and_kept(options: FlowOptions) -> None:
    files = {path: path.read_bytes() for path in options.out.rglob("*.mkv")}
    with pytest.raises(UserError, match="holds flow by tvl1-opencv; give --method tvl1-opencv to"):
        compute_flow(replace(options, method="dis"))
    assert {path: path.read_bytes() for path in options.out.rglob("*.mkv")} == files


def test_only_tvl1_takes_a_device(options: FlowOptions) -> None:
    with pytest.raises(UserError, match="--method dis: computes on the CPU only"):
        replace(options, method="dis", device="auto")
    with pytest.raises(UserError, match="tvl1-opencl: computes on the device that OpenCV finds"):
        replace(options, method="tvl1-opencl", device="auto")


def test_errors_of_prepare_flow(options: FlowOptions, capsys: pytest.CaptureFixture[str]) -> None:
    broken = options.data.data / "left" / "left_g3.avi"
    broken.write_bytes(b"no video")
    foreign = options.out / "train" / "left" / "left_g1.mkv"
    words = ["--data", str(options.data.data), "--out", str(options.out), "--group-pattern"]
    words += [r"_g(\d+)", "--test-groups", "3", "--validation-groups", "2"]
    words += ["--method", "tvl1-opencv"]
    assert main(["prepare", "flow", *words]) == 1
    out = capsys.readouterr().out
    assert f"ERROR: {broken}: " in out
    assert "30 flow frames of 5 videos (5 kept, 1 broken)" in out
    shutil.copy(options.data.data / "right" / "right_g1.avi", foreign)
    with pytest.raises(UserError, match="holds no optical flow; move it"):
        compute_flow(options)
    for out in (options.data.data, options.data.data.parent):
        with pytest.raises(UserError, match="choose another folder"):
            compute_flow(replace(options, out=out))
    with pytest.raises(UserError, match="at least 16"):
        replace(options, short_side=8)


def test_flow_has_no_flow_or_frames_of_its_own(made: Path, tmp_path: Path) -> None:
    from p3d.prepare.frames import extract_frames

    again = compute_flow(FlowOptions(DataOptions(made), tmp_path / "flow"))
    assert len(again.broken) == 6
    assert "holds optical flow already" in again.broken[0]
    frames = extract_frames(FramesOptions(DataOptions(made), tmp_path / "frames"))
    assert len(frames.broken) == 6


def test_ucf101_lists_are_copied_for_flow(videos: Path, tmp_path: Path) -> None:
    root = tmp_path / "ucf101"
    (root / "ucfTrainTestlist").mkdir(parents=True)
    (root / "ucfTrainTestlist" / "classInd.txt").write_text("1 Run\n")
    for group, split in SPLIT_OF.items():
        name = f"Run/v_Run_g{group:02d}_c01.avi"
        (root / split / "Run").mkdir(parents=True)
        shutil.copy(videos / "left" / f"left_g{group}.avi", root / split / name)
        (root / "ucfTrainTestlist" / f"{split}list01.txt").write_text(f"{name}\n")
    out = tmp_path / "flow"
    assert compute_flow(FlowOptions(DataOptions(root), out, short_side=16)).written == 3
    (record,) = read_dataset(DataOptions(out), "test").records
    assert record.path == out / "test" / "Run" / "v_Run_g03_c01.mkv"
    with open_video(record.path) as video:
        assert video.flow is not None
        assert video.flow.method == "tvl1", "the default, which needs no OpenCV"


def test_a_flow_data_set_passes_the_check(made: Path) -> None:
    report = check_dataset(CheckOptions(DataOptions(made), frames="all", workers=1))
    assert report.fit
    assert len(report.sound) == 6


def write_tagged(path: Path, tag: str) -> Path:
    """Write three frames of flow with this metadata."""

    class Source(Frames):
        flow = SimpleNamespace(tags=lambda: {"P3D_FLOW": tag})

    write_flow(path, Source(torch.full((3, 16, 16, 2), 128, dtype=torch.uint8)))  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize(
    ("tag", "words"),
    [
        ("nonsense", "flow metadata is damaged"),
        ('{"short_side": 16, "source": [16, 16], "version": 2}', "flow metadata is damaged"),
        (
            '{"short_side": 16, "source": [16, 16], "version": 2, "method": "dis", '
            '"parameters": {"preset": "fast"}}',
            "'dis' with parameters of another version of p3d",
        ),
        (
            '{"short_side": 16, "source": [16, 16], "version": 3, "method": ["x"]}',
            r"by \['x'\] with parameters of another version",
        ),
    ],
)
def test_damaged_or_newer_flow_metadata_is_an_error(tag: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(BadVideoError, match=words), open_video(write_tagged(tmp_path / "a", tag)):
        pass


def test_files_without_a_version_are_by_opencv(tmp_path: Path) -> None:
    old = '{"method": "tvl1", "short_side": 16, "source": [16, 16]}'
    with open_video(write_tagged(tmp_path / "a.mkv", old)) as video:
        assert video.flow == FlowInfo(16, (16, 16), "tvl1-opencv")


@pytest.mark.parametrize("method", [None, *get_args(FlowMethod)])
def test_flow_metadata_is_read_as_written(method: FlowMethod | None) -> None:
    info = FlowInfo(24, (48, 64), method)
    assert read_flow_info(info.tags()) == info


# --- networks

FLOW = replace(AUTHORS_FLOW, num_frames=4, resize=(20, 20), crop=16)


def test_clips_of_flow_have_two_channels(made: Path) -> None:
    dataset = read_dataset(DataOptions(made), "train")
    loader = TrainLoader(dataset, FLOW, batch_size=2, seed=0, flip_probability=0.0)
    (batch,) = next(loader.steps(0))
    assert batch.clips.shape == (2, 4, 16, 16, 2)
    x = batch.clips[..., 0].float().mean((1, 2, 3))
    assert torch.equal(x > 128, batch.labels == 1)  # 1 is "right"
    clips = EvalClipDataset(dataset, FLOW, num_clips=3)
    assert [clips[index][0].shape for index in range(2)] == [(3, 4, 16, 16, 2)] * 2


def test_the_wrong_kind_of_video_is_an_error(made: Path, videos: Path) -> None:
    rgb_videos = read_dataset(DataOptions(videos, splits=RULE), "train")
    flow = read_dataset(DataOptions(made), "train")
    rgb = replace(IMAGENET, num_frames=4, resize=(20, 20), crop=16)
    for dataset, prep, words in (
        (rgb_videos, FLOW, "prepare flow first"),
        (flow, rgb, "holds optical flow, but the network takes pictures"),
        (flow, replace(FLOW, flow_short_side=32), "prepare it with --short-side 32"),
        (flow, replace(FLOW, flow_method="dis"), "by tvl1-opencv, .* it with --method dis"),
    ):
        with pytest.raises(UserError, match=words):
            TrainLoader(dataset, prep, batch_size=1, seed=0)
        with pytest.raises(UserError, match=words):
            EvalClipDataset(dataset, prep)
    mixed = replace(flow, records=(*flow.records, *rgb_videos.records))
    read = EvalClips(Videos(mixed), FLOW, 1)
    assert [type(read[index]) for index in range(4)] == [Sample, Sample, Unread, Unread]


@pytest.mark.parametrize("other", [{"method": "dis"}, {"short_side": 24}])
def test_training_stops_at_other_flow(other: dict[str, Any], options: FlowOptions) -> None:
    elsewhere = replace(options, out=options.out.with_name("other"), **other)
    compute_flow(elsewhere)
    flow, theirs = (read_dataset(DataOptions(each.out), "train") for each in (options, elsewhere))
    mixed = replace(flow, records=(*flow.records, *theirs.records))
    prep = with_scale_of(mixed, FLOW)
    loader = TrainLoader(mixed, prep, batch_size=4, seed=0, on_bad_video="skip")
    with pytest.raises(OtherFlowError, match="its flow was computed") as caught:
        list(loader.steps(0))
    assert type(pickle.loads(pickle.dumps(caught.value))) is OtherFlowError
    model = create_model("p3d63", num_classes=2, modality="flow")
    model.preprocessing = prep
    scorer = Scorer(model, torch.device("cpu"))
    with pytest.raises(OtherFlowError, match="its flow was computed"):
        score_videos(scorer, mixed, num_clips=1, on_bad_video="skip")
    extractor = Extractor(
        FeaturesOptions(DataOptions(options.out), Path(), Path()), model, scorer.device
    )
    with pytest.raises(UserError, match="its flow was computed") as ending:
        extractor.read(theirs.records[0])
    assert not isinstance(ending.value, BadVideoError)  # which --on-bad-video skip would leave out


def test_a_flow_network_goes_on_with_its_kind_of_flow(
    options: FlowOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "w.safetensors"
    model = create_model("p3d63", num_classes=2, modality="flow")
    model.preprocessing = replace(FLOW, flow_method="dis")
    save_model(model, weights)
    words = ("--modality", "flow", "--recipe", "sample", "--plan", "--device", "cpu")
    command = ["train", *words, "--data", str(options.out), "--out", str(tmp_path / "run")]
    assert main([*command, "--weights", str(weights)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "learned from flow by dis, but the data has flow by tvl1-opencv; prepare it" in line
    assert main(["info", str(weights)]) == 0
    assert "flow by dis, short side at most 256" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize("method", METHODS)
def test_every_command_computes_the_flow_of_the_weights(method: FlowMethod) -> None:
    frames = moving((2, 0), 4)
    prep = replace(FLOW, flow_method=method)
    expected = ComputedFlow(Frames(frames), 256, method).read(range(3))
    cpu = torch.device("cpu")
    source = network_input(FramesInMemory(frames, prep), prep, None, cpu)
    # Runs on an OpenCL device differ a little.
    tolerance = 0.2 if method == "tvl1-opencl" else 0.0
    assert mean_difference(source.read(range(3)), expected) <= tolerance
    transform = eval_transform(40, 48, prep)
    taken = network_frames(memory_frames(frames, prep, 25), [prep], cpu)
    [clip] = read_clips([[frame.read()[0] for frame in taken]])
    assert mean_difference(clip, transform(expected)[:, 0]) <= tolerance


def test_a_network_takes_the_scale_and_method_of_its_data(options: FlowOptions) -> None:
    compute_flow(replace(options, short_side=20))
    dataset = read_dataset(DataOptions(options.out), "train")
    assert with_scale_of(dataset, FLOW).flow_short_side == 20
    assert with_scale_of(dataset, FLOW).flow_method == "tvl1-opencv"
    other = options.out.with_name("tvl1")
    compute_flow(replace(options, out=other, method="tvl1"))
    dataset = read_dataset(DataOptions(other), "train")
    assert with_scale_of(dataset, FLOW).flow_method == "tvl1"
    assert with_scale_of(dataset, IMAGENET) == IMAGENET


def test_train_evaluate_and_predict(
    made: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = "--recipe scratch --modality flow --epochs 1 --num-frames 4 --resize 20 20 --crop 16"
    common = "--device cpu --workers 0"
    run = f"train --data {made} --out {tmp_path / 'run'} --batch-size 2 {tiny} {common}"
    assert main(run.split()) == 0
    weights = tmp_path / "run" / "best.safetensors"
    measure = f"eval --data {made} --weights {weights} --clips 2 {common} --out {tmp_path / 'test'}"
    assert main(measure.split()) == 0
    assert json.loads((tmp_path / "test" / "metrics.json").read_text())["videos"] == 2
    capsys.readouterr()

    # The scores are the same for flow from a file and flow computed from RGB.
    files = [made / "test" / "left" / "left_g3.mkv", videos / "left" / "left_g3.avi"]
    ask = f"predict --weights {weights} --json --clips 2 --device cpu"
    assert main([*ask.split(), *map(str, files)]) == 0
    stored, computed = map(json.loads, capsys.readouterr().out.splitlines())
    assert stored["top"] == computed["top"]

    wrong = f"train --data {videos} --out {tmp_path / 'wrong'} {tiny} {common}".split()
    split = ["--group-pattern", r"_g(\d+)", "--test-groups", "3", "--validation-groups", "2"]
    assert main([*wrong, *split]) == 2
    assert "prepare flow first (p3d prepare flow" in capsys.readouterr().err
