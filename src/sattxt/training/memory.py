"""How the process gets its memory while it trains."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # numbers of mallopt(3)


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed for the next allocation, for the rest of the process; whether it does.

    glibc gives large blocks back to the system at once, and each new one comes as pages that the system has to clear.
    A training step on the CPU allocates the same gigabytes as the one before, and may spend half of its time so.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))
