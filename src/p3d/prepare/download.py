"""Files fetched over HTTP: whole or not at all, gone on with after a break, and checked."""

from __future__ import annotations

import http.client
import re
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from p3d.errors import UserError
from p3d.prepare.options import Remote
from p3d.prepare.parallel import Progress
from p3d.system.files import file_sha256

CHUNK_BYTES = 2**20
TIMEOUT_SECONDS = 60.0

KNOWN_BYTES = {"UCF101.rar": 6_932_971_618}
"""Sizes of the official files, as their server states them."""

_RESULT = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


def fetch_ucf101(remote: Remote, folder: Path) -> tuple[Path, Path]:
    """Downloads the archive and the lists; what is there already is not fetched again.

    Args:
        remote: From where.
        folder: Where to; made if need be.

    Returns:
        The archive and the zip of lists.

    Raises:
        UserError: If the server does not answer or sends something else.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: with --download the source is the folder to download into")
    folder.mkdir(parents=True, exist_ok=True)
    lists = fetch(remote.lists_url, folder, remote, sha256=remote.lists_sha256)
    return fetch(remote.archive_url, folder, remote, sha256=remote.archive_sha256), lists


def fetch(url: str, folder: Path, remote: Remote, *, sha256: str = "") -> Path:
    """Downloads a file under its own name.

    The unfinished file ends in `.part`; another call goes on with it. A server that cannot go on
    in the middle is asked from the start.

    Args:
        url: The file, by http or https.
        folder: An existing folder.
        remote: How to be connected.
        sha256: The checksum it must have, if known.

    Returns:
        The file.

    Raises:
        UserError: If it cannot be had, or its size or checksum is wrong.
    """
    name = Path(urlsplit(url).path).name
    if urlsplit(url).scheme not in ("http", "https") or not name:
        raise UserError(f"{url}: not an http or https address of a file")
    target, part = folder / name, folder / f"{name}.part"
    if not target.exists():
        _fetch_part(url, part, remote)
        _check(part, url, sha256, part.stat().st_size)
        part.replace(target)
    elif sha256:
        _check(target, url, sha256, target.stat().st_size)
    return target


def _fetch_part(url: str, part: Path, remote: Remote) -> None:
    """Calls again as long as something comes, and `remote.tries` times when nothing does."""
    failures, furthest = 0, _size(part)
    with Progress(KNOWN_BYTES.get(Path(urlsplit(url).path).name), f"Downloading {url}", "B") as bar:
        bar.advance(furthest)
        while True:
            try:
                if _receive(url, part, remote, bar):
                    return
                reason = "the connection was closed early"
            except (OSError, http.client.HTTPException) as error:
                _give_up_if_final(url, error)
                reason = str(error) or type(error).__name__
            failures = 1 if _size(part) > furthest else failures + 1
            furthest = max(furthest, _size(part))
            if failures >= remote.tries:
                raise UserError(
                    f"{url}: cannot be fetched ({reason}); run the same command again to go on, or "
                    "give another address"
                )
            time.sleep(min(60.0, remote.pause * 2 ** (failures - 1)))


def _receive(url: str, part: Path, remote: Remote, bar: Progress) -> bool:
    """Makes one request and appends what comes. Returns whether the file is complete."""
    start = _size(part)
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    context = ssl.create_default_context()
    if remote.insecure:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS, context=context)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            return _all_there_already(error, part)
        raise
    with answer:
        whole, start = _extent(answer, start)
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            file.truncate()
            while chunk := answer.read(CHUNK_BYTES):
                file.write(chunk)
                bar.advance(len(chunk))
    if whole is not None and _size(part) > whole:
        part.unlink()
        raise UserError(f"{url}: sent more than the {whole:,} bytes it promised; try again")
    return whole is None or _size(part) == whole


def _extent(answer: http.client.HTTPResponse, start: int) -> tuple[int | None, int]:
    """The size of the whole file, if told, and where in it the answer begins."""
    length = answer.headers.get("Content-Length")
    if answer.status != http.client.PARTIAL_CONTENT:
        return (int(length) if length else None), 0
    found = _RESULT.match(answer.headers.get("Content-Range", ""))
    if found is None or int(found[1]) != start:
        raise http.client.HTTPException("the server answered with another range than asked for")
    return (None if found[2] == "*" else int(found[2])), start


def _all_there_already(error: urllib.error.HTTPError, part: Path) -> bool:
    """Whether a refused range means that nothing is left; if not, the part is begun anew."""
    total = (error.headers.get("Content-Range") or "").rpartition("/")[2]
    if total.isdigit() and int(total) == _size(part):
        return True
    part.unlink()
    return False


def _give_up_if_final(url: str, error: Exception) -> None:
    reason = getattr(error, "reason", None)
    if isinstance(reason, ssl.SSLCertVerificationError):
        raise UserError(
            f"{url}: the server's certificate is not valid ({reason.verify_message}); if you trust "
            "the network all the same, add --insecure"
        ) from error
    passing = (http.client.REQUEST_TIMEOUT, http.client.TOO_MANY_REQUESTS)
    code = error.code if isinstance(error, urllib.error.HTTPError) else 0
    if 400 <= code < 500 and code not in passing:
        raise UserError(f"{url}: the server says {error}") from error


def _check(path: Path, url: str, sha256: str, size: int) -> None:
    """Removes a file that is not what it should be."""
    known = KNOWN_BYTES.get(Path(urlsplit(url).path).name)
    official = urlsplit(url).hostname == urlsplit(Remote.archive_url).hostname
    if official and known is not None and size != known:
        path.unlink()
        raise UserError(f"{url}: {size:,} bytes came, the official file has {known:,}; removed")
    if sha256:
        found = file_sha256(path)
        if found != sha256.lower():
            path.unlink()
            raise UserError(f"{url}: SHA-256 is {found}, not {sha256}; the file was removed")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
