"""Videos of an evaluation that the weights were trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from p3d.data.dataset import Split, VideoDataset
from p3d.data.digests import video_digest
from p3d.inference.exported import ExportedNetwork
from p3d.model.network import P3D


@dataclass(frozen=True)
class Overlap:
    """Videos that a network was both trained on and evaluated on.

    Attributes:
        videos: Number of videos evaluated.
        names: `CLASS/VIDEO` of those it was trained on.
    """

    videos: int
    names: tuple[str, ...]

    def message(self, split: Split) -> str | None:
        """Return a line for the user; None if there is no such video."""
        if not self.names:
            return None
        seen = f"{len(self.names):,} of {self.videos:,} {split} videos were in the training list"
        seen += f" of these weights (first: {self.names[0]})"
        if split == "train":
            return f"note: {seen}"
        return f"LEAK: {seen}; the accuracy does not show how well it does on new videos"


def find_overlap(
    model: P3D | ExportedNetwork, dataset: VideoDataset, indices: Sequence[int]
) -> Overlap | None:
    """Find the videos of an evaluation that a network was trained on.

    Args:
        model: The network.
        dataset: The data set.
        indices: Positions of the evaluated videos in its records.

    Returns:
        None if it is not known which videos the network was trained on.
    """
    if not model.trained_on:
        return None
    records = [dataset.records[index] for index in indices]
    seen = [r for r in records if video_digest(r, dataset.class_names) in model.trained_on]
    names = tuple(f"{dataset.class_names[r.label]}/{r.short_name}" for r in seen)
    return Overlap(len(records), names)
