"""Downloads from a local server that drops connections, ignores ranges or sends wrong data."""

from __future__ import annotations

import hashlib
import http.server
import random
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from helpers.archives import CLIPS, zipped
from p3d.errors import UserError
from p3d.prepare import download
from p3d.prepare.download import KNOWN_BYTES, fetch, fetch_ucf101
from p3d.prepare.options import Remote, Ucf101Options
from p3d.prepare.ucf101 import prepare_ucf101

CONTENT = b"Rar!\x1a\x07\x00" + random.Random(5).randbytes(3 * 2**20 + 17)
QUICK = Remote(tries=3, pause=0.01)

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@dataclass
class Site:
    """Contents and behavior of the server.

    Attributes:
        files: Contents by path.
        redirects: Target addresses by path.
        ranges: Whether it supports range requests.
        drops: Number of responses that end after `drop_after` bytes.
        errors: Status codes of the next responses.
        extra_length: Added to the Content-Length.
        stalls: Whether responses continue with one byte at a time after `drop_after` bytes.
        requested: The Range header of each request, or None.
        disconnected: Set when the client closes such a connection.
    """

    files: dict[str, bytes]
    redirects: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    drops: int = 0
    drop_after: int = 2**20
    errors: list[int] = field(default_factory=list)
    extra_length: int = 0
    stalls: bool = False
    requested: list[str | None] = field(default_factory=list)
    disconnected: threading.Event = field(default_factory=threading.Event)
    url: str = ""


class Handler(http.server.BaseHTTPRequestHandler):
    site: Site

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        site, byte_range = self.site, self.headers.get("Range")
        site.requested.append(byte_range)
        if self.path in site.redirects:
            self.send_response(302)
            self.send_header("Location", site.redirects[self.path])
            return self.end_headers()
        content = site.files.get(self.path)
        if content is None:
            return self.send_error(404)
        if site.errors:
            return self.send_error(site.errors.pop(0))
        start = int(byte_range.removeprefix("bytes=")[:-1]) if byte_range and site.ranges else 0
        if start and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start + site.extra_length))
        self.end_headers()
        rest = content[start:]
        if site.stalls:
            return self.stall(rest)
        if site.drops:
            site.drops -= 1
            rest = rest[: site.drop_after]
        self.wfile.write(rest)
        return None

    def stall(self, content: bytes) -> None:
        size = self.site.drop_after
        try:
            self.wfile.write(content[:size])
            for position in range(size, len(content)):
                time.sleep(0.05)
                self.wfile.write(content[position : position + 1])
        except OSError:
            self.site.disconnected.set()


@contextmanager
def serving(site: Site, certificate: Path | None = None) -> Iterator[Site]:
    handler = type("SiteHandler", (Handler,), {"site": site})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    scheme = "http"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme = "https"
    site.url = f"{scheme}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site({"/UCF.bin": CONTENT})) as site:
        yield site


@needs_curl
def test_downloads_a_file_once(site: Site, tmp_path: Path) -> None:
    sha256 = hashlib.sha256(CONTENT).hexdigest().upper()
    for _ in range(2):
        path = fetch(f"{site.url}/UCF.bin", tmp_path / "new", QUICK, sha256=sha256)
        assert path == tmp_path / "new" / "UCF.bin"
        assert path.read_bytes() == CONTENT
    assert site.requested == [None]
    assert [item.name for item in path.parent.iterdir()] == ["UCF.bin"]


