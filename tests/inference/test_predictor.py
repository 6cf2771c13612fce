"""Predictions, compared with an independent implementation of the authors' protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from helpers.videos import picture, write_video
from helpers.weight_files import randomize
from p3d.data.clips import read_eval_clips
from p3d.errors import BadVideoError, UserError
from p3d.inference.prediction import Prediction
from p3d.inference.predictor import Predictor
from p3d.inference.scorer import mean_probabilities
from p3d.inference.settled import clips_used, halving_order
from p3d.model.network import P3D, create_model
from p3d.preprocessing import AUTHORS, IMAGENET, Preprocessing, normalize
from p3d.system.device import Precision
from p3d.video.decode import open_video
from p3d.weights.metadata import save_model

pytestmark = pytest.mark.usefixtures("narrow_networks")

Pixels = NDArray[np.float32]
SMALL = Preprocessing(num_frames=8, frame_stride=2, resize=(48, 64), crop=40)


def network(preprocessing: Preprocessing) -> P3D:
    """Return P3D-63 with random weights whose scores differ between clips of the tests' videos.

    With random weights alone, one class would win for every input. So the batch normalizations get
    the statistics of two clips, and the classifier separates the two.
    """
    model = create_model("p3d63", num_classes=5)
    model.load_state_dict(randomize(model.state_dict()))
    model.preprocessing = preprocessing
    steps = np.arange(preprocessing.num_frames)
    size = preprocessing.crop
    frames = [[picture(i, height=size, width=size) for i in start + steps] for start in (0, 20)]
    clips = normalize(torch.from_numpy(np.array(frames)), preprocessing)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train().features(clips)
        first, second = model.eval().features(clips)
        model.fc.weight /= 5 * (model.fc.weight @ (second - first)).std()
        model.fc.bias.copy_(model.fc.weight @ -(first + second) / 2)
    return model


def decode(path: Path) -> NDArray[np.uint8]:
    """Return all frames of a file in order: uint8 (T, H, W, 3)."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def authors_pixels(frames: NDArray[np.uint8]) -> Pixels:
    """Return BGR pixels in [0, 255] minus the mean of Caffe's networks."""
    return frames[..., ::-1].astype(np.float32) - np.array([104, 117, 123], np.float32)


def imagenet_pixels(frames: NDArray[np.uint8]) -> Pixels:
    """Return RGB pixels in [0, 1], normalized by ImageNet's mean and standard deviation."""
    mean, std = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)
    return (frames.astype(np.float32) / 255 - mean) / std


def clip_scores(model: P3D, pixels: Pixels, starts: Sequence[int]) -> Pixels:
    """Return softmax scores (clips, classes) of 16-frame clips, center-cropped from 182x242."""
    scores = []
    for start in starts:
        clip = pixels[start : start + 16, 11:171, 41:201].transpose(3, 0, 1, 2)
        with torch.no_grad():
            logits = model(torch.from_numpy(np.ascontiguousarray(clip))[None])[0].double().numpy()
        exponentials = np.exp(logits - logits.max())
        scores.append(exponentials / exponentials.sum())
    return np.array(scores, np.float32)


def difference(first: torch.Tensor, second: Pixels) -> float:
    """Return the largest absolute difference."""
    return float(np.abs(first.numpy() - second).max())


