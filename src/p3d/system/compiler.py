"""PyTorch's compiler: the C++ compiler it needs, and the folder of its results."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

_FOLDER = "TORCHINDUCTOR_CACHE_DIR"


def find_compiler() -> str | None:
    """Return the path of the C++ compiler that PyTorch would call, or None.

    If `CXX` is set, PyTorch tries no other.
    """
    own = os.environ.get("CXX")
    names = (own,) if own else ("g++", "clang++", "c++")
    return next((path for name in names if (path := shutil.which(name))), None)


def use_cache() -> Path:
    """Keep compiled networks between runs; return the folder.

    It is `TORCHINDUCTOR_CACHE_DIR` where that is set, else `p3d/compiled` in the user's cache
    folder. PyTorch's own default is in the temporary folder, which is emptied at each start.
    """
    if _FOLDER not in os.environ:
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        os.environ[_FOLDER] = str(Path(caches) / "p3d" / "compiled")
    return Path(os.environ[_FOLDER])


def _read_times(path: Path) -> dict[str, float]:
    with suppress(OSError, ValueError):
        values = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): float(value) for key, value in values.items()}
    return {}


def record_seconds(key: str, seconds: float) -> None:
    """Remember how long a compilation took, for `known_seconds`."""
    path = use_cache() / "p3d-times.json"
    with suppress(OSError):  # the folder may be read-only
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(_read_times(path) | {key: seconds}), encoding="utf-8")


def known_seconds(key: str) -> float | None:
    """Return how long this compilation took the last time on this machine, or None."""
    return _read_times(use_cache() / "p3d-times.json").get(key)
