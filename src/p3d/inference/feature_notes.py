"""The features that workers return become files of a folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from p3d.archive.notes import Notes
from p3d.data.dataset import VideoRecord
from p3d.data.loader import with_remedy
from p3d.errors import BadVideoError
from p3d.inference.feature_folder import FeatureFolder


class FeatureNotes(Notes):
    """Writes the features that workers return.

    Args:
        folder: Where they go.
        items: The videos by name.
        stops: Whether to raise an error for a video that cannot be read.
        keeps_attempts: Whether videos that kill their workers are known to later runs; several
            processes cannot share the log.
    """

    def __init__(
        self,
        folder: FeatureFolder,
        items: Mapping[str, VideoRecord],
        stops: bool,
        *,
        keeps_attempts: bool,
    ) -> None:
        super().__init__(folder.path if keeps_attempts else None)
        self._folder, self._items, self._stops = folder, items, stops

    def add(self, video: str, note: Any) -> None:
        """Write the features of a video."""
        self._folder.add(video, note)
        super().add(video, None)

    def add_bad(self, video: str, reason: str) -> None:
        """Add a video that has no features.

        Raises:
            BadVideoError: The policy is to stop.
        """
        super().add_bad(video, reason)
        if self._stops:
            raise with_remedy(BadVideoError(self._items[video].name, reason))
