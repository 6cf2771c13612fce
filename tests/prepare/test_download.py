"""Downloads from a server on this machine that drops, ignores ranges and lies."""

from __future__ import annotations

import hashlib
import http.server
import random
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from helpers.archives import CLIPS, zipped
from p3d.errors import UserError
from p3d.prepare.download import KNOWN_BYTES, fetch, fetch_ucf101
from p3d.prepare.options import Remote, Ucf101Options
from p3d.prepare.ucf101 import prepare_ucf101

CONTENT = random.Random(5).randbytes(3 * 2**20 + 17)


@dataclass
class Site:
    """What the server has and how it behaves.

    Attributes:
        files: Contents by path.
        ranges: Whether it can answer from the middle.
        drops: How many answers it breaks off after `drop_after` bytes.
        fails: How many answers are 503.
        promise: Added to the length that it states.
        asked: The Range header of each request, or None.
    """

    files: dict[str, bytes]
    ranges: bool = True
    drops: int = 0
    drop_after: int = 2**20
    fails: int = 0
    promise: int = 0
    asked: list[str | None] = field(default_factory=list)
    url: str = ""


class Handler(http.server.BaseHTTPRequestHandler):
    site: Site

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        site, wanted = self.site, self.headers.get("Range")
        site.asked.append(wanted)
        content = site.files.get(self.path)
        if content is None:
            return self.send_error(404)
        if site.fails:
            site.fails -= 1
            return self.send_error(503)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and site.ranges else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content) + site.promise}")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start + site.promise))
        self.end_headers()
        rest = content[start:]
        if site.drops:
            site.drops -= 1
            rest = rest[: site.drop_after]
        self.wfile.write(rest)
        return None


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


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site({"/UCF.bin": CONTENT})) as site:
        yield site


QUICK = Remote(tries=3, pause=0.01)


def test_a_file_comes_whole_and_only_once(site: Site, tmp_path: Path) -> None:
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    for _ in range(2):
        path = fetch(f"{site.url}/UCF.bin", tmp_path, QUICK, sha256=sha256)
        assert path == tmp_path / "UCF.bin"
        assert path.read_bytes() == CONTENT
    assert len(site.asked) == 1
    assert [item.name for item in tmp_path.iterdir()] == ["UCF.bin"]


def test_a_broken_connection_is_taken_up_where_it_broke(site: Site, tmp_path: Path) -> None:
    site.drops = 2
    path = fetch(f"{site.url}/UCF.bin", tmp_path, QUICK)
    assert path.read_bytes() == CONTENT
    assert site.asked == [None, f"bytes={2**20}-", f"bytes={2 * 2**20}-"]


def test_a_killed_download_goes_on(site: Site, tmp_path: Path) -> None:
    (tmp_path / "UCF.bin.part").write_bytes(CONTENT[:12345])
    assert fetch(f"{site.url}/UCF.bin", tmp_path, QUICK).read_bytes() == CONTENT
    assert site.asked == ["bytes=12345-"]


def test_a_download_killed_just_before_the_end_needs_nothing_more(
    site: Site, tmp_path: Path
) -> None:
    (tmp_path / "UCF.bin.part").write_bytes(CONTENT)
    assert fetch(f"{site.url}/UCF.bin", tmp_path, QUICK).read_bytes() == CONTENT


def test_a_part_larger_than_the_file_is_begun_anew(site: Site, tmp_path: Path) -> None:
    (tmp_path / "UCF.bin.part").write_bytes(CONTENT + b"more")
    assert fetch(f"{site.url}/UCF.bin", tmp_path, QUICK).read_bytes() == CONTENT


def test_a_server_without_ranges_is_asked_from_the_start(site: Site, tmp_path: Path) -> None:
    site.ranges, site.drops = False, 1
    assert fetch(f"{site.url}/UCF.bin", tmp_path, QUICK).read_bytes() == CONTENT


def test_a_server_that_recovers_is_tried_again(site: Site, tmp_path: Path) -> None:
    site.fails = 2
    assert fetch(f"{site.url}/UCF.bin", tmp_path, QUICK).read_bytes() == CONTENT


def test_a_server_that_stays_broken_is_given_up(site: Site, tmp_path: Path) -> None:
    site.fails = 99
    with pytest.raises(UserError, match=r"cannot be fetched .*503"):
        fetch(f"{site.url}/UCF.bin", tmp_path, QUICK)
    assert len(site.asked) == 3


def test_a_file_shorter_than_promised_is_not_taken(site: Site, tmp_path: Path) -> None:
    site.promise = 5
    with pytest.raises(UserError, match="cannot be fetched"):
        fetch(f"{site.url}/UCF.bin", tmp_path, QUICK)
    assert not (tmp_path / "UCF.bin").exists()


def test_a_wrong_checksum_is_refused_and_the_file_removed(site: Site, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="SHA-256"):
        fetch(f"{site.url}/UCF.bin", tmp_path, QUICK, sha256="0" * 64)
    assert not list(tmp_path.iterdir())


def test_a_missing_file_is_final(site: Site, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="404"):
        fetch(f"{site.url}/other.bin", tmp_path, QUICK)
    assert len(site.asked) == 1


def test_the_known_size_of_an_official_file_is_checked(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KNOWN_BYTES, "UCF.bin", 1000)
    monkeypatch.setattr(Remote, "archive_url", f"{site.url}/UCF101.rar")
    with pytest.raises(UserError, match="official file has 1,000"):
        fetch(f"{site.url}/UCF.bin", tmp_path, QUICK)


def test_a_certificate_that_nobody_vouches_for_is_refused_unless_told_so(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl program, to make a certificate")
    pem = tmp_path / "server.pem"
    asked = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1"
    command = ["openssl", *asked.split(), "-keyout", str(pem), "-out", str(tmp_path / "cert.pem")]
    subprocess.run(command, check=True, capture_output=True)
    pem.write_text(pem.read_text() + (tmp_path / "cert.pem").read_text())
    with serving(Site({"/UCF.bin": CONTENT}), pem) as site:
        with pytest.raises(UserError, match=r"certificate is not valid .*--insecure"):
            fetch(f"{site.url}/UCF.bin", tmp_path, QUICK)
        path = fetch(f"{site.url}/UCF.bin", tmp_path, replace(QUICK, insecure=True))
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("url", ["ftp://host/file", "file:///etc/passwd", "http://host/"])
def test_other_addresses_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match="not an http or https address"):
        fetch(url, tmp_path, QUICK)


def test_from_the_server_to_the_split_folders(site: Site, tmp_path: Path) -> None:
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
    assert len(site.asked) == 2


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="the folder to download into"):
        fetch_ucf101(QUICK, tmp_path / "file")
