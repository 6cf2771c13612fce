"""Digests of videos' names, by which weights know the videos that they were trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from p3d.data.dataset import UNLABELED, VideoRecord
from p3d.data.listing import spelling_key

DIGEST_BYTES = 5
"""Length of a digest: among a million videos, another one has the same digest by chance in 1 of
1,000,000 cases."""


def video_digest(record: VideoRecord, class_names: Sequence[str]) -> bytes:
    """Return a digest of a video's class and file name, and of a segment's times.

    The folders above the class are left out, so that it survives a move of the data set.

    Args:
        record: The video.
        class_names: Names of the data set's classes.

    Returns:
        `DIGEST_BYTES` bytes.
    """
    name = "" if record.label == UNLABELED else class_names[record.label]
    text = spelling_key(f"{name}/{record.short_name}").encode("utf-8", "surrogateescape")
    return hashlib.blake2b(text, digest_size=DIGEST_BYTES).digest()
