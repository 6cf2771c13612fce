"""Videos with the same content, byte by byte."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from p3d.prepare.parallel import parallel_map
from p3d.system.files import file_sha256


def find_same_content(paths: Sequence[Path], workers: int = 0) -> list[tuple[int, ...]]:
    """Return the positions of videos with equal content, in groups of two or more.

    Only videos of equal size are read.

    Args:
        paths: Files, or folders of frames, that exist.
        workers: Number of threads; 0: one per core, at most 16.
    """
    by_size: dict[int, list[int]] = defaultdict(list)
    for position, path in enumerate(paths):
        by_size[sum(file.stat().st_size for file in _files(path))].append(position)
    candidates = [position for group in by_size.values() if len(group) > 1 for position in group]
    by_content: dict[tuple[str, ...], list[int]] = defaultdict(list)
    digests = parallel_map(
        lambda position: tuple(map(file_sha256, _files(paths[position]))),
        candidates,
        total=len(candidates),
        title="Comparing",
        workers=workers,
    )
    for position, digest in zip(candidates, digests, strict=True):
        by_content[digest].append(position)
    return [tuple(group) for group in by_content.values() if len(group) > 1]


def _files(path: Path) -> list[Path]:
    return sorted(f for f in path.iterdir() if f.is_file()) if path.is_dir() else [path]
