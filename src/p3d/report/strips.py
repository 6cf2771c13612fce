"""Thumbnails of videos for a page, as embedded JPEG images."""

from __future__ import annotations

import base64
from pathlib import Path

from p3d.data.dataset import parse_name
from p3d.errors import BadVideoError, UserError
from p3d.video.thumbnails import encode_jpeg, video_strip


def embed_strip(path: Path, base: Path) -> dict[str, str]:
    """Return frames of a video as base64 ("jpeg"), or why there are none ("reason").

    Args:
        path: The video, with the times of a segment, see `VideoRecord.name`.
        base: Folder that a relative path starts from, if there is no such video in the current one.
    """
    file, segment = parse_name(str(path))
    path = Path(file)
    if not path.exists():
        path = base / path
    try:
        return {"jpeg": base64.b64encode(encode_jpeg(video_strip(path, segment))).decode()}
    except (UserError, ValueError) as error:
        return {"reason": error.reason if isinstance(error, BadVideoError) else str(error)}
