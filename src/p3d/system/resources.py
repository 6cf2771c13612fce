"""Limits of the machine that end a run: shared memory, open files, disk space."""

from __future__ import annotations

import errno
import re
from contextlib import suppress

NO_SHARED_MEMORY = (
    "the shared memory of the worker processes (/dev/shm) is full; start the container with "
    "--shm-size 16g or --ipc=host, or use fewer --workers (0 needs none)"
)
_OPEN_MAX = 10240
"""What macOS accepts if the hard limit is "unlimited"."""
_TOO_MANY_FILES = re.compile(r"too many open files|items of ancdata", re.I)
_SHARED_MEMORY = re.compile(r"shared memory|</?torch_\d+|bus error", re.I)


def explain_limit(error: OSError | RuntimeError) -> str | None:
    """Return one line with the remedy if an error comes from a limit of the machine, else None.

    PyTorch reports errors of worker processes as text, so the text decides.
    """
    text, code = str(error), getattr(error, "errno", None)
    if code in (errno.EMFILE, errno.ENFILE) or _TOO_MANY_FILES.search(text):
        return "too many open files; raise the limit (ulimit -n 65536) or use fewer --workers"
    if _SHARED_MEMORY.search(text):
        return NO_SHARED_MEMORY
    if code in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in text:
        if name := getattr(error, "filename", None):
            return f"{name}: no space left on device; free space on this disk"
        return (
            f"no space left on device; free space on the disk; if it has room, {NO_SHARED_MEMORY}"
        )
    return None


def raise_file_limit(limit: int = 65536) -> None:
    """Allow this process as many open files as the system lets it, up to a limit.

    Each batch of a worker process is an open file. The default of many systems, 1,024, dates from
    programs that call select(), which p3d does not.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    for wanted in (most, min(most, _OPEN_MAX)):
        if soft == resource.RLIM_INFINITY or soft >= wanted:
            return
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return
