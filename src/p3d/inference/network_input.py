"""What a network takes of a video: its frames, or their optical flow."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from p3d.data.clips import check_source
from p3d.preprocessing import Preprocessing
from p3d.video.flow import NO_GRAYS, ComputedFlow
from p3d.video.sources import FrameSource


def network_input(
    source: FrameSource, prep: Preprocessing, path: Path | None, device: torch.device
) -> FrameSource:
    """Return the frames that a network takes: optical flow is computed from RGB if needed.

    It is computed as the training videos' was, with a progress bar.

    Args:
        source: The video.
        prep: The network's preprocessing.
        path: The video's path; None for frames in memory.
        device: Where the flow of the method "tvl1" is computed.

    Raises:
        BadVideoError: The video does not hold what the network takes.
        UserError: Flow must be computed, and there is no OpenCV or no OpenCL device, which the
            method needs.
    """
    name = "frames in memory" if path is None else path.name
    if prep.channels == "flow" and source.flow is None:
        return computed_flow(source, prep, name, device)
    check_source(path or name, source, prep)
    return source


def computed_flow(
    source: FrameSource,
    prep: Preprocessing,
    name: str,
    device: torch.device,
    grays: Mapping[int, Tensor] = NO_GRAYS,
) -> ComputedFlow:
    """Return the flow of a video as a network takes it, with a progress bar of this name.

    See `network_input` and `ComputedFlow`.
    """
    bar = partial(tqdm, desc=f"flow of {name}", unit="frame", disable=None, leave=False)
    return ComputedFlow(
        source, prep.flow_short_side, prep.flow_method, device=device, grays=grays, each=bar
    )
