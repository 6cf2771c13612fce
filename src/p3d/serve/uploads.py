"""Videos that a request sends or names."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from p3d.errors import printable
from p3d.serve.options import Limits
from p3d.serve.problems import Problem
from p3d.system.text import counted
from p3d.video.suffixes import STILL_SUFFIXES, VIDEO_SUFFIXES

_MOST_JSON, _MOST_FRAMING = 2**16, 2**16
"""Bytes of a JSON body, and of a multipart body besides the file."""
_LONGEST_NAME = 200
_PREFIX = "p3d-serve-"

# It repeats what the answer says, in lines that are not the service's.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


class TemporaryFolder:
    """A private folder for uploads, which is empty between requests and removed at the end."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))  # only this user may open it

    @contextmanager
    def file(self) -> Iterator[Path]:
        """Yield a folder for the files of one request, which is removed at the end of the block.

        Raises:
            Problem: It cannot be made (507).
        """
        try:
            if not self.path.is_dir():  # systems delete what is old in their folder
                self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
            folder = Path(tempfile.mkdtemp(dir=self.path))
        except OSError as error:
            raise _no_room(self.path, error) from error
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)


def content_type(request: Request) -> str:
    """Return the media type of a request's body, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def receive_upload(request: Request, folder: Path, limits: Limits) -> tuple[Path, str]:
    """Write the file of a multipart body into a folder as it arrives.

    Args:
        request: The request.
        folder: An empty folder.
        limits: Its size and the time that it may take.

    Returns:
        The file, and the name that the client gives it.

    Raises:
        Problem: The body is not complete multipart data with a file (400), too large (413), or
            takes too long (408).
    """
    _check_length(request, limits.max_bytes)
    _, parameters = parse_options_header(request.headers["content-type"])
    boundary = parameters.get(b"boundary")
    if not boundary:
        raise Problem(400, "the multipart body has no boundary; let the HTTP library set it")
    reader = _FilePart(folder, limits.max_bytes)
    try:
        parser = MultipartParser(boundary, reader.callbacks())  # type: ignore[arg-type]
        await asyncio.wait_for(_feed(request, parser, limits), limits.upload_seconds)
        reader.close()  # writes what is left, which may fail
    except asyncio.TimeoutError:
        raise Problem(
            408, f"the upload took longer than {limits.upload_seconds:g} s; send a smaller file"
        ) from None
    except (MultipartParseError, ValueError) as error:
        raise Problem(
            400, f"the multipart body is damaged ({error}); send the file again"
        ) from None
    except ClientDisconnect:
        raise Problem(400, "the upload ended early; send the file again") from None
    except OSError as error:
        raise _no_room(folder.parent, error) from error
    finally:
        with suppress(OSError):
            reader.close()
    return reader.result()


def _no_room(folder: Path, error: OSError) -> Problem:
    return Problem(
        507,
        f"the upload cannot be written to {folder} ({error.strerror}); free space on its disk, or "
        "start the service with another TMPDIR",
    )


def _check_length(request: Request, most: int) -> None:
    """Refuse a body that says that it is too large, before it is read."""
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length) > most + _MOST_FRAMING:
        raise _too_large(most)


def _too_large(most: int) -> Problem:
    return Problem(
        413,
        f"the file is larger than {counted(most, 'byte')}, the limit (see /v1/model); send a "
        "shorter or a smaller video",
    )


async def _feed(request: Request, parser: MultipartParser, limits: Limits) -> None:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limits.max_bytes + _MOST_FRAMING:
            raise _too_large(limits.max_bytes)
        parser.write(chunk)


class _FilePart:
    """Receives what the parser finds, and writes the part with a file name."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._field, self._value = b"", b""
        self._part_name: str | None = None
        self._file: IO[bytes] | None = None
        self._found: tuple[Path, str] | None = None
        self._size, self._ended = 0, False

    def callbacks(self) -> dict[str, object]:
        """Return the functions for the parser."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._add_field,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._open,
            "on_part_data": self._write,
            "on_part_end": self.close,
            "on_end": self._end,
        }

    def result(self) -> tuple[Path, str]:
        """Return the file and its name.

        Raises:
            Problem: The body ended early, or had no file.
        """
        if not self._ended:
            raise Problem(400, "the multipart body ends early; send the file again")
        if self._found is None:
            raise Problem(400, "the multipart body has no file; send one: curl -F video=@walk.avi")
        return self._found

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _begin(self) -> None:
        self._part_name = None

    def _add_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._field.lower() == b"content-disposition":
            _, parameters = parse_options_header(self._value)
            if b"filename" in parameters:
                self._part_name = parameters[b"filename"].decode("utf-8", "replace")
        self._field, self._value = b"", b""

    def _open(self) -> None:
        if self._part_name is None:
            return
        if self._found is not None:
            raise Problem(400, "the multipart body has several files; send one in each request")
        name = printable(re.split(r"[/\\]", self._part_name)[-1])[-_LONGEST_NAME:] or "upload"
        path = self._folder / f"video{_suffix(name)}"
        self._file, self._found = path.open("xb"), (path, name)

    def _write(self, data: bytes, start: int, end: int) -> None:
        if self._file is None:
            return
        self._size += end - start
        if self._size > self._max_bytes:
            raise _too_large(self._max_bytes)
        self._file.write(data[start:end])

    def _end(self) -> None:
        self._ended = True


def _suffix(name: str) -> str:
    """Return the suffix of a video or picture, which names what the file is in messages."""
    suffix = Path(name).suffix.lower()
    return suffix if suffix[1:] in VIDEO_SUFFIXES or suffix in STILL_SUFFIXES else ""


async def receive_path(request: Request, root: Path | None, limits: Limits) -> tuple[Path, str]:
    """Return the video that a JSON body names, `{"path": "walk.avi"}`, and its name.

    Raises:
        Problem: The body is damaged (400), paths are not taken or lead out of the root (403), or
            there is no such file (404).
    """
    try:
        body = await asyncio.wait_for(_read_body(request), limits.upload_seconds)
        name = json.loads(body)["path"]
        if not isinstance(name, str) or not name or "\0" in name:
            raise ValueError
    except asyncio.TimeoutError:
        raise Problem(408, "the request took too long; send it again") from None
    except ClientDisconnect:
        raise Problem(400, "the request ended early; send it again") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Problem(400, 'the body is not {"path": "walk.avi"}; send JSON like this') from None
    if root is None:
        raise Problem(403, "this service takes uploads only; start it with --root for paths")
    return find_in_root(name, root), name


async def _read_body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_JSON:
            raise Problem(413, f"the JSON body is larger than {_MOST_JSON:,} bytes; name one video")
    return body


def find_in_root(name: str, root: Path) -> Path:
    """Return a path under a folder, with all links resolved.

    Args:
        name: Relative to the folder, or absolute and inside it.
        root: The folder.

    Raises:
        Problem: The path, or a file of a folder of frames, is outside (403) or missing (404).
    """
    root = root.resolve()
    outside = Problem(403, f"{name}: is not in the folder of this service; name a video inside it")
    try:
        path = (root / name).resolve()
        if not path.is_relative_to(root):
            raise outside
        if not path.exists():
            raise Problem(404, f"{name}: no such file or folder")
        if path.is_dir() and not all(
            entry.resolve().is_relative_to(root) for entry in path.iterdir()
        ):
            raise outside
    except (OSError, ValueError, RuntimeError):  # too long, no permission, a circle of links
        raise Problem(404, f"{name}: no such file or folder") from None
    return path
