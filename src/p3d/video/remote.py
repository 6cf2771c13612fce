"""Videos at addresses such as s3://, gs://, http:// and memory://, read through fsspec.

A small file is fetched into memory as a whole. Of a larger one, the parts that the decoder asks for
are fetched, and a few of them are kept. Nothing is written to the disk.

An address may hold credentials: messages and results only have its `public_name`.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias, TypeVar
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from p3d.errors import BadVideoError, UserError
from p3d.system.extras import load_extra

WHOLE_BYTES = 32 * 2**20
"""Files up to this size are fetched at once."""

_BLOCK_BYTES, _BLOCKS = 2**20, 32

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:(//|/+[^/])", re.IGNORECASE)

_SECRET = re.compile(
    r"(x-amz-|x-goog-|awsaccesskeyid|googleaccessid|key-pair-id|skoid|sktid|auth).*"
    r"|.*(token|secret|password|credential|signature|key)|sig|policy|expires|s[epvrtk]",
    re.IGNORECASE,
)
"""Names of parameters that sign an address or hold a credential."""

_NOT_FOUND = 404

T = TypeVar("T")


def is_address(name: str) -> bool:
    """Return whether a name is an address on a network rather than a path."""
    # Not Path.exists, which fails for long names.
    return bool(_ADDRESS.match(name)) and not os.path.exists(name)  # noqa: PTH110


def public_name(address: str) -> str:
    """Return an address without credentials: no user, no signature, no fragment."""
    parts = urlsplit(address)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    kept = [pair for pair in pairs if not _SECRET.fullmatch(pair[0])]
    query = parts.query if len(kept) == len(pairs) else urlencode(kept, quote_via=quote)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, query, ""))


def find_system(address: str) -> tuple[Any, str]:
    """Return fsspec's file system for an address, and the path in it.

    Raises:
        UserError: fsspec, or the package for this kind of address, is not installed, or there is
            no such kind.
        BadVideoError: Its server does not answer, or refuses.
    """
    fsspec = load_extra("fsspec", "remote")
    try:
        system, path = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        scheme = urlsplit(address).scheme
        reason = str(error) if isinstance(error, ImportError) else "fsspec does not know it"
        raise UserError(
            f"{public_name(address)}: addresses of {scheme} cannot be read here ({reason})"
        ) from None
    except Exception as error:  # some kinds of addresses connect to their server here
        raise unfetched(public_name(address), error) from None
    return system, path


class RemoteVideo:
    """A video at an address.

    Args:
        address: Where it is; fsspec knows the scheme.

    Attributes:
        name: Last part of the address's path.
        size: Size in bytes; None if the server does not say.
        version: Changes with the contents; None if the server does not say.

    Raises:
        BadVideoError: It is not there, or is empty.
        UserError: See `find_system`.
    """

    def __init__(self, address: str) -> None:
        self._public = public_name(address)
        self.name = PurePosixPath(urlsplit(address).path).name
        self._whole: bytes | None = None
        self._system, self._path = find_system(address)
        info = self._fetch(self._system.info, self._path)
        self.size: int | None = None if info["size"] is None else int(info["size"])
        versions = (info.get(key) for key in ("ETag", "etag", "mtime", "LastModified", "created"))
        self.version = next((str(value) for value in versions if value), None)
        if self.size == 0:
            raise BadVideoError(self._public, "the file is empty (0 bytes)")

    def __str__(self) -> str:
        return self._public

    def open(self) -> RemoteFile:
        """Open the file from its start.

        Raises:
            BadVideoError: It cannot be read.
        """
        if self.size is not None and self.size > WHOLE_BYTES:
            return RemoteFile(self, self._fetch(self._open_parts))
        if self._whole is None:
            self._whole = self._fetch(self._read_whole)
        return RemoteFile(self, io.BytesIO(self._whole))

    def _open_parts(self) -> Any:
        file = self._system.open(
            self._path,
            "rb",
            block_size=_BLOCK_BYTES,
            cache_type="blockcache",
            cache_options={"maxblocks": _BLOCKS},
        )
        if not file.seekable():
            raise self.too_large()
        return file

    def _read_whole(self) -> bytes:
        if self.size is not None:
            return bytes(self._system.cat_file(self._path))
        with self._system.open(self._path, "rb") as file:
            data = bytes(file.read(WHOLE_BYTES + 1))
        if len(data) > WHOLE_BYTES:
            raise self.too_large()
        return data

    def too_large(self) -> BadVideoError:
        """Return the error of a file that can only be fetched whole, but is too large for that."""
        limit = f"{WHOLE_BYTES // 2**20} MiB"
        return BadVideoError(
            self._public, f"has more than {limit}, and its server does not send parts of a file"
        )

    def _fetch(self, call: Callable[..., T], *arguments: object) -> T:
        try:
            return call(*arguments)
        except BadVideoError:
            raise
        except Exception as error:
            raise unfetched(self._public, error) from None


class RemoteFile:
    """An open file for the decoder. What cannot be fetched raises BadVideoError."""

    def __init__(self, video: RemoteVideo, file: Any) -> None:
        self._video, self._file = video, file

    def read(self, size: int) -> bytes:
        """Return the next bytes, at most `size`."""
        try:
            data: bytes = self._file.read(size)
        except ValueError:  # a part was asked for, and all came
            raise self._video.too_large() from None
        except Exception as error:
            raise unfetched(str(self._video), error) from None
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a position, see `io.IOBase.seek`."""
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        """Return the position in bytes."""
        return int(self._file.tell())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


Source: TypeAlias = "Path | RemoteVideo"
"""Where a video file is."""


def name_of(source: Source) -> Path | str:
    """Return the name of a source for messages."""
    return source if isinstance(source, Path) else str(source)


def unfetched(name: str, error: Exception) -> BadVideoError:
    """Return the error of a fetch that failed, without its text, which may hold credentials."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and isinstance(cause, Exception):
        error = cause  # for a web server, it stands for everything
    if isinstance(error, FileNotFoundError) or getattr(error, "status", None) == _NOT_FOUND:
        return BadVideoError(name, "no such file")
    return BadVideoError(name, f"cannot be fetched ({_describe(error)})")


def _describe(error: Exception) -> str:
    status, number = (getattr(error, key, None) for key in ("status", "errno"))
    if isinstance(status, int):
        return f"HTTP status {status}"
    # Negative numbers are those of name servers.
    return os.strerror(number) if isinstance(number, int) and number > 0 else type(error).__name__
