"""Random scores of videos, for the figures that are computed from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from p3d.scores.score_file import ScoreFile, write_score_file


def random_scores(
    seed: int = 0,
    *,
    videos: int = 40,
    clips: int = 3,
    classes: int = 4,
    group_size: int = 5,
    strength: float = 1.0,
    root: str = "/set",
    suffix: str = ".avi",
    **changes: Any,
) -> ScoreFile:
    """Return scores of videos whose labels, paths and groups do not depend on the seed.

    Args:
        seed: Seed of the logits.
        videos: Number of videos.
        clips: Number of clips.
        classes: Number of classes; all have a video if there are enough videos.
        group_size: Videos in each group.
        strength: What is added to the logits of the right class.
        root: Folder of the class folders.
        suffix: Suffix of the videos.
        changes: Fields of `ScoreFile` that replace the others.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(videos) * 7 % classes
    logits = 2 * rng.normal(size=(videos, 1, classes)) + rng.normal(size=(videos, clips, classes))
    logits[np.arange(videos), :, labels] += strength
    names = tuple(f"class{number}" for number in range(classes))
    starts = np.tile(np.arange(clips) * 8, (videos, 1))
    values: dict[str, Any] = {
        "logits": logits.astype(np.float32),
        "labels": labels,
        "class_names": names,
        "paths": tuple(f"{root}/{names[k]}/v{i}{suffix}" for i, k in enumerate(labels.tolist())),
        "groups": tuple(f"g{i // group_size}" for i in range(videos)),
        "protocol": {"split": "test", "clips": clips},
        "weights_sha256": f"{seed % 16:x}" * 64,
        "starts": starts,
        "times": starts / 25,
    }
    return ScoreFile(**(values | changes))


def write_random(folder: Path, seed: int = 0, **options: Any) -> Path:
    """Write random scores as `scores.npz` to a new folder, and return the folder."""
    folder.mkdir()
    write_score_file(folder / "scores.npz", random_scores(seed, **options))
    return folder
