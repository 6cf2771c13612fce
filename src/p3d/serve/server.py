"""The process of `p3d serve`: its socket, its signals and its end."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from p3d.errors import UserError, printable
from p3d.serve.app import create_app
from p3d.serve.options import ServeOptions
from p3d.serve.service import Service
from p3d.system.messages import print_note, print_warning
from p3d.system.signals import StopRequest
from p3d.system.text import counted

_HEADER_SECONDS = 10.0
_CLOSING_SECONDS = 5


def serve(options: ServeOptions, token: str | None) -> int:
    """Serve until a signal asks to stop; return 0 if all accepted requests were answered.

    Raises:
        UserError: The weights cannot be read, or the address cannot be used.
    """
    with (
        StopRequest() as stop,
        _listen(options.host, options.port) as listener,
        closing(Service(options)) as service,
    ):
        service.decoders.wait_until_ready()
        listener.listen()  # from here on, requests wait rather than fail
        port = listener.getsockname()[1]
        host = f"[{options.host}]" if ":" in options.host else options.host
        about = f"{service.network.config.name}, {counted(len(service.class_names), 'class')}"
        print(
            printable(
                f"p3d: serving {about}, on {service.scorer.device}, at http://{host}:{port}/"
            ),
            file=sys.stderr,
            flush=True,
        )
        config = uvicorn.Config(
            create_app(service, token),
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_level="error",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_CLOSING_SECONDS,
        )
        server = _Server(config, service, stop)
        server.run(sockets=[listener])
        if server.lost:
            print_warning(
                f"{counted(server.lost, 'request')} not answered within --stop-seconds "
                f"{options.stop_seconds:g}"
            )
        return 1 if server.lost else 0


@contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    """Open the socket before the network is loaded, so that a port in use is reported at once."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(
            f"--host {host}: is no address of this machine ({error.strerror})"
        ) from error
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise UserError(
                    f"--host {host}: is no address of this machine ({error.strerror}); give one of "
                    "its own, or 0.0.0.0 for all of them"
                ) from error
            raise UserError(
                f"--host {host} --port {port}: cannot be used ({error.strerror}); choose another "
                "--port, or 0 for any free one"
            ) from error
        yield listener


class _Server(uvicorn.Server):
    """A server that first answers what it has accepted when it is asked to stop.

    Attributes:
        lost: Requests that were not answered in time.
    """

    def __init__(self, config: uvicorn.Config, service: Service, stop: StopRequest) -> None:
        super().__init__(config)
        self._service, self._stop = service, stop
        self._end: float | None = None
        self.lost = 0

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `StopRequest`."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Return whether to exit; called ten times a second."""
        if self._stop.is_set and self._end is None:
            self._service.admission.is_stopping = True
            self._say_what_is_left()
            self._end = time.monotonic() + self._service.options.stop_seconds
        if self._end is not None and (not self._service.pending or time.monotonic() >= self._end):
            self.lost = self._service.admission.accepted + self._service.jobs.unfinished
            return True
        return await super().on_tick(counter)

    def _say_what_is_left(self) -> None:
        """Print why the service does not end at once, if so."""
        if pending := self._service.pending:
            print_note(
                f"stopping; {counted(pending, 'request')} to be answered or fetched, for up to "
                f"{self._service.options.stop_seconds:g} s; a second signal ends it at once"
            )


class _Protocol(H11Protocol):
    """Closes connections that send no request; uvicorn would wait for ever."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock."""
        super().connection_made(transport)
        self.loop.call_later(_HEADER_SECONDS, self._close_if_silent)

    def _close_if_silent(self) -> None:
        cycle: Any = self.cycle
        if cycle is None:
            self.transport.close()
