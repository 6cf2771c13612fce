"""Names of the files in a folder of results with one file a video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath

from p3d.errors import UserError


def names_below(paths: Sequence[Path], root: Path, suffix: str = ".npy") -> list[str]:
    """Return a name for the file of each video's results: its path below a folder, with a suffix.

    Raises:
        UserError: Two videos would have the same name.
    """
    names: dict[str, Path] = {}
    for path in paths:
        inside = path.relative_to(root) if path.is_relative_to(root) else PurePath(path)
        parts = [part for part in inside.parts if part not in (inside.anchor, "..")]
        other = names.setdefault("/".join(parts) + suffix, path)
        if other is not path:
            raise UserError(f"{path} and {other}: their files would have the same name")
    return list(names)
