"""A prediction is the authors' recipe, written out here once more by other means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from helpers.videos import picture, write_video
from helpers.weight_files import randomize
from p3d.errors import UserError
from p3d.inference.predictor import Predictor
from p3d.model.network import P3D, create_model
from p3d.preprocessing import AUTHORS, IMAGENET, Preprocessing, normalize
from p3d.system.device import Precision
from p3d.weights.metadata import save_model

Pixels = NDArray[np.float32]
SMALL = Preprocessing(num_frames=8, frame_stride=2, resize=(48, 64), crop=40)


def network(preprocessing: Preprocessing) -> P3D:
    """P3D-63 with random weights, whose scores tell one clip of the tests' videos from another.

    Left at that, one class would take all, whatever the network is shown. So its batch
    normalisations get the statistics of two such clips, and its classifier sets the two apart.
    """
    model = create_model("p3d63", num_classes=5)
    model.load_state_dict(randomize(model.state_dict()))
    model.preprocessing = preprocessing
    steps = np.arange(preprocessing.num_frames)
    size = preprocessing.crop
    shown = [[picture(i, height=size, width=size) for i in start + steps] for start in (0, 20)]
    clips = normalize(torch.from_numpy(np.array(shown)), preprocessing)
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
    """All frames, from first to last: uint8 (T, H, W, 3)."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def authors_pixels(frames: NDArray[np.uint8]) -> Pixels:
    """BGR of 0-255, less the mean that Caffe's networks are given."""
    return frames[..., ::-1].astype(np.float32) - np.array([104, 117, 123], np.float32)


def imagenet_pixels(frames: NDArray[np.uint8]) -> Pixels:
    """RGB of 0-1, less ImageNet's mean, over its deviation."""
    mean, std = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)
    return (frames.astype(np.float32) / 255 - mean) / std


def clip_scores(model: P3D, pixels: Pixels, starts: Sequence[int]) -> Pixels:
    """Softmax scores (clips, classes) of 16-frame clips, each a centre crop of 160 from 182x242."""
    scores = []
    for start in starts:
        clip = pixels[start : start + 16, 11:171, 41:201].transpose(3, 0, 1, 2)
        with torch.no_grad():
            logits = model(torch.from_numpy(np.ascontiguousarray(clip))[None])[0].double().numpy()
        exponentials = np.exp(logits - logits.max())
        scores.append(exponentials / exponentials.sum())
    return np.array(scores, np.float32)


def difference(first: torch.Tensor, second: Pixels) -> float:
    return float(np.abs(first.numpy() - second).max())


@pytest.fixture(scope="module")
def of_test_size(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 40 frames of 182x242, which need no resizing."""
    return write_video(tmp_path_factory.mktemp("videos") / "a.avi", 40, size=(182, 242), b_frames=2)


@pytest.mark.parametrize(
    ("preprocessing", "to_pixels", "another"),
    [(AUTHORS, authors_pixels, imagenet_pixels), (IMAGENET, imagenet_pixels, authors_pixels)],
    ids=["authors", "imagenet"],
)
def test_a_prediction_is_the_recipe_to_the_last_pixel(
    preprocessing: Preprocessing,
    to_pixels: Callable[[NDArray[np.uint8]], Pixels],
    another: Callable[[NDArray[np.uint8]], Pixels],
    of_test_size: Path,
) -> None:
    model, frames = network(preprocessing), decode(of_test_size)
    clips = clip_scores(model, to_pixels(frames), (0, 12, 24))
    found = Predictor(model, clips=3, device="cpu")(of_test_size).scores
    assert difference(found, clips.mean(0)) < 1e-4

    centre = Predictor(model, clips=1, device="cpu")(of_test_size).scores
    assert difference(centre, clips[1]) < 1e-4
    # What the comparison is able to see: another clip, swapped colours, other pixels.
    assert difference(centre, clips[0]) > 1e-2
    for wrong in (to_pixels(frames[..., ::-1]), another(frames)):
        assert difference(centre, clip_scores(model, wrong, (12,))[0]) > 1e-2


def test_frames_are_resized_as_pillow_does(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", 20, size=(120, 160))
    model = network(AUTHORS)
    found = Predictor(model, clips=1, device="cpu")(path).scores

    def expected(resampling: Image.Resampling) -> Pixels:
        images = [Image.fromarray(frame).resize((242, 182), resampling) for frame in decode(path)]
        return clip_scores(model, authors_pixels(np.array(list(map(np.asarray, images)))), (2,))[0]

    # Bytes may differ by one grey level in rounding.
    assert difference(found, expected(Image.Resampling.BILINEAR)) < 1e-2
    assert difference(found, expected(Image.Resampling.NEAREST)) > 2e-2


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("videos") / "b.avi", 40)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_scores_alike(precision: Precision, video: Path) -> None:
    model = network(SMALL)
    whole = Predictor(model, clips=2, device="cpu")(video).scores
    half = Predictor(model, clips=2, device="cpu", precision=precision)(video).scores
    assert half.dtype == torch.float32
    assert half.sum() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(half, whole, atol=0.05, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_scores_do_not_depend_on_the_batch(batch_size: int, video: Path) -> None:
    model = network(SMALL)
    together = Predictor(model, clips=7, batch_size=7, device="cpu")(video).scores
    split = Predictor(model, clips=7, batch_size=batch_size, device="cpu")(video).scores
    torch.testing.assert_close(split, together, atol=1e-4, rtol=0)


def test_a_short_video_holds_its_last_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "short.avi", 5, size=(48, 64))
    model = network(SMALL)
    held = imagenet_pixels(decode(path)[[0, 2, 4, 4, 4, 4, 4, 4], 4:44, 12:52])
    with torch.no_grad():
        logits = model(torch.from_numpy(held.transpose(3, 0, 1, 2).copy())[None])
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


@pytest.mark.parametrize("wrong", [{"clips": 0}, {"batch_size": 0}])
def test_counts_below_one_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match="must be 1 or more"):
        Predictor(network(SMALL), **wrong)
