"""Frame rates of the videos of a data set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from p3d.data.dataset import WHOLE, VideoDataset, VideoRecord
from p3d.data.listing import stem_of
from p3d.errors import BadVideoError, UserError
from p3d.system.text import counted

if TYPE_CHECKING:
    from p3d.preprocessing import Preprocessing  # imports PyTorch

_SOME = 16
"""Videos that are opened where a manifest states no rates."""


def check_rate(name: str, rate: float | None) -> None:
    """Check a frame rate that the user gave; None passes.

    Raises:
        UserError: It is not a finite number above 0.
    """
    if rate is not None and not 0 < rate < math.inf:
        raise UserError(f"{name} is {rate}; give frames per second, above 0, such as 25")


def rate_range(records: Sequence[VideoRecord]) -> tuple[float, float] | None:
    """Return the lowest and the highest frame rate of videos, in frames per second.

    Where not all rates are listed, it is that of at most 16 videos that are spread over the list. A
    function of the list and its videos alone.

    Returns:
        None if no rate is known.
    """
    rates = [record.fps for record in records if record.fps]
    if len(rates) < len(records):
        count = min(_SOME, len(records))
        some = [records[number * len(records) // count] for number in range(count)]
        rates = [rate for record in some if (rate := _rate_of(record))]
    return (min(rates), max(rates)) if rates else None


def _rate_of(record: VideoRecord) -> float | None:
    """Return the frame rate of a video, None if it is unknown or the video cannot be read."""
    if record.fps:
        return record.fps
    from p3d.video.decode import open_video  # imports PyTorch

    try:
        with open_video(record.path) as video:
            return video.fps if video.knows_fps else None
    except BadVideoError:
        return None


def assumed_rates(dataset: VideoDataset, prep: Preprocessing) -> list[str]:
    """Return a line about folders of frames whose rate is assumed, if it matters."""
    from p3d.video.frame_times import TIMES_FILE
    from p3d.video.sources import ASSUMED_FPS  # imports PyTorch

    folders = sum(
        (prep.fps is not None or record.segment != WHOLE)
        and not record.fps
        and stem_of(record.path.name) == record.path.name
        and record.path.is_dir()
        and not (record.path / TIMES_FILE).exists()
        for record in dataset.records
    )
    if not folders:
        return []
    return [
        f"NO RATE: {counted(folders, 'folder')} of frames taken as {ASSUMED_FPS:g} a second; give "
        "--frame-rate, or a column fps"
    ]
