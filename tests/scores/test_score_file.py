"""Files of scores."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from p3d.data.dataset import VideoDataset, VideoRecord
from p3d.errors import UserError
from p3d.inference.scoring import VideoScores
from p3d.scores.score_file import ScoreFile, collect_scores, read_score_file, write_score_file

SCORES = ScoreFile(
    np.arange(12, dtype=np.float32).reshape(2, 2, 3),
    np.array([2, -1]),
    ("a", "b", "c"),
    ("x.avi", "y\udcff.avi"),
    ("g1", ""),
    {"clips": 2, "resize": [20, 20]},
    "0" * 64,
    np.array([[0, 8], [0, 3]]),
    np.array([[0, 0.32], [np.nan, np.nan]]),
)


def _npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


def _equal(first: ScoreFile, second: ScoreFile) -> bool:
    plain = ("class_names", "paths", "groups", "protocol", "weights_sha256")
    return (
        np.array_equal(first.logits, second.logits)
        and np.array_equal(first.labels, second.labels)
        and np.array_equal(first.starts, second.starts)
        and np.array_equal(first.times, second.times, equal_nan=True)
        and all(getattr(first, name) == getattr(second, name) for name in plain)
    )


@settings(deadline=None, max_examples=25)
@given(
    paths=st.lists(st.text(), min_size=1, max_size=5, unique=True),
    names=st.lists(st.text(), min_size=1, max_size=4, unique=True),
    clips=st.integers(1, 3),
)
def test_files_hold_what_was_written(
    paths: list[str], names: list[str], clips: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = np.random.default_rng(len(paths))
    scores = ScoreFile(
        rng.normal(size=(len(paths), clips, len(names))).astype(np.float32),
        rng.integers(-1, len(names), len(paths)),
        tuple(names),
        tuple(paths),
        tuple(f"group of {path}" for path in paths),
        {"names": names},
        "f" * 64,
        rng.integers(0, 100, (len(paths), clips)),
        np.where(rng.random((len(paths), clips)) < 0.5, np.nan, 3.5),
    )
    path = tmp_path_factory.mktemp("scores") / "scores.npz"
    write_score_file(path, scores)
    assert _equal(read_score_file(path), scores)


def test_scores_are_in_the_order_of_the_data_set(tmp_path: Path) -> None:
    records = tuple(VideoRecord(Path(f"{n}.avi"), n % 2, f"g{n}") for n in range(3))
    scored = VideoScores(
        torch.randn(2, 4, 2), torch.tensor([0, 0]), torch.tensor([0, 2]), ("1.avi: broken",)
    )
    scores = collect_scores(VideoDataset(("a", "b"), records), scored, {"clips": 4}, "1" * 64)
    write_score_file(tmp_path / "scores.npz", scores)
    read = read_score_file(tmp_path / "scores.npz")
    assert (read.paths, read.groups) == (("0.avi", "2.avi"), ("g0", "g2"))
    assert np.array_equal(read.logits, scored.logits.numpy())
    assert (read.starts, read.times) == (None, None)


def test_times_of_clips_are_kept() -> None:
    records = [VideoRecord(Path(f"{n}.avi"), 0) for n in range(3)]
    scored = VideoScores(
        torch.zeros(3, 2, 1),
        torch.zeros(3, dtype=torch.int64),
        torch.arange(3),
        (),
        starts=torch.tensor([[0, 5], [0, 10], [0, 4]]),
        times=torch.tensor([[0, 0.2], [0, 0.3], [torch.nan] * 2], dtype=torch.float64),
    )
    scores = collect_scores(VideoDataset(("a",), tuple(records)), scored, {}, "")
    assert scores.problem() is None
    assert np.array_equal(scores.starts, scored.starts.numpy())
    assert np.array_equal(scores.times, scored.times.numpy(), equal_nan=True)


def test_files_without_the_starts_of_clips_are_read(tmp_path: Path) -> None:
    write_score_file(tmp_path / "scores.npz", replace(SCORES, starts=None, times=None))
    read = read_score_file(tmp_path)
    assert (read.starts, read.times, read.paths) == (None, None, SCORES.paths)


def test_probabilities_divide_every_logit_by_the_temperature() -> None:
    found = SCORES.probabilities(2.0)
    powers = np.exp(SCORES.logits / 2.0)
    np.testing.assert_allclose(found, (powers / powers.sum(2, keepdims=True)).mean(1), rtol=1e-6)
    assert found.dtype == np.float64


def test_selected_videos_keep_what_belongs_to_them() -> None:
    first = SCORES.labeled()
    assert (first.paths, first.groups, first.labels.tolist()) == (("x.avi",), ("g1",), [2])
    assert first.problem() is None
    turned = SCORES.select(np.array([1, 0]))
    assert np.array_equal(turned.logits, SCORES.logits[::-1])
    assert turned.starts is not None
    assert turned.starts.tolist() == [[0, 3], [0, 8]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": np.full((2, 2, 3), np.nan, np.float32)}, "the scores of x.avi are not finite"),
        ({"logits": np.zeros((2, 2, 3))}, "logits are float64"),
        ({"logits": np.zeros((2, 0, 3), np.float32)}, "do not belong together"),
        ({"labels": np.array([3, 0])}, "labels are not all in -1..2"),
        ({"labels": np.array([0])}, "do not belong together"),
        ({"class_names": ("a", "b")}, "do not belong together"),
        ({"groups": ()}, "do not belong together"),
        ({"paths": ("x.avi", "x.avi")}, "x.avi is there twice"),
        ({"starts": None}, "only one of starts and times"),
        ({"starts": np.zeros((2, 1), np.int64)}, "are not those of the clips"),
        ({"starts": np.zeros((2, 2))}, "starts are float64"),
        ({"starts": np.full((2, 2), -1)}, "a clip starts before its video"),
        ({"times": np.full((2, 2), np.inf)}, "or never"),
    ],
)
def test_scores_that_do_not_fit_are_neither_written_nor_read(
    changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, wrong = tmp_path / "scores.npz", replace(SCORES, **changes)
    with pytest.raises(UserError, match=message):
        write_score_file(path, wrong)
    assert not path.exists()
    with monkeypatch.context() as patch:
        patch.setattr(ScoreFile, "problem", lambda _: None)
        write_score_file(path, wrong)
    with pytest.raises(UserError, match=message):
        read_score_file(path)


def _rewrite(path: Path, **changes: object) -> None:
    with np.load(path) as arrays:
        kept = dict(arrays)
    header = json.loads(kept["header"].tobytes()) | changes
    np.savez(path, **(kept | {"header": np.frombuffer(json.dumps(header).encode(), np.uint8)}))


def test_newer_versions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.npz"
    write_score_file(path, SCORES)
    _rewrite(path, version=2)
    with pytest.raises(UserError, match="has version 2 of the format, this p3d reads 1"):
        read_score_file(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:200]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("path,class\n"),
        lambda path: np.savez(path, logits=np.zeros(3)),
        lambda path: np.savez(path, header=np.array([{}], dtype=object)),
        lambda path: path.write_bytes(_npy()),
        lambda path: _rewrite(path, format="other"),
        lambda path: _rewrite(path, paths=3),
        lambda path: _rewrite(path, protocol=3),
    ],
)
def test_damaged_files_are_an_error_in_one_line(damage: Any, tmp_path: Path) -> None:
    path = tmp_path / "scores.npz"
    write_score_file(path, SCORES)
    damage(path)
    with pytest.raises(UserError, match="is not a file of p3d scores, or is damaged"):
        read_score_file(path)


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"scores\.npz: no such file; p3d eval --out writes it"):
        read_score_file(tmp_path / "scores.npz")
