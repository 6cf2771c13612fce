"""Score files of the same videos, brought into the same order, and files of different videos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import NamedTuple

import numpy as np

from p3d.data.dataset import parse_name
from p3d.errors import UserError
from p3d.scores.score_file import ScoreFile
from p3d.system.text import counted
from p3d.video.suffixes import VIDEO_SUFFIXES


class Named(NamedTuple):
    """Scores, and how the user calls them."""

    name: str
    scores: ScoreFile


def check_same_classes(first: Named, second: Named) -> None:
    """Check that two files have the same classes in the same order.

    Raises:
        UserError: They differ.
    """
    ours, theirs = first.scores.class_names, second.scores.class_names
    if ours == theirs:
        return
    names = f"{first.name} and {second.name}"
    if sorted(ours) == sorted(theirs):
        raise UserError(
            f"{names} have the same classes in another order; score both networks on one data set"
        )
    if len(ours) != len(theirs):
        counts = f"{len(ours)} and {counted(len(theirs), 'class')}"
        raise UserError(f"{names} have {counts}; give scores of the same classes")
    ours_only = next(name for name, other in zip(ours, theirs, strict=True) if name != other)
    theirs_only = theirs[ours.index(ours_only)]
    raise UserError(
        f"{names} have other classes: {ours_only!r} and {theirs_only!r}, for example; give scores "
        "of the same classes"
    )


def align(first: Named, second: Named) -> ScoreFile:
    """Return the second scores in the order of the first.

    Videos are the same if the ends of their paths are, without the suffix of a video file: the
    shortest ends that tell the videos of each file apart. So pictures and their optical flow, which
    lie in different folders, belong together.

    Raises:
        UserError: The classes, the splits, the videos or their labels differ.
    """
    check_same_classes(first, second)
    splits = {first.scores.split, second.scores.split} - {""}
    if len(splits) > 1:
        raise UserError(
            f"{first.name} and {second.name} are of the splits {' and '.join(sorted(splits))}; "
            "give scores of the same videos"
        )
    ours, theirs = path_keys(first.scores.paths, second.scores.paths)
    positions = {key: position for position, key in enumerate(theirs)}
    _check_same_videos(first, second, ours, theirs)
    aligned = second.scores.select(np.array([positions[key] for key in ours], dtype=np.int64))
    different = np.flatnonzero(aligned.labels != first.scores.labels)
    if len(different):
        raise UserError(
            f"{first.scores.paths[different[0]]} has another class in {second.name} than in "
            f"{first.name} ({counted(len(different), 'such video')}); score both on one data set"
        )
    return aligned


def _check_same_videos(
    first: Named, second: Named, ours: Sequence[str], theirs: Sequence[str]
) -> None:
    facts = []
    for one, other, keys, others in (
        (first, second, ours, set(theirs)),
        (second, first, theirs, set(ours)),
    ):
        extra = [
            path for key, path in zip(keys, one.scores.paths, strict=True) if key not in others
        ]
        if extra:
            facts.append(
                f"{other.name} lacks {counted(len(extra), 'video')} of {one.name} "
                f"(first: {extra[0]})"
            )
    if facts:
        raise UserError(f"{'; '.join(facts)}; score both networks on the same videos")


def path_keys(first: Sequence[str], second: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the shortest ends of paths that tell the videos of each file apart."""
    parts = [[_parts(path) for path in paths] for paths in (first, second)]
    deepest = max(len(each) for paths in parts for each in paths)
    for depth in range(1, deepest + 1):
        ours, theirs = (["/".join(each[-depth:]) for each in paths] for paths in parts)
        if len(set(ours)) == len(ours) and len(set(theirs)) == len(theirs):
            return ours, theirs
    return list(first), list(second)


def _parts(path: str) -> tuple[str, ...]:
    file, _ = parse_name(path)
    pure = PurePath(file)
    is_video = pure.suffix[1:].lower() in VIDEO_SUFFIXES
    *folders, name = (pure.with_suffix("") if is_video else pure).parts or ("",)
    return (*folders, name + path.removeprefix(file))


def pool(files: Sequence[Named]) -> ScoreFile:
    """Return the scores of different videos in one, as of the folds of a cross-validation.

    Raises:
        UserError: The classes or the numbers of clips differ, or a video is in two files.
    """
    first, owner = files[0], dict[str, str]()
    for each in files:
        check_same_classes(first, each)
        if each.scores.logits.shape[1] != first.scores.logits.shape[1]:
            raise UserError(
                f"{first.name} and {each.name} have {first.scores.logits.shape[1]} and "
                f"{each.scores.logits.shape[1]} clips a video; score both with the same --clips"
            )
        for path in each.scores.paths:
            if owner.setdefault(path, each.name) != each.name:
                raise UserError(
                    f"{path} is in {owner[path]} and in {each.name}; a video is scored once, when "
                    "it was not trained on"
                )
    scores = [each.scores for each in files]
    hashes, splits = {each.weights_sha256 for each in scores}, {each.split for each in scores}
    has_starts = all(each.starts is not None for each in scores)
    return ScoreFile(
        np.concatenate([each.logits for each in scores]),
        np.concatenate([each.labels for each in scores]),
        first.scores.class_names,
        tuple(path for each in scores for path in each.paths),
        tuple(group for each in scores for group in each.groups),
        {
            "split": splits.pop() if len(splits) == 1 else "",
            "pooled": [dict(each.protocol) for each in scores],
        },
        hashes.pop() if len(hashes) == 1 else "",
        np.concatenate([each.starts for each in scores]) if has_starts else None,
        np.concatenate([each.times for each in scores]) if has_starts else None,
    )