@needs_curl
def test_resumes_after_a_lost_connection(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.drops = 2
    path = fetch(f"{site.url}/UCF.bin", tmp_path, QUICK)
    assert path.read_bytes() == CONTENT
    # Each request repeats the last byte.
    assert site.requested == [None, f"bytes={2**20 - 1}-", f"bytes={2 * 2**20 - 2}-"]
    assert "next attempt in 0.01 s" in capsys.readouterr().err


@needs_curl
def test_attempts_that_receive_something_do_not_count(site: Site, tmp_path: Path) -> None:
    site.drops, site.drop_after = 6, 2**19
    assert fetch(f"{site.url}/UCF.bin", tmp_path, QUICK).read_bytes() == CONTENT
    assert len(site.requested) == 7


@needs_curl
def test_resumes_a_part_file(site: Site, tmp_path: Path) -> None:
    (tmp_path / "UCF.bin.part").write_bytes(CONTENT[:12345])
    assert fetch(f"{site.url}/UCF.bin", tmp_path, QUICK).read_bytes() == CONTENT
    assert site.requested == ["bytes=12344-"]


@needs_curl
def test_complete_part_file(site: Site, tmp_path: Path) -> None:
    (tmp_path / "UCF.bin.part").write_bytes(CONTENT)
    assert fetch(f"{site.url}/UCF.bin", tmp_path, QUICK).read_bytes() == CONTENT
    assert site.requested == [f"bytes={len(CONTENT) - 1}-"]


@needs_curl
@pytest.mark.parametrize("extra", [b"x", b"more"])
def test_part_file_larger_than_the_file_starts_again(
    site: Site, tmp_path: Path, extra: bytes
) -> None:
    (tmp_path / "UCF.bin.part").write_bytes(CONTENT + extra)
    assert fetch(f"{site.url}/UCF.bin", tmp_path, QUICK).read_bytes() == CONTENT
    assert site.requested[-1] is None


@needs_curl
def test_server_without_ranges_starts_again(site: Site, tmp_path: Path) -> None:
    site.ranges, site.drops = False, 1
    assert fetch(f"{site.url}/UCF.bin", tmp_path, QUICK).read_bytes() == CONTENT
    assert site.requested == [None, f"bytes={2**20 - 1}-", None]


@needs_curl
def test_empty_file(site: Site, tmp_path: Path) -> None:
    site.files["/empty"] = b""
    with pytest.raises(UserError, match="neither a RAR nor a zip archive"):
        fetch(f"{site.url}/empty", tmp_path, QUICK)
    assert not list(tmp_path.iterdir())


@needs_curl
def test_passing_errors_are_retried(site: Site, tmp_path: Path) -> None:
    site.errors = [503, 429]
    assert fetch(f"{site.url}/UCF.bin", tmp_path, QUICK).read_bytes() == CONTENT


@needs_curl
def test_gives_up_after_the_allowed_attempts(site: Site, tmp_path: Path) -> None:
    site.errors = [503] * 99
    with pytest.raises(UserError, match=r"cannot be downloaded .*503\); run the same command"):
        fetch(f"{site.url}/UCF.bin", tmp_path, QUICK)
    assert len(site.requested) == 3


@needs_curl
def test_file_shorter_than_its_content_length_is_rejected(site: Site, tmp_path: Path) -> None:
    site.extra_length = 5
    with pytest.raises(UserError, match="cannot be downloaded"):
        fetch(f"{site.url}/UCF.bin", tmp_path, QUICK)
    assert [item.name for item in tmp_path.iterdir()] == ["UCF.bin.part"]


@needs_curl
def test_stalled_connection_times_out(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "STALL_SECONDS", 1)
    monkeypatch.setattr(Handler, "stall", lambda *_: site.disconnected.wait(10))
    site.stalls = True
    with pytest.raises(UserError, match=r"cannot be downloaded \(Operation too slow"):
        fetch(f"{site.url}/UCF.bin", tmp_path, replace(QUICK, tries=1))
    site.disconnected.set()


@needs_curl
@pytest.mark.parametrize(
    ("url", "reason"),
    [("http://127.0.0.1:1/file", "onnect"), ("http://nonexistent.invalid/file", "resolve host")],
)
def test_server_that_cannot_be_reached(tmp_path: Path, url: str, reason: str) -> None:
    with pytest.raises(UserError, match=rf"cannot be downloaded \(.*{reason}"):
        fetch(url, tmp_path, QUICK)
    assert not list(tmp_path.iterdir())


@needs_curl
def test_wrong_checksum_removes_the_file(site: Site, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has SHA-256 .*, not 0000.* was removed"):
        fetch(f"{site.url}/UCF.bin", tmp_path, QUICK, sha256="0" * 64)
    assert not list(tmp_path.iterdir())


@needs_curl
def test_a_page_in_place_of_the_archive_is_removed(site: Site, tmp_path: Path) -> None:
    site.files["/UCF101.rar"] = b"<!DOCTYPE html><title>Sign in</title>"
    with pytest.raises(UserError, match=r"neither a RAR nor a zip .* begins with b'<!DOCTYPE html"):
        fetch(f"{site.url}/UCF101.rar", tmp_path, QUICK)
    assert not list(tmp_path.iterdir())


@needs_curl
def test_missing_file_is_not_retried(site: Site, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="HTTP error 404"):
        fetch(f"{site.url}/other.bin", tmp_path, QUICK)
    assert len(site.requested) == 1
    assert not list(tmp_path.iterdir())


@needs_curl
def test_wrong_size_of_an_official_file_removes_it(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KNOWN_BYTES, "UCF.bin", 1000)
    monkeypatch.setattr(Remote, "archive_url", f"{site.url}/UCF101.rar")
    with pytest.raises(UserError, match="official file has 1,000"):
        fetch(f"{site.url}/UCF.bin", tmp_path, QUICK)
    assert not list(tmp_path.iterdir())


@needs_curl
def test_full_disk_is_not_retried(site: Site, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    (tmp_path / "UCF.bin.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"UCF\.bin\.part: cannot be written \(No space left"):
        fetch(f"{site.url}/UCF.bin", tmp_path, QUICK)
    assert site.requested == [None]


@pytest.fixture
def secure_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server with a self-signed certificate."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the program openssl to create a certificate")
    folder = tmp_path_factory.mktemp("certificate")
    pem, certificate = folder / "server.pem", folder / "certificate.pem"
    arguments = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1"
    command = ["openssl", *arguments.split(), "-keyout", str(pem), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    pem.write_text(pem.read_text() + certificate.read_text())
    with serving(Site({"/UCF.bin": CONTENT}), pem) as site:
        yield site


@needs_curl
def test_certificate_is_verified_unless_insecure(secure_site: Site, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"certificate is not valid .*--insecure"):
        fetch(f"{secure_site.url}/UCF.bin", tmp_path, QUICK)
    assert not secure_site.requested
    path = fetch(f"{secure_site.url}/UCF.bin", tmp_path, replace(QUICK, insecure=True))
    assert path.read_bytes() == CONTENT


@needs_curl
def test_redirects_never_leave_https(site: Site, secure_site: Site, tmp_path: Path) -> None:
    insecure = replace(QUICK, insecure=True)
    secure_site.redirects["/a.bin"] = f"{site.url}/UCF.bin"
    with pytest.raises(UserError, match="refuses this address or where it redirects"):
        fetch(f"{secure_site.url}/a.bin", tmp_path, insecure)
    assert not site.requested
    site.redirects = {"/b.bin": f"{secure_site.url}/UCF.bin", "/c.bin": "file:///etc/passwd"}
    assert fetch(f"{site.url}/b.bin", tmp_path, insecure).read_bytes() == CONTENT
    with pytest.raises(UserError, match="refuses this address or where it redirects"):
        fetch(f"{site.url}/c.bin", tmp_path, insecure)
    assert not (tmp_path / "c.bin").exists()


@pytest.mark.parametrize("url", ["ftp://host/file", "file:///etc/passwd", "http://host/"])
def test_other_addresses_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match="not an http or https address"):
        fetch(url, tmp_path, QUICK)


def test_without_curl_the_message_has_a_line_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    folder, url = tmp_path / "my downloads", "https://host/UCF101.rar?a=1&b=2"
    with pytest.raises(UserError) as caught:
        fetch(url, folder, QUICK)
    line = f"wget -c -O {shlex.quote(str(folder / 'UCF101.rar'))} {shlex.quote(url)}"
    assert f"install it, or download the file with `{line}`" in str(caught.value)


@needs_curl
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_curl_ends_with_the_process_and_the_part_file_remains(
    site: Site, tmp_path: Path, stop: signal.Signals
) -> None:
    site.stalls = True
    program = (
        "import signal; from pathlib import Path; from p3d.prepare.download import *; "
        # A shell starts background jobs with SIGINT ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler); "
        f"fetch({site.url + '/UCF.bin'!r}, Path({str(tmp_path)!r}), Remote())"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    part = tmp_path / "UCF.bin.part"
    while process.poll() is None and not (part.exists() and part.stat().st_size >= 2**19):
        time.sleep(0.01)
    process.send_signal(stop)
    assert process.wait(600) == -stop
    assert site.disconnected.wait(600)
    site.stalls = False
    assert fetch(f"{site.url}/UCF.bin", tmp_path, QUICK).read_bytes() == CONTENT
    assert site.requested[1] is not None


@needs_curl
def test_downloads_and_prepares_ucf101(site: Site, tmp_path: Path) -> None:
    names = [name.removeprefix("UCF-101/") for name, _ in CLIPS]
    lists = [
        ("ucfTrainTestlist/classInd.txt", b"1 YoYo\n"),
        ("ucfTrainTestlist/testlist01.txt", "\n".join(names[:7]).encode()),
        ("ucfTrainTestlist/trainlist01.txt", "\n".join(f"{n} 1" for n in names[7:]).encode()),
    ]
    site.files["/videos.zip"] = zipped(tmp_path / "v", CLIPS).read_bytes()
    site.files["/lists.zip"] = zipped(tmp_path / "l", lists).read_bytes()
    remote = Remote(f"{site.url}/videos.zip", f"{site.url}/lists.zip", tries=2, pause=0.01)
    options = Ucf101Options(
        tmp_path / "downloads", tmp_path / "ucf101", download=True, remote=remote
    )
    summary = prepare_ucf101(options)
    assert summary.present == {"train": 15, "validation": 3, "test": 7}
    assert len(site.requested) == 2


def test_download_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--source is the download folder"):
        fetch_ucf101(QUICK, tmp_path / "file")
