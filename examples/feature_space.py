"""Draw the feature space of a network: t-SNE, and accuracy against the number of PCA dimensions.

Both pictures follow the paper (Qiu, Yao and Mei, ICCV 2017), which draws the representations of
videos by t-SNE, and measures linear support vector machines on their first principal components:

    p3d features --data ucf101 --weights runs/ucf101 --out features.npz
    python examples/feature_space.py features.npz --out feature_space.png

The classifier is trained on training and validation videos and measured on test videos. If the
features are not of such splits, five folds keep the videos of a group together.

It needs the extras `learn` and `report`: pip install 'p3d[learn,report]'.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.model_selection import GroupKFold
from sklearn.svm import LinearSVC

from p3d.system.fonts import plot_fonts

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
NAMED = 20
"""Most classes that the legend names."""
FOLDS = 5


@dataclass(frozen=True)
class Videos:
    """Features of V videos.

    Attributes:
        values: float64 `(V, D)`, see `normalize`.
        labels: int64 `(V,)`.
        groups: int64 `(V,)`; videos without a group have one each.
        splits: The split of each video; "" if there is none.
        class_names: Class names by label.
    """

    values: Floats
    labels: Integers
    groups: Integers
    splits: NDArray[np.str_]
    class_names: Sequence[str]


def read_videos(path: Path) -> Videos:
    """Read a file of `p3d features`."""
    with np.load(path) as arrays:
        values, labels = arrays["features"].astype(np.float64), arrays["labels"]
        header = json.loads(arrays["header"].tobytes())
    if header["protocol"].get("per_clip"):
        values = values.mean(1)
    numbers: dict[object, int] = {}
    keys = [group or position for position, group in enumerate(header["groups"])]
    return Videos(
        normalize(values.reshape(len(values), -1)),
        labels,
        np.array([numbers.setdefault(key, len(numbers)) for key in keys]),
        np.array(header["splits"]),
        header["class_names"],
    )


def normalize(values: Floats) -> Floats:
    """Take the signed square root, and scale each vector to length 1, as `p3d probe` does."""
    rooted = np.sign(values) * np.sqrt(np.abs(values))
    lengths = np.linalg.norm(rooted, axis=1, keepdims=True)
    return rooted / np.where(lengths > 0, lengths, 1)


def embed(videos: Videos, limit: int, seed: int) -> tuple[Floats, Integers]:
    """Return positions by t-SNE, `(N, 2)`, of at most `limit` random videos, and their labels."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(videos.labels))[:limit]
    # Distances in the first 50 components are nearly those in all, and much faster to compute.
    size = min(50, *videos.values[chosen].shape)
    reduced = PCA(size, random_state=seed).fit_transform(videos.values[chosen])
    perplexity = min(30.0, (len(chosen) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    return tsne.fit_transform(reduced), videos.labels[chosen]


def divide(videos: Videos) -> list[tuple[Integers, Integers]]:
    """Return training and test videos of each fold."""
    test = np.flatnonzero(videos.splits == "test")
    train = np.flatnonzero(np.isin(videos.splits, ("train", "validation")))
    if len(test) and len(train):
        return [(train, test)]
    folds = GroupKFold(min(FOLDS, len(set(videos.groups.tolist()))))
    return list(folds.split(videos.values, videos.labels, videos.groups))


def accuracy_by_dimensions(videos: Videos, c: float, seed: int) -> Iterator[tuple[int, float]]:
    """Yield numbers of dimensions, and the accuracy of a linear classifier on so many.

    The principal components are those of the training videos.
    """
    folds = divide(videos)
    most = min(min(len(train) for train, _ in folds), videos.values.shape[1])
    dimensions = [*(2**power for power in range(1, 12) if 1.4 * 2**power < most), most]
    turned = []
    for train, test in folds:
        pca = PCA(most, random_state=seed).fit(videos.values[train])
        turned.append((pca.transform(videos.values[train]), pca.transform(videos.values[test])))
    for count in dimensions:
        right = 0
        for (train, test), (seen, unseen) in zip(folds, turned, strict=True):
            classifier = LinearSVC(C=c, random_state=seed, max_iter=10_000)
            classifier.fit(seen[:, :count], videos.labels[train])
            right += int((classifier.predict(unseen[:, :count]) == videos.labels[test]).sum())
        yield count, right / sum(len(test) for _, test in folds)


def draw(
    videos: Videos, positions: Floats, labels: Integers, curve: Sequence[tuple[int, float]]
) -> Figure:
    """Draw the positions of videos in the color of their class, and the accuracies."""
    figure = Figure(figsize=(12, 5.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_positions(left, videos.class_names, positions, labels)
    counts, accuracies = zip(*curve, strict=True)
    right.plot(counts, accuracies, "o-")
    right.set_xscale("log", base=2)
    right.set_xticks(counts, [f"{count:,}" for count in counts], rotation=45)
    right.minorticks_off()
    right.set(xlabel="PCA dimensions", ylim=(0, 1.02))
    right.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    right.set_title("Accuracy of a linear SVM on held-out videos")
    right.grid(alpha=0.3)
    return figure


def _draw_positions(
    axes: Axes, class_names: Sequence[str], positions: Floats, labels: Integers
) -> None:
    present = np.unique(labels).tolist()
    for number, label in enumerate(present):
        # Neighbors in the list of classes get colors that are far apart.
        color = (number * 0.618) % 1.0
        points = positions[labels == label]
        shade: Any = {"c": np.full(len(points), color), "cmap": "hsv", "vmin": 0, "vmax": 1}
        axes.scatter(*points.T, s=12, label=class_names[label], linewidths=0, **shade)
    if len(present) <= NAMED:
        axes.legend(fontsize=8, markerscale=1.5, loc="best").set_in_layout(False)
    axes.set_title(f"t-SNE of {len(labels):,} videos of {len(present)} classes")
    axes.set(xticks=[], yticks=[])


def main(arguments: Sequence[str] | None = None) -> int:
    """Read features, print the accuracies, and write the picture; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("features", type=Path, help="file of p3d features")
    parser.add_argument("--out", type=Path, default=Path("feature_space.png"))
    parser.add_argument("--videos", type=int, default=10_000, help="most videos of t-SNE")
    parser.add_argument("--c", type=float, default=10.0, help="C of the support vector machine")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        videos = read_videos(options.features)
    except (OSError, KeyError, ValueError) as error:
        print(f"{options.features}: is not a file of p3d features ({error})", file=sys.stderr)
        return 2
    if len(videos.labels) < 10 or len(np.unique(videos.labels)) < 2:
        print(f"{options.features}: needs 10 videos of 2 classes or more", file=sys.stderr)
        return 2
    positions, labels = embed(videos, options.videos, options.seed)
    curve = []
    for count, accuracy in accuracy_by_dimensions(videos, options.c, options.seed):
        print(f"{count:>5} dimensions: {accuracy:.1%}")
        curve.append((count, accuracy))
    out = options.out if options.out.suffix else options.out.with_suffix(".png")
    with plot_fonts("".join(videos.class_names)):
        draw(videos, positions, labels, curve).savefig(out, dpi=120)
    print(f"written to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
