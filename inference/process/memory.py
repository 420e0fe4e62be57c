"""How the process keeps memory, once everything that lasts is loaded."""

from __future__ import annotations

import ctypes
import gc

# Arrays of a large request are up to some MB. By default glibc gives such blocks back to the kernel as
# soon as they are free and asks for them again, zeroed page by page, at the next request.
_KEPT_BYTES = 16 * 1024 * 1024
_LARGE_BYTES = 4 * 1024 * 1024
_M_TRIM_THRESHOLD = -1  # malloc.h
_M_MMAP_THRESHOLD = -3
# Young containers between two collections; 700 by default, which a few requests fill.
_YOUNG = 10_000


def settle_memory() -> None:
    """Leave what is loaded out of every garbage collection, and let freed blocks be used again.

    A full collection would walk a hundred thousand objects that never die, for some 20 ms in which
    nobody is answered. A C library without ``mallopt`` keeps memory as it likes.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 10, 10)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
