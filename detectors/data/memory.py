"""Reuse the memory of images."""

import ctypes
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of `mallopt` in glibc's malloc.h."""
_KEPT, _LARGEST = 256 * 2**20, 32 * 2**20
"""Bytes that stay in the process, and of the largest piece that is reused; glibc allows no more."""


@cache
def keep_freed_memory() -> bool:
    """Let this process reuse the memory of freed images instead of returning it to the system.

    Images have megabytes, which glibc returns when they are freed. To get them again costs a page
    fault for each 4 KiB: up to a third of the time of loading, depending on what else is on the
    heap.

    Returns:
        Whether it has an effect; it has none with other C libraries.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_TRIM_THRESHOLD, _KEPT))
