"""Which file a mistyped path may mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from p3d.system.spelling import ask_meant, describe_unread, nearest_path

MEANT = {
    "filmz": "films",
    "Films": "films",
    "filmz/walk.avi": "films/walk.avi",
    "filmz/jump.avi": "films",
    "films/wolk.avi": "films/walk.avi",
    "films/walk.AVI": "films/walk.avi",
    "films/walk.avi/x": "films/walk.avi",
    "bset.safetensors": "best.safetensors",
    "best.safetensor": "best.safetensors",
    "BEST.pt": "best.pt",
    ".hiden": ".hidden",
    # Names that share no more than their suffix or a letter.
    "gone.avi": None,
    "hidden": None,
    "nowhere/x/y.avi": None,
    "x" * 300: None,
}


@pytest.mark.parametrize("typed", MEANT)
def test_nearest_path(typed: str, tmp_path: Path) -> None:
    for name in ("films/walk.avi", "ok.avi", "best.pt", "best.safetensors", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    meant = MEANT[typed]
    assert nearest_path(tmp_path / typed) == (None if meant is None else tmp_path / meant)


def test_remedies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list.txt").touch()
    assert ask_meant("lists.txt") == "did you mean list.txt?"
    assert ask_meant("video") == "check the path"
    assert ask_meant("video", "give one") == "give one"
    with pytest.raises(FileNotFoundError) as gone:
        Path("lisst.txt").read_text()
    reason = "cannot be read (No such file or directory); did you mean list.txt?"
    assert describe_unread("lisst.txt", gone.value) == reason
    with pytest.raises(IsADirectoryError) as folder:
        tmp_path.read_text()
    assert describe_unread(".", folder.value) == "cannot be read (Is a directory); check the path"
