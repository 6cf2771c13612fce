"""Limits of the machine: shared memory, open files, disk space, and the memory of this process."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import sys
from contextlib import suppress
from pathlib import Path

from p3d.errors import UserError

NO_SHARED_MEMORY = (
    "the shared memory of the worker processes (/dev/shm) is full; start the container with "
    "--shm-size 16g or --ipc=host, or use fewer --workers (0 needs none)"
)
_OPEN_MAX = 10240
"""What macOS accepts if the hard limit is "unlimited"."""
_TOO_MANY_FILES = re.compile(r"too many open files|items of ancdata", re.I)
_NO_MEMORY = re.compile(r"allocate memory|not enough memory|out of memory|bad_alloc", re.I)
_SHARED_MEMORY = re.compile(r"shared memory|</?torch_\d+|bus error", re.I)

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # names in glibc's malloc.h
_FEWEST_FILES = 64
_NO_FILES = (errno.EMFILE, errno.ENFILE)


def raise_file_limit_error(error: BaseException) -> None:
    """Raise an error again if there are too many open files, which is no fault of the file."""
    if isinstance(error, OSError) and error.errno in _NO_FILES:
        raise error


def explain_limit(error: OSError | RuntimeError | MemoryError) -> str | None:
    """Return one line with the remedy if an error comes from a limit of the machine, else None.

    PyTorch reports errors of worker processes as text, so the text decides.
    """
    text, code = str(error), getattr(error, "errno", None)
    if code in _NO_FILES or _TOO_MANY_FILES.search(text):
        return "too many open files; raise the limit (ulimit -n 65536) or use fewer --workers"
    if _SHARED_MEMORY.search(text):
        return NO_SHARED_MEMORY
    if isinstance(error, MemoryError) or code == errno.ENOMEM or _NO_MEMORY.search(text):
        return (
            "out of memory; use smaller batches (--batch-size) or smaller clips (--crop, "
            "--num-frames), or end other programs"
        )
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

    Raises:
        UserError: The system allows too few; worker processes could not even report that.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    if most < _FEWEST_FILES:
        raise UserError(
            f"at most {hard} files can be open, and training needs {_FEWEST_FILES} or more; "
            "raise the limit (ulimit -n 65536)"
        )
    for wanted in (most, min(most, _OPEN_MAX)):
        if soft == resource.RLIM_INFINITY or soft >= wanted:
            return
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return


def keep_freed_memory() -> None:
    """Let the C library keep the memory that is freed, for networks on the CPU.

    A step allocates and frees the same large tensors again and again. By default glibc returns each
    to the system, which then clears every page anew: about 15% of a training step. Does nothing
    with other C libraries.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def can_limit_memory() -> bool:
    """Return whether the system enforces `limit_memory`: Linux does, macOS and Windows do not."""
    return sys.platform == "linux"


def limit_memory(size: int) -> None:
    """Let allocations fail that take this process further than `size` bytes above its memory now.

    Files that are mapped and memory that is shared with other processes do not count.
    """
    if sys.platform == "linux":
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
        limit = pages * resource.getpagesize() + size
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def wait_briefly() -> None:
    """Let the CPU threads of networks sleep soon after their work; call before importing PyTorch.

    By default GCC's OpenMP lets them wait busily for milliseconds. On a machine with other work,
    they take the cores from the threads that have something to do: a training step of 0.5 s took
    14 to 33 s, with this setting 5 s. On a quiet machine it costs nothing. The user's own settings
    stay.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
