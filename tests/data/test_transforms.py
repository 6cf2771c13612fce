from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from p3d.data import transforms
from p3d.data.crops import (
    center_crop_box,
    multi_scale_crop_box,
    random_crop_box,
    random_resized_crop_box,
)
from p3d.data.sampling import clip_rng
from p3d.data.transforms import crop, draw_train_transform, horizontal_flip, train_transform
from p3d.preprocessing import IMAGENET
from p3d.video.geometry import Box, resize

AUGMENTATIONS = ("random-resized-crop", "multi-scale-crop", "random-crop")
PREP = replace(IMAGENET, resize=(45, 60), crop=40)

sides = st.integers(1, 600)
seeds = st.integers(0, 2**32)


def noise_clip(frames: int, height: int, width: int, channels: int = 3) -> Tensor:
    values = np.random.default_rng(0).integers(0, 256, (frames, height, width, channels))
    return torch.from_numpy(values.astype(np.uint8))


def pillow_resize(clip: Tensor, height: int, width: int) -> Tensor:
    bilinear = Image.Resampling.BILINEAR
    planes = clip.permute(0, 3, 1, 2).numpy()  # Pillow has no two-channel images
    rows = [
        [np.asarray(Image.fromarray(plane.copy()).resize((width, height), bilinear)) for plane in p]
        for p in planes
    ]
    return torch.from_numpy(np.array(rows)).permute(0, 2, 3, 1)


def assert_within_one_level(actual: Tensor, expected: Tensor) -> None:
    assert actual.dtype == expected.dtype == torch.uint8
    assert actual.shape == expected.shape
    assert (actual.int() - expected.int()).abs().max() <= 1


def assert_inside(box: Box, height: int, width: int) -> None:
    assert 0 <= box.top <= box.top + box.height <= height
    assert 0 <= box.left <= box.left + box.width <= width
    assert min(box.height, box.width) >= 1


@pytest.mark.parametrize("channels", [2, 3])
@pytest.mark.parametrize("target", [(182, 242), (160, 160), (31, 50), (300, 500)])
def test_resize_equals_pillow(target, channels):
    clip = noise_clip(2, 240, 320, channels)
    result = resize(clip, *target)
    assert result.is_contiguous()
    assert_within_one_level(result, pillow_resize(clip, *target))


