"""Protocols: which clips of a video an evaluation shows to a network, and at which size."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from p3d.data.views import Spacing, Views
from p3d.errors import UserError
from p3d.inference.clip_plan import NumClips
from p3d.preprocessing import Preprocessing

Name = Literal["weights", "paper", "authors-features"]

NUM_CLIPS = 20
"""Windows of a video in the paper, in the authors' extraction of features, and by default."""


@dataclass(frozen=True)
class _Published:
    """What a published protocol sets; all have 20 clips of 16 frames and a crop of 160."""

    resize: int | tuple[int, int]
    spacing: Spacing


_PUBLISHED: dict[Name, _Published] = {
    "paper": _Published((182, 242), "uniform"),
    # From the authors' answers to users about their features.
    "authors-features": _Published(162, "authors"),
}


@dataclass(frozen=True)
class Protocol:
    """How the clips of an evaluation are made.

    Attributes:
        name: "weights": sizes of the weights' preprocessing, uniformly spaced windows. "paper" and
            "authors-features": as published.
        clips: Windows of each video.
        views: Where the windows are, and the clips of each.
        prep: Sizes, and what the network takes.
    """

    name: Name
    clips: NumClips
    views: Views
    prep: Preprocessing

    @property
    def is_default(self) -> bool:
        """Whether only the number of clips is chosen."""
        return self.name == "weights" and self.views == Views()

    def describe(self) -> str:
        """Return what is done, for people, in a line."""
        prep, views = self.prep, self.views
        spacing = "uniform" if views.spacing == "uniform" else "author-spaced"
        parts = [
            f"{self.clips} {spacing} clips of {prep.num_frames} frames"
            + (f" {prep.describe_rate()}" if prep.fps else ""),
            f"resized to {prep.describe_resize()}",
            f"{'center crop' if views.crops == 1 else f'{views.crops} crops'} of {prep.crop}",
        ]
        parts += ["mirrored copies"] if views.mirror else []
        parts += [f"frames {views.order}"] if views.order != "ordered" else []
        return f"protocol {self.name}: {', '.join(parts)}"

    def record(self) -> dict[str, Any]:
        """Return the protocol as plain values, for files."""
        return {"protocol": self.name, "clips": self.clips, **asdict(self.views)}


def choose_protocol(name: Name, clips: NumClips, views: Views, prep: Preprocessing) -> Protocol:
    """Return the protocol of a network.

    Args:
        name: The protocol.
        clips: Windows of each video.
        views: The clips of each window; their spacing is that of the protocol.
        prep: The preprocessing of the network; a published protocol replaces its sizes.

    Raises:
        UserError: The options do not fit together, or not the network.
    """
    published = _PUBLISHED.get(name)
    if published is not None:
        if clips != NUM_CLIPS:
            raise UserError(
                f"--clips is {clips}, but --protocol {name} has {NUM_CLIPS}; drop one of them"
            )
        views = replace(views, spacing=published.spacing)
        prep = replace(
            prep, num_frames=16, frame_stride=1, resize=published.resize, crop=160, fps=None
        )
    if clips == "auto" and views.per_window > 1:
        raise UserError("--clips auto takes the center crop alone; drop --crops and --mirror")
    _check_views(views, prep)
    return Protocol(name, clips, views, prep)


def _check_views(views: Views, prep: Preprocessing) -> None:
    if views.crops == 10 and views.mirror:
        raise UserError("--crops 10 has mirrored copies already; drop --mirror")
    if views.crops > 1 and prep.resize == (prep.crop, prep.crop):
        raise UserError(
            f"--crops {views.crops}: frames are resized to {prep.describe_resize()}, the size of "
            "the crop, so that all crops are the same; drop --crops, or give a --protocol"
        )
    if views.order != "ordered" and prep.channels == "flow":
        raise UserError(
            "--frames: the network takes optical flow, and each picture of flow depends on the "
            "order of two frames; use --frames ordered, or a network for RGB"
        )
    if views.seed < 0:
        raise UserError(f"--seed is {views.seed}; give 0 or more")
