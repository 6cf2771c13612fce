"""Folders of empty files, for tests that only look at names."""

from __future__ import annotations

from pathlib import Path


def touch(root: Path, *names: str) -> None:
    """Create empty files below a folder, and the folders that they are in."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
