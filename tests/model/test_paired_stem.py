"""The stem over pairs of columns computes what the stem does."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from p3d.model.blocks import Stem
from p3d.model.network import create_model, fold_norms
from p3d.model.paired_stem import PairedStem


@cache
def folded_stem(modality: str, wiring: str) -> Stem:
    torch.manual_seed(0)
    model = create_model("p3d63", num_classes=2, modality=modality, wiring=wiring)
    return fold_norms(model).double().stem


@settings(deadline=None, max_examples=12)
@given(
    height=st.integers(3, 18),
    width=st.integers(3, 18),
    modality=st.sampled_from(["rgb", "flow"]),
    wiring=st.sampled_from(["author", "port"]),
)
def test_equals_the_stem(height: int, width: int, modality: str, wiring: str) -> None:
    stem = folded_stem(modality, wiring)
    torch.manual_seed(height * width)
    images = torch.randn(4, stem.conv.in_channels, height, width, dtype=torch.float64)
    expected, frames = stem(images, 4)
    found, found_frames = PairedStem(stem).double()(images, 4)
    assert found_frames == frames
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_stem_with_batch_normalization_is_refused() -> None:
    with pytest.raises(AssertionError, match="folded"):
        PairedStem(create_model("p3d63", num_classes=2).stem)
