"""The videos that arguments of `p3d predict` name: files, folders, lists and patterns."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from p3d.errors import UserError
from p3d.inference.arguments import VideoFinder, local_path


@pytest.fixture(autouse=True)
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder, the working folder, of empty files; finding videos reads none."""
    names = (
        *("set/b.mp4", "set/a.AVI", "set/notes.doc", "set/.hidden.mp4", "set/cover.jpg"),
        *("set/sub/c.mkv", "set/sub/deep/d.webm", "set/frames/f-1.jpg", "set/frames/f-2.jpg"),
        *("set/b/0001.png", "set/none/readme.md", "one [1].mp4", "frames/1.png"),
    )
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "set/sub/up").symlink_to(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(words: Sequence[str]) -> list[str]:
    return [str(item) for item in VideoFinder(words).items]


IN_SET = ["set/a.AVI", "set/b.mp4", "set/frames", "set/sub/c.mkv", "set/sub/deep/d.webm"]


def test_folder_stands_for_the_videos_below_it() -> None:
    found = VideoFinder(["set"])
    assert [str(item) for item in found.items] == IN_SET
    assert found.expanded
    assert found.ignored == 3, "notes.doc, cover.jpg, readme.md; b/ holds the frames of b.mp4"


def test_folder_of_frames_is_one_video() -> None:
    found = VideoFinder(["frames", "set/frames", "one [1].mp4"])
    assert [str(item) for item in found.items] == ["frames", "set/frames", "one [1].mp4"]
    assert not found.expanded


def test_order_is_kept_and_repeated_videos_are_named() -> None:
    found = VideoFinder(["set/sub", "one [1].mp4", "set", "./set/b.mp4"])
    order = ["set/sub/c.mkv", "set/sub/deep/d.webm", "set/sub/up/a.AVI"]
    assert [str(item) for item in found.items][:3] == order
    repeated = [str(path) for path in found.repeated]
    assert repeated == ["set/sub/c.mkv", "set/sub/deep/d.webm", "set/b.mp4"]


def test_patterns_are_expanded() -> None:
    assert names(["set/**/*.mkv", "set/?.mp4"]) == ["set/sub/c.mkv", "set/b.mp4"]
    assert names(["set/s*"]) == ["set/sub/c.mkv", "set/sub/deep/d.webm", *names(["set/sub"])[2:]]
    assert names(["one [1].mp4"]) == ["one [1].mp4"], "a file of this name"
    assert "matches nothing" in names(["*.avi"])[0]
    assert "only other files (notes.doc)" in names(["set/n*.doc"])[0]


@pytest.mark.parametrize("list_name", ["set/list.txt", "set/list.csv"])
def test_lists_name_videos(tree: Path, list_name: str) -> None:
    lines = ["b.mp4", "sub/c.mkv 7", "frames/1.png", "absent.avi", "https://a.b/c.mp4", "sub/deep"]
    if list_name.endswith(".csv"):
        lines = ["class,Path", *(f"x,{line}" for line in lines)]
    (tree / list_name).write_text("\n".join(lines) + "\n\n")
    assert names([list_name]) == [
        "set/b.mp4",
        "set/sub/c.mkv",
        "frames/1.png",
        "set/absent.avi",
        "https://a.b/c.mp4: is an address; download the file first",
        "set/sub/deep/d.webm",
    ]


def test_csv_lists_are_read_as_manifests_are(tree: Path) -> None:
    (tree / "excel.csv").write_text("\ufeffclass;File\r\nx, y;set/b.mp4\r\n;set/sub/c.mkv\r\n")
    assert names(["excel.csv"]) == ["set/b.mp4", "set/sub/c.mkv"]


@pytest.mark.parametrize("end", [b"\n", b"\0"])
def test_stdin_names_videos(end: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    data = io.BytesIO(end.join((b"set/b.mp4", b"\xff.avi", b"")))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(data))
    assert names(["-"]) == ["set/b.mp4", "\udcff.avi"]


def test_wrong_arguments_are_errors(tree: Path) -> None:
    (tree / "no_path.csv").write_text("flie,class\na.avi,x\n")
    (tree / "empty.txt").write_text("\n")
    errors = {
        "": "the name of the video is empty",
        "https://a.b/c.mp4": "https://a.b/c.mp4: is an address; download the video",
        "https:/a.b/c.mp4": "is an address",
        "no_path.csv": "the header has no column path .* it needs path$",
        "empty.txt": "lists no videos",
    }
    for word, message in errors.items():
        with pytest.raises(UserError, match=message):
            VideoFinder([word])
    assert names(["set/none"]) == ["set/none: holds neither videos nor frames of a video"]
    assert local_path("C:/a.avi", "video") == Path("C:/a.avi")


def test_argument_that_does_not_exist(tree: Path) -> None:
    (tree / "broken.mp4").symlink_to("gone.mp4")
    found = VideoFinder(["sets", "absent.mp4", "a" * 300, "broken.mp4", "set/sub/c.mkv"])
    assert [str(item) for item in found.items] == [
        "sets: no such file or folder; did you mean set?",
        "absent.mp4: no such file or folder; check the path",
        f"{'a' * 300}: no such file or folder; check the path",
        "broken.mp4",
        "set/sub/c.mkv",
    ]
    with pytest.raises(UserError, match="sets: no such file or folder; did you mean set"):
        found.check_found()


def test_arguments_without_any_video() -> None:
    for word in ("set/none", "*.avi"):
        with pytest.raises(UserError, match=r"holds neither videos|matches nothing"):
            VideoFinder([word]).check_found()
    VideoFinder(["set/none", "set"]).check_found()