@given(*[st.integers(1, 40)] * 4, st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_resize_equals_pillow_at_odd_sizes(height, width, new_height, new_width, frames):
    clip = noise_clip(frames, height, width)
    result = resize(clip, new_height, new_width)
    assert result.is_contiguous()
    assert_within_one_level(result, pillow_resize(clip, new_height, new_width))


def test_resize_of_a_crop_ignores_pixels_outside_the_box():
    clip = noise_clip(2, 120, 160)
    box = Box(11, 23, 77, 91)
    result = resize(crop(clip, box), 40, 40)
    cut = clip[:, 11 : 11 + 77, 23 : 23 + 91].clone()
    assert_within_one_level(result, pillow_resize(cut, 40, 40))


def test_resize_to_the_same_size_copies_nothing():
    clip = noise_clip(2, 12, 16)
    assert resize(clip, 12, 16).data_ptr() == clip.data_ptr()


def test_a_flip_mirrors_columns_and_nothing_else():
    clip = noise_clip(2, 5, 7)
    flipped = horizontal_flip(clip)
    np.testing.assert_array_equal(flipped.numpy(), clip.numpy()[:, :, ::-1])
    assert flipped.is_contiguous()


def test_a_flip_negates_horizontal_motion():
    x = torch.tensor([0, 1, 100, 128, 200, 255], dtype=torch.uint8)
    clip = torch.stack([x, x], dim=-1)[None, None]
    flipped = horizontal_flip(clip)[0, 0].flip(0)
    assert flipped[:, 0].tolist() == [255, 255, 156, 128, 56, 1]
    assert flipped[:, 1].tolist() == x.tolist()


@given(sides, sides, seeds)
def test_random_resized_crops_are_inside(height, width, seed):
    assert_inside(random_resized_crop_box(height, width, clip_rng(seed, 0, 0)), height, width)


def test_random_resized_crops_have_the_documented_areas_and_shapes():
    boxes = [random_resized_crop_box(240, 320, clip_rng(0, 0, i)) for i in range(2000)]
    areas = np.array([box.height * box.width for box in boxes]) / (240 * 320)
    ratios = np.array([box.width / box.height for box in boxes])
    assert 0.07 < areas.min() < 0.1
    assert 0.9 < areas.max() <= 1.0
    assert 0.74 < ratios.min() < 0.77
    assert 1.3 < ratios.max() < 1.35
    assert {box.top for box in boxes} >= set(range(100))


def test_the_fallback_is_the_largest_allowed_central_box():
    rng = clip_rng(0, 0, 0)
    wide = random_resized_crop_box(30, 3000, rng, area=(0.9, 1.0))
    assert wide == Box(0, 1480, 30, 40)
    tall = random_resized_crop_box(3000, 30, rng, area=(0.9, 1.0))
    assert tall == Box(1480, 0, 40, 30)


@given(sides, sides, seeds, st.data())
def test_square_crops_are_inside(height, width, seed, data):
    size = data.draw(st.integers(1, min(height, width)))
    rng = clip_rng(seed, 0, 0)
    for box in (random_crop_box(height, width, size, rng), center_crop_box(height, width, size)):
        assert_inside(box, height, width)
        assert (box.height, box.width) == (size, size)
    assert abs(2 * box.top + size - height) <= 1
    assert abs(2 * box.left + size - width) <= 1
    assert_inside(multi_scale_crop_box(height, width, size, rng), height, width)


def test_multi_scale_crops_use_all_neighboring_scales_and_five_positions():
    boxes = {multi_scale_crop_box(182, 242, 160, clip_rng(0, 0, i)) for i in range(3000)}
    lengths = [182, 160, 136, 120]  # 159.25 is close enough to 160 to avoid resampling
    pairs = {(a, b) for i, a in enumerate(lengths) for j, b in enumerate(lengths) if abs(i - j) < 2}
    assert {(box.height, box.width) for box in boxes} == pairs
    squares = {(box.top, box.left) for box in boxes if (box.height, box.width) == (160, 160)}
    assert squares == {(0, 0), (0, 82), (22, 0), (22, 82), (11, 41)}


@pytest.mark.parametrize("size", [0, 41])
def test_a_square_that_does_not_fit_is_an_error(size):
    with pytest.raises(ValueError, match=f"square of {size} px does not fit .* 40x50"):
        center_crop_box(40, 50, size)
    with pytest.raises(ValueError, match="does not fit"):
        random_crop_box(40, 50, size, clip_rng(0, 0, 0))
    with pytest.raises(ValueError, match="does not fit"):
        multi_scale_crop_box(40, 50, size, clip_rng(0, 0, 0))


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize("channels", [2, 3])
def test_training_clips_have_the_networks_size(augmentation, channels):
    clip = noise_clip(3, 48, 64, channels)
    for flip in (0.0, 1.0):
        rng = clip_rng(0, 0, 0)
        options = {"augmentation": augmentation, "flip_probability": flip, "rng": rng}
        result = train_transform(clip, PREP, **options)
        assert result.shape == (3, 40, 40, channels)
        assert result.dtype == torch.uint8
        assert result.is_contiguous()


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_all_frames_of_a_clip_share_one_box_and_one_flip(augmentation):
    clip = noise_clip(1, 48, 64).expand(4, -1, -1, -1)
    results = []
    for index in range(12):
        rng = clip_rng(0, 0, index)
        options = {"augmentation": augmentation, "flip_probability": 0.5, "rng": rng}
        result = train_transform(clip, PREP, **options)
        assert (result == result[:1]).all()
        results.append(result[0])
    assert any((result != results[0]).any() for result in results[1:])


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_the_flip_is_drawn_after_the_box(augmentation):
    clip = noise_clip(2, 48, 64)
    plain, mirrored = (
        train_transform(
            clip, PREP, augmentation=augmentation, flip_probability=p, rng=clip_rng(5, 0, 0)
        )
        for p in (0.0, 1.0)
    )
    np.testing.assert_array_equal(mirrored.numpy(), horizontal_flip(plain).numpy())


def test_half_of_the_clips_are_flipped():
    clip = noise_clip(1, 45, 60)
    prep = replace(PREP, resize=(45, 60), crop=45)
    top_left = clip[0, 0]
    flipped = 0
    for index in range(400):
        rng = clip_rng(1, 0, index)
        result = train_transform(
            clip, prep, augmentation="random-crop", flip_probability=0.5, rng=rng
        )
        row = result[0, 0]
        flipped += not any((row == top_left[i : i + 45]).all() for i in range(16))
    assert 160 < flipped < 240


def test_the_test_crop_is_the_center_of_the_resized_frame():
    clip = noise_clip(2, 96, 128)
    result = transforms.eval_transform(96, 128, PREP)(clip)[:, 0]
    expected = pillow_resize(clip, 45, 60)[:, 2:42, 10:50]
    assert result.is_contiguous()
    assert_within_one_level(result, expected)


@given(sides, sides, st.integers(1, 300), seeds, st.data())
def test_a_short_side_keeps_the_aspect_ratio(height, width, short_side, seed, data):
    size = data.draw(st.integers(1, short_side))
    prep = replace(IMAGENET, resize=short_side, crop=size)
    scaled = prep.resized(height, width)
    assert scaled == prep.resized(width, height)[::-1]
    assert min(scaled) == short_side
    exact = Fraction(max(height, width) * short_side, min(height, width))
    # Rounded to the nearest pixel, half a pixel up.
    assert Fraction(-1, 2) < max(scaled) - exact <= Fraction(1, 2) or max(scaled) == 10_000 < exact
    boxes = list(transforms.eval_transform(height, width, prep).boxes)
    for augmentation in AUGMENTATIONS[1:]:
        drawn = draw_train_transform(
            *(height, width, prep),
            augmentation=augmentation,
            flip_probability=0.5,
            rng=clip_rng(seed, 0, 0),
        )
        assert drawn.scaled == scaled
        boxes.append(drawn.box)
    for box in boxes:
        assert_inside(box, *scaled)


@pytest.mark.parametrize("size", [(96, 128), (129, 97), (61, 240), (45, 45)])
def test_a_short_side_equals_pillow_at_the_rounded_size(size):
    prep = replace(PREP, resize=45)
    clip = noise_clip(2, *size)
    height, width = {
        (96, 128): (45, 60),
        (129, 97): (60, 45),  # 59.85
        (61, 240): (45, 177),  # 177.05
        (45, 45): (45, 45),
    }[size]
    top, left = (height - 40) // 2, (width - 40) // 2
    expected = pillow_resize(clip, height, width)[:, top : top + 40, left : left + 40]
    assert_within_one_level(transforms.eval_transform(*size, prep)(clip)[:, 0], expected)


def test_half_a_pixel_is_rounded_up():
    assert replace(PREP, resize=45).resized(10, 13) == (45, 59)  # 58.5
    assert replace(PREP, resize=45).resized(10, 15) == (45, 68)  # 67.5


def test_the_authors_features_are_of_frames_with_a_short_side_of_162():
    prep = replace(IMAGENET, resize=162, crop=160)
    assert prep.resized(240, 320) == (162, 216)
    assert transforms.eval_transform(240, 320, prep).boxes == (Box(1, 28, 160, 160),)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize("size", [(48, 64), (64, 48), (41, 203)])
def test_training_clips_of_any_shape_have_the_networks_size(augmentation, size):
    prep = replace(PREP, resize=45)
    options = {"augmentation": augmentation, "flip_probability": 0.5, "rng": clip_rng(0, 0, 0)}
    assert train_transform(noise_clip(2, *size), prep, **options).shape == (2, 40, 40, 3)
