"""The page at `/` and its sample videos. Nothing is loaded from elsewhere."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

import av
from fastapi import FastAPI, Response

from p3d.prepare.motions import CLASSES, render_video
from p3d.prepare.sample import FPS
from p3d.serve.problems import Problem

_FOLDER = Path(__file__).parent / "page"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_CODEC = "libvpx"
_GROUP = 99
"""Group of the sample videos; no list of a sample set has it by default."""


def add_page(app: FastAPI) -> None:
    """Add the page, its files and the sample videos."""
    files = {path.name: path.read_bytes() for path in _FOLDER.iterdir() if path.suffix in _TYPES}

    def respond(name: str) -> Response:
        return Response(files[name], media_type=_TYPES[Path(name).suffix])

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return respond("index.html")

    @app.get("/page/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        if name not in files:
            raise Problem(404, f"/page/{name}: not found")
        return respond(name)

    @app.get("/samples", include_in_schema=False)
    async def samples() -> list[str]:
        return list(CLASSES) if _CODEC in av.codecs_available else []

    @app.get("/samples/{name}", include_in_schema=False)
    def sample(name: str) -> Response:
        if name not in CLASSES or _CODEC not in av.codecs_available:
            raise Problem(404, f"/samples/{name}: not found")
        return Response(_sample_video(name), media_type="video/webm")


@lru_cache(len(CLASSES))
def _sample_video(name: str) -> bytes:
    """Return a video of a class of the sample set as WebM, which all browsers play."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="webm") as container:
        stream = container.add_stream(_CODEC, rate=FPS, options={"crf": "4", "b": "2M"})
        assert isinstance(stream, av.VideoStream)
        frames = render_video(name, _GROUP, 1, 0)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()
