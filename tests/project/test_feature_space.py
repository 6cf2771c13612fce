"""The example script that draws a feature space, on small features."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from p3d.inference.feature_file import write_features
from p3d.inference.feature_index import FeatureIndex

pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'p3d[learn]'")
pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'p3d[report]'")

SCRIPT = Path(__file__).parents[2] / "examples" / "feature_space.py"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def write_set(path: Path, classes: int, *, splits: bool, per_clip: bool = False) -> Path:
    """Write features of classes that differ in four directions."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % classes
    centers = np.zeros((classes, 24))
    centers[:, :4] = 8 * rng.normal(size=(classes, 4))
    values = centers[labels] + rng.normal(size=(60, 24))
    features = values.astype(np.float32)
    index = FeatureIndex(
        labels=tuple(labels.tolist()),
        class_names=tuple(f"类 {number}" for number in range(classes)),
        paths=tuple(f"v{number}.avi" for number in range(60)),
        groups=tuple(f"g{number // 6}" for number in range(60)),
        splits=tuple(("train", "train", "test")[n % 3] if splits else "" for n in range(60)),
        seen=(False,) * 60,
        bad=(),
        protocol={"layer": "pool5", "per_clip": per_clip},
        weights_sha256="0" * 64,
    )
    write_features(path, np.stack([features] * 2, 1) if per_clip else features, index)
    return path


@pytest.mark.parametrize(("classes", "splits"), [(4, True), (21, False)])
def test_the_picture_is_drawn(
    classes: int,
    splits: bool,
    script: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    features = write_set(tmp_path / "set.npz", classes, splits=splits, per_clip=splits)
    out = tmp_path / "space.png"
    given = out if splits else out.with_suffix("")
    assert script["main"]([str(features), "--out", str(given), "--videos", "50"]) == 0
    with Image.open(out) as picture:
        assert picture.size == (1440, 660)
        assert len(picture.convert("RGB").getcolors(10**6) or ()) > 100
    printed = capsys.readouterr().out
    assert f"written to {out}\n" in printed
    found = re.findall(r"(\d+) dimensions: ([\d.]+)%", printed)
    curve = {int(count): float(value) for count, value in found}
    assert [*curve] == [2, 4, 8, 16, 24]
    if splits:
        assert curve[4] > 90
        assert curve[4] >= curve[2]


def test_the_split_is_that_of_the_file(script: dict[str, Any], tmp_path: Path) -> None:
    videos = script["read_videos"](write_set(tmp_path / "set.npz", 4, splits=True))
    [(train, test)] = script["divide"](videos)
    assert (len(train), len(test)) == (40, 20)
    assert np.linalg.norm(videos.values, axis=1) == pytest.approx(1)
    videos = script["read_videos"](write_set(tmp_path / "set.npz", 4, splits=False))
    folds = script["divide"](videos)
    assert len(folds) == 5
    for train, test in folds:
        assert not set(videos.groups[train]) & set(videos.groups[test])


def test_other_files_are_refused(
    script: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features = write_set(tmp_path / "set.npz", 1, splits=False)
    assert script["main"]([str(features)]) == 2
    assert "needs 10 videos of 2 classes or more" in capsys.readouterr().err
    for path in (tmp_path / "absent.npz", SCRIPT):
        assert script["main"]([str(path)]) == 2
        assert "is not a file of p3d features" in capsys.readouterr().err
