"""Videos that occur twice."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from helpers.videos import write_frames, write_video
from p3d.evaluation import audit_duplicates
from p3d.evaluation.audit_duplicates import Item, near_duplicates, same_content
from p3d.scores.arrays import Floats


def make_items(count: int, *, group_size: int = 2, split: str = "train") -> list[Item]:
    return [
        Item(f"v{number}.avi", "run", f"{split}{number // group_size}", split)
        for number in range(count)
    ]


def plain_search(values: Floats, items: list[Item], similarity: float) -> set[tuple[str, str]]:
    """Return the same pairs as `near_duplicates`, one comparison at a time."""
    centered = values - values.mean(0)

    def cosine(one: int, other: int) -> float:
        a, b = centered[one], centered[other]
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))

    def tenth(one: int) -> float:
        others = [n for n in range(len(items)) if items[n].group != items[one].group]
        return sorted(1 - cosine(one, other) for other in others)[:10][-1]

    return {
        (items[one].path, items[other].path)
        for one in range(len(items))
        for other in range(one + 1, len(items))
        if items[one][2:] != items[other][2:]
        and cosine(one, other) >= similarity
        and 1 - cosine(one, other) <= 0.1 * min(tenth(one), tenth(other))
    }


def test_planted_copies_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies differ a little, in another split; videos of one group are alike, and no finding."""
    monkeypatch.setattr(audit_duplicates, "_BLOCK", 7)
    rng = np.random.default_rng(0)
    scenes = np.repeat(rng.normal(size=(30, 32)), 2, 0)
    originals = 5 + scenes + 0.05 * rng.normal(size=(60, 32))
    copied = rng.choice(60, 12, replace=False)
    copies = originals[copied] + 0.1 * rng.normal(size=(12, 32))
    values = np.concatenate([originals, copies])
    items = [*make_items(60), *make_items(12, group_size=1, split="test")]
    items[60:] = [item._replace(path=f"copy{n}.avi") for n, item in enumerate(items[60:])]
    found = near_duplicates(values, items, 0.95)
    pairs = {(pair.first.path, pair.second.path) for pair in found}
    assert {(f"v{number}.avi", f"copy{n}.avi") for n, number in enumerate(copied)} <= pairs
    # The other video of the same scene is a copy's near-duplicate too.
    expected = {(f"v{number ^ 1}.avi", f"copy{n}.avi") for n, number in enumerate(copied)}
    expected |= {(f"v{number}.avi", f"copy{n}.avi") for n, number in enumerate(copied)}
    both = [pair for pair in pairs if pair[0].startswith("copy")]
    assert pairs - set(both) <= expected
    assert pairs == plain_search(values, items, 0.95)
    cosines = [pair.cosine for pair in found]
    assert cosines == sorted(cosines, reverse=True)
    assert {pair.across for pair in found} <= {"splits and groups", "groups"}


def test_videos_of_a_group_may_resemble_each_other() -> None:
    """A person in front of the same wall, in two classes; but not in two splits."""
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(size=(20, 16)), 2, 0)
    items = [
        item._replace(label="run" if n % 2 else "walk") for n, item in enumerate(make_items(40))
    ]
    assert near_duplicates(values, items, 0.95) == []
    items[7] = items[7]._replace(split="test")
    [pair] = near_duplicates(values, items, 0.95)
    assert (pair.first.path, pair.second.path) == ("v6.avi", "v7.avi")
    assert pair.across == "splits and classes"


def test_features_of_classes_alone_give_no_duplicates() -> None:
    """All videos of a class have nearly the same features, as with a network that collapsed."""
    rng = np.random.default_rng(0)
    centers = np.repeat(rng.normal(size=(4, 32)), 50, 0)
    values = centers + 0.02 * rng.normal(size=(200, 32))
    assert near_duplicates(values, make_items(200, group_size=1), 0.95) == []


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_videos(count: int) -> None:
    values = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])[:count]
    found = near_duplicates(values, make_items(count, group_size=1), 0.95)
    assert len(found) == (1 if count == 3 else 0)


def test_same_content_is_found_among_files_and_folders(tmp_path: Path) -> None:
    first = write_video(tmp_path / "a.avi")
    shutil.copy(first, tmp_path / "b.avi")
    write_video(tmp_path / "other.avi", 7)
    frames = write_frames(tmp_path / "frames")
    shutil.copytree(frames, tmp_path / "again")
    items = [
        Item("a.avi", "run", "g1", "train"),
        Item(str(tmp_path / "b.avi"), "walk", "g2", "train"),
        Item(str(tmp_path / "other.avi"), "run", "g1", "train"),
        Item(str(frames), "run", "g1", "train"),
        Item(str(tmp_path / "again"), "run", "g1", "train"),
        Item("gone.avi", "run", "", ""),
    ]
    pairs, absent = same_content(items, tmp_path)
    assert absent == 1
    assert [(Path(p.first.path).name, Path(p.second.path).name, p.across) for p in pairs] == [
        ("a.avi", "b.avi", "classes and groups"),
        ("frames", "again", ""),
    ]
