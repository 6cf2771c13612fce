"""Downloads with curl: resumed after an interruption, checked, and never half done."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

from p3d.errors import UserError, printable
from p3d.prepare.archive import is_archive
from p3d.prepare.options import Remote
from p3d.prepare.programs import running
from p3d.system.files import file_sha256
from p3d.system.progress import ProgressBar

KNOWN_BYTES = {"UCF101.rar": 6_932_971_618}
"""Sizes of the official files, as reported by their server."""

CHUNK_BYTES = 2**18
STALL_SECONDS = 60
"""An attempt fails if nothing is received for this long."""

# Exit codes of curl (`man curl`).
_CANNOT_RESUME = {33, 36}
_BAD_CERTIFICATE = {51, 60}
_BAD_ADDRESS = {1, 3, 47}


def fetch_ucf101(remote: Remote, folder: Path) -> tuple[Path, Path]:
    """Download the archive and the lists of UCF101, as `fetch` does, and return their paths."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; with --download, --source is the download folder")
    lists = fetch(remote.lists_url, folder, remote, sha256=remote.lists_sha256)
    return fetch(remote.archive_url, folder, remote, sha256=remote.archive_sha256), lists


def fetch(url: str, folder: Path, remote: Remote, *, sha256: str = "") -> Path:
    """Download a file under its own name, unless it is in the folder.

    The unfinished file is called `<name>.part`; the next call resumes it.

    Args:
        url: An http or https address.
        folder: Download folder, created if missing.
        remote: Settings of the connection.
        sha256: Expected SHA-256, "" if unknown. A file that differs is removed.

    Returns:
        Path of the file.

    Raises:
        UserError: The download fails, or the file is no archive or has another size or SHA-256.
    """
    name = Path(urlsplit(url).path).name
    if urlsplit(url).scheme not in ("http", "https") or not name:
        raise UserError(f"{url}: is not an http or https address of a file")
    target, part = folder / name, folder / f"{name}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            _download(url, part, remote)
            _check(part, url, sha256)
            part.replace(target)
        elif sha256:
            _check(target, url, sha256)
    except OSError as error:
        raise UserError(
            f"{error.filename or part}: cannot be written ({error.strerror}); make room or fix the "
            "permissions, and run the same command again"
        ) from error
    return target


def _download(url: str, part: Path, remote: Remote) -> None:
    """Run curl until the file is complete or `remote.tries` attempts in a row received nothing."""
    command = _curl_command(url, part, remote)
    failures, furthest = 0, _size(part)
    with ProgressBar(KNOWN_BYTES.get(part.stem), f"Downloading {url}", "B") as progress:
        progress.advance(furthest)
        while reason := _receive(command, url, part, progress):
            failures = 1 if _size(part) > furthest else failures + 1
            furthest = max(furthest, _size(part))
            if failures >= remote.tries:
                raise UserError(
                    f"{url}: cannot be downloaded ({reason}); run the same command again to "
                    "resume, or give another address"
                )
            pause = min(60.0, remote.pause * 2 ** (failures - 1))
            message = printable(f"{url}: {reason}; next attempt in {pause:g} s")
            tqdm.write(message, file=sys.stderr)
            time.sleep(pause)


def _curl_command(url: str, part: Path, remote: Remote) -> list[str]:
    program = shutil.which("curl")
    if program is None:
        line = shlex.join(["wget", "-c", "-O", str(part.with_suffix("")), url])
        raise UserError(
            f"{url}: downloading needs curl, which is not on PATH; install it, or download the "
            f"file with `{line}`, and run the same command again"
        )
    # Without ~/.curlrc, and without --retry, which would drop what the attempt received.
    allowed = "=https" if urlsplit(url).scheme == "https" else "=http,https"
    options = (
        "--disable --silent --show-error --no-buffer --fail --globoff --location "
        f"--proto {allowed} --proto-redir {allowed} --connect-timeout {STALL_SECONDS} "
        f"--speed-limit 1 --speed-time {STALL_SECONDS} {'--insecure' if remote.insecure else ''}"
    )
    return [program, *options.split(), url]


def _receive(command: list[str], url: str, part: Path, progress: ProgressBar) -> str:
    """Run curl once and append what it receives; return why the file is incomplete, or ""."""
    # The last byte is requested again. So a complete file resumes like any other, and the server
    # has no bytes left to send (HTTP 416) only if its file is shorter than this one.
    start = max(_size(part) - 1, 0)
    received = 0
    with running([*command, "--continue-at", str(start)]) as curl:
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            while chunk := os.read(curl.output.fileno(), CHUNK_BYTES):
                file.write(chunk)
                progress.advance(len(chunk))
                received += len(chunk)
        code, message = curl.finish()
    if code == 0 and (received or not start):
        return ""
    if start and not received and (code in (0, *_CANNOT_RESUME) or _http_error(message) == 416):
        part.unlink()
        return _receive(command, url, part, progress)
    if not _size(part):
        part.unlink()
    reason = re.sub(r"^curl: \(\d+\) ", "", message) or f"curl ended with exit code {code}"
    _raise_if_final(url, code, reason)
    return reason


def _raise_if_final(url: str, code: int | None, reason: str) -> None:
    """Raise a `UserError` if another attempt would fail too."""
    if code in _BAD_CERTIFICATE:
        raise UserError(
            f"{url}: the server's certificate is not valid ({reason}); if you trust the network, "
            "add --insecure"
        )
    if code in _BAD_ADDRESS:
        raise UserError(f"{url}: curl refuses this address or where it redirects to ({reason})")
    status = _http_error(reason)
    if 400 <= status < 500 and status not in (408, 429):
        raise UserError(f"{url}: the server answers with HTTP error {status}; fix the address")


def _http_error(message: str) -> int:
    """Return the HTTP status in a message of curl, 0 if there is none."""
    found = re.search(r"returned error: (\d{3})", message)
    return int(found[1]) if found else 0


def _check(path: Path, url: str, sha256: str) -> None:
    """Remove a file that is no archive, or of another size or SHA-256, and raise a UserError."""
    size, address = path.stat().st_size, urlsplit(url)
    official = address.hostname == urlsplit(Remote.archive_url).hostname
    known = KNOWN_BYTES.get(Path(address.path).name, size) if official else size
    fault = ""
    if size != known:
        fault = f"has {size:,} bytes, but the official file has {known:,}"
    elif sha256 and (found := file_sha256(path)) != sha256.lower():
        fault = f"has SHA-256 {found}, not {sha256}"
    elif not is_archive(path):
        with path.open("rb") as file:
            fault = f"is neither a RAR nor a zip archive, but begins with {file.read(40)!r}"
    if fault:
        path.unlink()
        raise UserError(f"{url}: {fault}; the file was removed, run the same command again")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
