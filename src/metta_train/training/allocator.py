"""Keep freed memory in the process instead of giving it back to the kernel after every tensor."""

from __future__ import annotations

import ctypes
import sys

# glibc's malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
LIMIT = 1 << 30


def keep_freed_memory() -> None:
    """Let glibc reuse blocks below 1 GiB; does nothing where the C library has no `mallopt`.

    Every gradient step frees what it allocated. Given back, that memory comes again page by page: 5,000 page faults
    and 8 % of the time of a step with 1,536 samples (docs/benchmarks.md).
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return
    mallopt(M_TRIM_THRESHOLD, LIMIT)
    mallopt(M_MMAP_THRESHOLD, LIMIT)
