"""Videos that a network was trained on and is evaluated on."""

from __future__ import annotations

from pathlib import Path

import pytest

from p3d import create_model
from p3d.data.dataset import VideoDataset, VideoRecord
from p3d.data.digests import video_digest
from p3d.evaluation.leaks import Overlap, find_overlap
from p3d.model.network import P3D

pytestmark = pytest.mark.usefixtures("narrow_networks")


@pytest.fixture(scope="module")
def model() -> P3D:
    return create_model("p3d63", num_classes=2)


def _dataset(root: str) -> VideoDataset:
    names = ("a.avi", "b.avi", "c.avi", "d.avi")
    records = [VideoRecord(Path(root, name), number % 2) for number, name in enumerate(names)]
    return VideoDataset(("jump", "run"), tuple(records))


def test_videos_of_the_training_list_are_found_after_a_move(model: P3D) -> None:
    before, now = _dataset("old/place"), _dataset("new")
    model.trained_on = frozenset(video_digest(r, before.class_names) for r in before.records[1:3])
    assert find_overlap(model, now, [0, 1, 2, 3]) == Overlap(4, ("run/b.avi", "jump/c.avi"))
    assert find_overlap(model, now, [0, 2]) == Overlap(2, ("jump/c.avi",))
    assert find_overlap(model, now, [0, 3]) == Overlap(2, ())


def test_unknown_training_videos_give_no_answer(model: P3D) -> None:
    model.trained_on = frozenset()
    assert find_overlap(model, _dataset("new"), [0, 1]) is None


def test_message_warns_of_test_videos_and_notes_training_videos() -> None:
    overlap = Overlap(30, ("run/b.avi", *["jump/c.avi"] * 11))
    seen = "videos were in the training list of these weights (first: run/b.avi)"
    assert overlap.message("test") == (
        f"LEAK: 12 of 30 test {seen}; the accuracy does not show how well it does on new videos"
    )
    assert overlap.message("train") == f"note: 12 of 30 train {seen}"
    assert Overlap(30, ()).message("test") is None
