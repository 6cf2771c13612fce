"""Whether the head of a Ray cluster, which knows where everything is, still answers."""

from __future__ import annotations

import socket
import time

from p3d.errors import UserError
from p3d.system.files import reason_of

_LOOK_SECONDS = 3.0
_HEAD_SECONDS = 30.0
"""A head that is restarted in this time, as with a database of its own, is not missed."""


class Head:
    """The head of the cluster. Ray ends this process a minute after its death, without cleaning up.

    Args:
        address: Where it answers.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._looked_at = time.monotonic()
        self._seen_at: float | None = None  # Ray's client need not reach it

    def check(self) -> None:
        """Look from time to time whether it answers.

        Raises:
            UserError: It has not answered for half a minute.
        """
        now = time.monotonic()
        if now - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = now
        host, _, port = self.address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), _LOOK_SECONDS).close()
        except OSError as error:
            if self._seen_at is not None and now - self._seen_at > _HEAD_SECONDS:
                raise UserError(
                    f"the head of the Ray cluster, {self.address}, does not answer any more "
                    f"({reason_of(error)}); start it again, then the same command goes on"
                ) from error
        else:
            self._seen_at = now
