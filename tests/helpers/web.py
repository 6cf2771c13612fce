"""A local web server for the files of a folder, with or without ranges."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit


class Web(NamedTuple):
    """A running server: its address, and the `Range` headers of the requests for contents."""

    address: str
    ranges: list[str | None]


@contextmanager
def serving(folder: Path, *, has_ranges: bool = True, says_size: bool = True) -> Iterator[Web]:
    """Serve a folder; names that begin with `secret` are forbidden, folders are pages of links."""
    ranges: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(is_head=True)

        def do_GET(self) -> None:
            self._answer(is_head=False)

        def _answer(self, *, is_head: bool) -> None:
            path = folder / urlsplit(self.path).path.strip("/")
            if path.name.startswith("secret") or not path.exists():
                self.send_error(403 if path.exists() else 404)
                return
            is_page = path.is_dir()
            data = _links(path) if is_page else path.read_bytes()
            given = self.headers.get("Range") if has_ranges and not is_page else None
            size = len(data)
            match = re.fullmatch(r"bytes=(\d+)-(\d*)", given or "")
            self.send_response(206 if match else 200)
            if match:
                first, last = int(match[1]), min(int(match[2] or size), size - 1)
                data = data[first : last + 1]
                self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            if has_ranges:
                self.send_header("Accept-Ranges", "bytes")
            if is_page:
                self.send_header("Content-Type", "text/html")
            if says_size:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if not is_head:
                ranges.append(given)
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield Web(f"http://127.0.0.1:{server.server_port}", ranges)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _links(folder: Path) -> bytes:
    names = [f"{path.name}/" if path.is_dir() else path.name for path in sorted(folder.iterdir())]
    return "".join(f'<a href="{name}">{name}</a>\n' for name in names).encode()
