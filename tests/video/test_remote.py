"""Videos at addresses: the same frames as from the file, in bounded memory, without credentials."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.videos import write_video
from helpers.web import serving
from p3d.errors import BadVideoError, UserError
from p3d.video import remote
from p3d.video.decode import open_video, read_clip
from p3d.video.remote import is_address, public_name
from p3d.video.remote_folder import videos_at

fsspec = pytest.importorskip("fsspec", reason="needs the extra remote")
FRAMES = (0, 3, 17, 18, 29)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    (tmp_path / "set").mkdir()
    return write_video(tmp_path / "set" / "walk.mp4", 30)


@pytest.mark.parametrize("limit", [remote.WHOLE_BYTES, 100])
def test_frames_from_memory_equal_those_of_the_file(
    limit: int, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "WHOLE_BYTES", limit)
    fsspec.filesystem("memory").pipe_file("/bucket/walk.mp4", video.read_bytes())
    with open_video("memory://bucket/walk.mp4") as source:
        assert (source.num_frames, source.flow) == (30, None)
        assert torch.equal(source.read(FRAMES), read_clip(video, FRAMES))


@pytest.mark.parametrize("says_size", [True, False])
@pytest.mark.parametrize("has_ranges", [True, False])
def test_frames_from_the_web_equal_those_of_the_file(
    has_ranges: bool, says_size: bool, video: Path
) -> None:
    pytest.importorskip("aiohttp", reason="needs the extra remote")
    with serving(video.parent, has_ranges=has_ranges, says_size=says_size) as web:
        found = read_clip(f"{web.address}/walk.mp4?X-Amz-Signature=hidden", FRAMES)
    assert torch.equal(found, read_clip(video, FRAMES))


def test_large_file_is_fetched_in_parts(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aiohttp", reason="needs the extra remote")
    monkeypatch.setattr(remote, "WHOLE_BYTES", 100)
    monkeypatch.setattr(remote, "_BLOCK_BYTES", 2**10)
    with serving(video.parent) as web:
        assert torch.equal(read_clip(f"{web.address}/walk.mp4", FRAMES), read_clip(video, FRAMES))
        spans = [given.removeprefix("bytes=").split("-") for given in web.ranges if given]
    assert len(spans) > 1
    assert max(int(last) - int(first) for first, last in spans) <= 2 * 2**10


@pytest.mark.parametrize("says_size", [True, False])
def test_large_file_without_ranges_is_one_line(
    says_size: bool, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("aiohttp", reason="needs the extra remote")
    monkeypatch.setattr(remote, "WHOLE_BYTES", 100)
    monkeypatch.setattr(remote, "_BLOCK_BYTES", 2**10)
    with (
        serving(video.parent, has_ranges=False, says_size=says_size) as web,
        pytest.raises(BadVideoError, match="server does not send parts of a file"),
    ):
        read_clip(f"{web.address}/walk.mp4", FRAMES)


def test_errors_hold_no_credentials(video: Path) -> None:
    pytest.importorskip("aiohttp", reason="needs the extra remote")
    (video.parent / "secret.mp4").write_bytes(b"x")
    (video.parent / "text.mp4").write_bytes(b"no video")
    (video.parent / "empty.mp4").write_bytes(b"")
    reasons = {
        "secret.mp4": r"cannot be fetched \(HTTP status 403\)",
        "gone.mp4": "no such file",
        "text.mp4": "not a video that FFmpeg can read",
        "empty.mp4": r"the file is empty \(0 bytes\)",
    }
    with pytest.raises(BadVideoError, match=r"cannot be fetched \(Connection refused\)$"):
        read_clip("http://127.0.0.1:1/walk.mp4?token=hidden", FRAMES)
    with pytest.raises(BadVideoError, match=r"^ftp://.* cannot be fetched \(Connection refused\)$"):
        videos_at("ftp://127.0.0.1:1/films")  # connects before a file is asked for
    with serving(video.parent) as web:
        for name, reason in reasons.items():
            address = f"{web.address}/{name}"
            with pytest.raises(BadVideoError, match=rf"^{address}: {reason}") as caught:
                read_clip(address.replace("//", "//user:hidden@") + "?token=hidden#hidden", FRAMES)
            assert "hidden" not in str(caught.value)
    with pytest.raises(UserError, match=r"^nosuch://a/b.mp4: addresses of nosuch cannot be read"):
        read_clip("nosuch://a/b.mp4", FRAMES)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("s3://bucket/a b.mp4", "s3://bucket/a b.mp4"),
        ("http://user:pw@h:8/v.mp4?a=1&b=#part", "http://h:8/v.mp4?a=1&b="),
        ("https://h/v.mp4?X-Amz-Credential=a&X-Amz-Expires=3&id=7", "https://h/v.mp4?id=7"),
        ("https://h/v?sv=1&sig=a%3D&se=2&sp=r", "https://h/v"),
        ("https://h/v?Expires=1&Signature=x&Key-Pair-Id=y", "https://h/v"),
        ("https://h/v?id=a%20b&access_token=z", "https://h/v?id=a%20b"),
    ],
)
def test_public_name(address: str, name: str) -> None:
    assert public_name(address) == name
    assert is_address(address)


def test_addresses_and_paths() -> None:
    assert not is_address("C:/films/a.mp4")
    assert not is_address("films/a.mp4")
    assert is_address("https://h/" + 300 * "x")


def test_folders_and_patterns(video: Path) -> None:
    system = fsspec.filesystem("memory")
    for name in ("a.mp4", "deep/b.AVI", "deep/c.txt"):
        system.pipe_file(f"/films/{name}", b"x")
    both = ["memory:///films/a.mp4", "memory:///films/deep/b.AVI"]
    assert videos_at("memory://films") == both
    assert videos_at("memory://films/*.mp4") == both[:1]
    assert videos_at("memory://films/none.mp4") == ["memory://films/none.mp4"]
    assert videos_at("memory://films/deep/c.txt") == ["memory://films/deep/c.txt"]
    with pytest.raises(UserError, match=r"^memory://films/x\*: holds no videos"):
        videos_at("memory://films/x*")
    pytest.importorskip("aiohttp", reason="needs the extra remote")
    write_video(video.parent / "run.mp4", 4)
    with serving(video.parent.parent) as web:
        names = [f"{web.address}/set/{name}.mp4" for name in ("run", "walk")]
        assert videos_at(f"{web.address}/set/") == names
        assert videos_at(f"{web.address}/set/page") == [f"{web.address}/set/page"]
        with pytest.raises(UserError, match=r"/gone/: holds no videos"):
            videos_at(f"{web.address}/gone/?token=x")