@pytest.fixture(scope="module")
def full_size_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a video of 40 frames of 182x242, which need no resizing."""
    return write_video(tmp_path_factory.mktemp("videos") / "a.avi", 40, size=(182, 242), b_frames=2)


@pytest.mark.parametrize(
    ("preprocessing", "to_pixels", "other_pixels"),
    [(AUTHORS, authors_pixels, imagenet_pixels), (IMAGENET, imagenet_pixels, authors_pixels)],
    ids=["authors", "imagenet"],
)
def test_scores_equal_those_of_the_authors_protocol(
    preprocessing: Preprocessing,
    to_pixels: Callable[[NDArray[np.uint8]], Pixels],
    other_pixels: Callable[[NDArray[np.uint8]], Pixels],
    full_size_video: Path,
) -> None:
    model, frames = network(preprocessing), decode(full_size_video)
    clips = clip_scores(model, to_pixels(frames), (0, 12, 24))
    found = Predictor(model, clips=3, device="cpu")(full_size_video).scores
    assert difference(found, clips.mean(0)) < 1e-4

    center = Predictor(model, clips=1, device="cpu")(full_size_video).scores
    assert difference(center, clips[1]) < 1e-4
    # The comparison detects another clip, swapped colors and other preprocessing.
    assert difference(center, clips[0]) > 1e-2
    for wrong in (to_pixels(frames[..., ::-1]), other_pixels(frames)):
        assert difference(center, clip_scores(model, wrong, (12,))[0]) > 1e-2


def test_frames_are_resized_like_pillow(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", 20, size=(120, 160))
    model = network(AUTHORS)
    found = Predictor(model, clips=1, device="cpu")(path).scores

    def expected(resampling: Image.Resampling) -> Pixels:
        images = [Image.fromarray(frame).resize((242, 182), resampling) for frame in decode(path)]
        return clip_scores(model, authors_pixels(np.array(list(map(np.asarray, images)))), (2,))[0]

    # Rounding may differ by one gray level.
    assert difference(found, expected(Image.Resampling.BILINEAR)) < 1e-2
    assert difference(found, expected(Image.Resampling.NEAREST)) > 2e-2


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("videos") / "b.avi", 40)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_scores_are_close(precision: Precision, video: Path) -> None:
    model = network(SMALL)
    full = Predictor(model, clips=2, device="cpu")(video).scores
    half = Predictor(model, clips=2, device="cpu", precision=precision)(video).scores
    assert half.dtype == torch.float32
    assert half.sum() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(half, full, atol=0.05, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_scores_do_not_depend_on_the_batch_size(batch_size: int, video: Path) -> None:
    model = network(SMALL)
    together = Predictor(model, clips=7, batch_size=7, device="cpu")(video).scores
    split = Predictor(model, clips=7, batch_size=batch_size, device="cpu")(video).scores
    torch.testing.assert_close(split, together, atol=1e-4, rtol=0)


def test_short_video_repeats_its_last_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "short.avi", 5, size=(48, 64))
    model = network(SMALL)
    repeated = imagenet_pixels(decode(path)[[0, 2, 4, 4, 4, 4, 4, 4], 4:44, 12:52])
    with torch.no_grad():
        logits = model(torch.from_numpy(repeated.transpose(3, 0, 1, 2).copy())[None])
    for clips in (1, 3):
        found = Predictor(model, clips=clips, device="cpu")(path).scores
        torch.testing.assert_close(found, logits.softmax(1)[0], atol=1e-4, rtol=0)


def test_classes_without_names_are_numbered(video: Path, tmp_path: Path) -> None:
    model = network(SMALL)
    prediction = Predictor(model, clips=1, device="cpu")(video)
    assert prediction.class_names == ("0", "1", "2", "3", "4")
    assert prediction.top(1)[0][0] == str(int(prediction.scores.argmax()))
    assert len(prediction.top(9)) == 5

    model.class_names = ("a", "b", "c", "d", "e")
    save_model(model, tmp_path / "m.safetensors")
    named = Predictor(tmp_path / "m.safetensors", clips=1, device="cpu")(video)
    assert [name for name, _ in named.top(5)] == [
        "abcde"[int(number)] for number, _ in prediction.top(5)
    ]
    torch.testing.assert_close(named.scores, prediction.scores)


@pytest.fixture(scope="module")
def untrained() -> Predictor:
    return Predictor(create_model("p3d63", num_classes=2), device="cpu")


def test_lists_of_files_and_frames_give_a_list(video: Path) -> None:
    predictor = Predictor(network(SMALL), clips=3, batch_size=7, device="cpu")
    frames = decode(video)
    alone = predictor(video).scores
    tensor = torch.from_numpy(frames)
    mirrored = frames[:, :, ::-1]  # negative strides
    frames.flags.writeable = False
    found = predictor([video, frames, tensor, str(video), mirrored])
    for prediction in found[:4]:
        torch.testing.assert_close(prediction.scores, alone, atol=1e-4, rtol=0)
    assert difference(found[4].scores, alone.numpy()) > 1e-4
    assert [prediction.path for prediction in found] == [video, None, None, video, None]
    assert predictor([]) == []


def test_stream_goes_on_after_a_bad_video(video: Path, tmp_path: Path) -> None:
    predictor = Predictor(network(SMALL), clips=1, batch_size=4, device="cpu")
    videos = [video, tmp_path / "absent.avi", video]
    first, error, last = predictor.stream(videos)
    assert isinstance(error, BadVideoError)
    assert isinstance(first, Prediction)
    assert isinstance(last, Prediction)
    torch.testing.assert_close(first.scores, last.scores)
    with pytest.raises(BadVideoError, match=r"absent\.avi: no such file"):
        predictor(videos)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((9, 4, 5, 3), np.float32), r"float32 \(9, 4, 5, 3\); give uint8 \(T, H, W, 3\)"),
        (torch.zeros(9, 4, 5, 3), "float32"),
        (np.zeros((2, 9, 4, 5, 3), np.uint8), "for several videos, give a list"),
        (np.zeros((4, 5, 3), np.uint8), "stack the frames"),
        (np.zeros((9, 3, 4, 5), np.uint8), r"permute\(0, 2, 3, 1\)"),
        (np.zeros((3, 9, 4, 5), np.uint8), r"permute\(1, 2, 3, 0\)"),
        (np.zeros((0, 4, 5, 3), np.uint8), r"uint8 \(0, 4, 5, 3\); give"),
        (np.zeros((9, 4, 5, 2), np.uint8), r"uint8 \(9, 4, 5, 2\); give"),
        ("", "name of the video is empty"),
        ("https://a.b/c.mp4", "https://a.b/c.mp4: is an address"),
        (3, "cannot be of type int"),
    ],
)
def test_other_inputs_are_errors(untrained: Predictor, frames: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        untrained(frames)


def test_flow_network_takes_flow_in_memory() -> None:
    model = create_model("p3d63", num_classes=2, modality="flow")
    model.preprocessing = Preprocessing(
        num_frames=4, resize=(18, 24), crop=16, channels="flow", mean=(128.0,) * 2, std=(1.0,) * 2
    )
    predictor = Predictor(model, clips=1, device="cpu")
    flow = np.random.default_rng(0).integers(0, 255, (4, 18, 24, 2), np.uint8)
    pixels = normalize(torch.from_numpy(flow[None, :, 1:17, 4:20]), model.preprocessing)
    with torch.no_grad():
        expected = model.eval()(pixels).softmax(1)[0]
    torch.testing.assert_close(predictor(flow).scores, expected, atol=1e-4, rtol=0)


def test_features_are_those_of_the_network(video: Path) -> None:
    model = network(SMALL)
    predictor = Predictor(model, clips=2, device="cpu")
    assert predictor.features(video, "res3").shape[:2] == (2, 64)
    found = predictor.features(decode(video))
    assert found.shape == (2, 256)
    scores = model.fc(found).softmax(1).mean(0)
    torch.testing.assert_close(scores, predictor(video).scores, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["", "https://a.b/c.pth"])
def test_weights_without_a_file_are_errors(name: str) -> None:
    with pytest.raises(UserError, match="weights"):
        Predictor(name)


def test_prediction_shows_bars_and_escapes_names() -> None:
    prediction = Prediction(
        Path("a<b>.avi"), torch.tensor([0.25, 0.75]), ("<i>\x1b", "run & jump"), 12_000, 0.0875
    )
    assert repr(prediction) == (
        "<Prediction of a<b>.avi: run & jump 75.0%, <i>\\x1b 25.0%; saw 8% of 12,000 frames>"
    )
    page = prediction._repr_html_()
    assert "a&lt;b&gt;.avi: saw 8% of 12,000 frames" in page
    assert "&lt;i&gt;\\x1b" in page
    assert page.index("width:75.0%") < page.index("width:25.0%")
    assert [prediction.answer(threshold) for threshold in (0.75, 0.76)] == ["run & jump", "unknown"]


@pytest.mark.parametrize("counts", [{"clips": 0}, {"batch_size": 0}])
def test_counts_below_one_are_rejected(counts: dict[str, int]) -> None:
    with pytest.raises(UserError, match="must be 1 or more"):
        Predictor(network(SMALL), **counts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "no device is called 'gpu'; choose one of: auto, cpu, cuda, mlu"),
        (
            {"device": torch.device("cpu")},
            r"no device is called device\(type='cpu'\); choose one",
        ),
        ({"precision": "fp8"}, "no precision is called 'fp8'; choose one of: fp32, tf32"),
        ({"backend": "tensorrt"}, "no backend is called 'tensorrt'; choose one of: auto, eager"),
        ({"clips": "all"}, "clips is 'all'; give a number or auto"),
    ],
)
def test_unknown_words_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Predictor(network(SMALL), **options)


def test_an_unknown_layer_is_no_other_layer(untrained: Predictor, video: Path) -> None:
    with pytest.raises(UserError, match="no layer is called 'res9'; choose one of: res2, res3"):
        untrained.features(video, "res9")  # type: ignore[arg-type]


@pytest.mark.parametrize("k", [-1, 1.5, "3"])
def test_the_number_of_answers(k: Any) -> None:
    prediction = Prediction(None, torch.tensor([0.25, 0.75]), ("a", "b"), 1, 1.0)
    assert prediction.top(0) == []
    assert prediction.top(np.int64(1)) == [("b", 0.75)]  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"k is .*; give a number of classes"):
        prediction.top(k)


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        (np.zeros((1, 4, 8, 8, 3), np.uint8), r"type ndarray \(1, 4, 8, 8, 3\); give a tensor"),
        (torch.zeros(4, 8, 8, 3), r"Tensor \(4, 8, 8, 3\); give a tensor \(N, T, H, W, 3\)"),
        (torch.zeros(1, 4, 8, 8, 2), r"Tensor \(1, 4, 8, 8, 2\); give"),
        (None, "type NoneType; give"),
    ],
)
def test_other_clips_are_not_normalized(clips: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        normalize(clips, SMALL)


def test_auto_takes_the_clips_of_the_plan(video: Path) -> None:
    """The answer is that of the first clips in the order, in any batch size."""
    model = network(SMALL)
    model.calibration = {"settled": 0.6}
    clips = Predictor(model, clips=20, device="cpu", batch_size=1)
    with open_video(video) as opened:
        read = read_eval_clips(opened, SMALL, 20)[list(halving_order(20))]
    logits = clips.scorer(read)
    used = clips_used(logits, 0.6)
    assert used is not None
    for batch_size in (1, 16):
        auto = Predictor(model, clips="auto", device="cpu", batch_size=batch_size)
        assert "settled at 0.6 (calibrated)" in repr(auto)
        for found in auto([video, decode(video)]):
            assert found.num_clips == used
            expected = mean_probabilities(logits[:used])
            torch.testing.assert_close(found.scores, expected, atol=1e-4, rtol=0)
            assert 0 < found.seen < 1
    assert auto(video).num_clips == used
    assert auto.features(video).shape == (20, 256)
    default = Predictor(network(SMALL), clips="auto", device="cpu")
    assert "settled at 0.99 (default; see p3d calibrate)" in repr(default)


@pytest.mark.parametrize("workers", [0, 2])
def test_twenty_clips_are_scored_as_by_hand(video: Path, workers: int) -> None:
    """Bit for bit, one clip at a time: the mean of the softmax of 20 uniform clips."""
    predictor = Predictor(network(SMALL), device="cpu", workers=workers, batch_size=1)
    with open_video(video) as opened:
        clips = read_eval_clips(opened, SMALL, 20)
    expected = mean_probabilities(predictor.scorer(clips))
    for found in predictor.stream([video] * 2):
        assert isinstance(found, Prediction)
        assert torch.equal(found.scores, expected)


def test_frames_in_memory_are_picked_at_the_rate_of_the_network(video: Path) -> None:
    timed = Predictor(network(replace(SMALL, fps=25.0)), clips=2, device="cpu", batch_size=1)
    native = Predictor(network(SMALL), clips=2, device="cpu", batch_size=1)
    frames = decode(video)
    with pytest.raises(UserError, match="takes 25 frames a second, and frames in memory have no"):
        timed(frames)
    with pytest.raises(UserError, match="fps is 0; give frames per second, above 0"):
        timed(frames, fps=0)
    assert torch.equal(timed(frames, fps=25).scores, native(video).scores)
    slow, even = timed(frames, fps=50), native(frames[::2])
    assert torch.equal(slow.scores, even.scores)
    assert (slow.num_frames, slow.fps, slow.whole_clips) == (len(frames), 50, even.whole_clips)
    assert slow.seen == even.seen
    assert torch.equal(timed.features(frames, fps=50), native.features(frames[::2]))
    assert native(frames).fps == 0
    assert native(video).fps == 25
