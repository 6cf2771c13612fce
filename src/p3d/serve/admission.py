"""Which requests and uploads are accepted, and how many are under way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from p3d.serve.options import Limits
from p3d.serve.problems import Problem

_RETRY_SECONDS = 2


class Admission:
    """Accepts requests within the limits, and none while the service stops.

    Args:
        limits: Number of requests and of uploads.

    Attributes:
        accepted: Requests accepted and not yet answered.
        uploads: Uploads at present.
        is_stopping: Whether no more requests are accepted.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.accepted, self.uploads, self.is_stopping = 0, 0, False

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request while it is answered.

        Raises:
            Problem: Too many requests wait, or the service is stopping (503).
        """
        if self.is_stopping:
            raise Problem(
                503, "the service is stopping; send the request again later", retry=_RETRY_SECONDS
            )
        if self.accepted >= self._limits.max_queue:
            raise Problem(
                503,
                f"{self.accepted} requests wait already, the limit; try again later",
                retry=_RETRY_SECONDS,
            )
        self.accepted += 1
        try:
            yield
        finally:
            self.accepted -= 1

    @contextmanager
    def upload(self) -> Iterator[None]:
        """Count an upload while it arrives.

        Raises:
            Problem: There are too many uploads (429).
        """
        if self.uploads >= self._limits.max_uploads:
            raise Problem(
                429,
                f"{self.uploads} uploads are under way, the limit; try again later",
                retry=_RETRY_SECONDS,
            )
        self.uploads += 1
        try:
            yield
        finally:
            self.uploads -= 1
