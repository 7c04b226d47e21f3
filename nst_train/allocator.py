"""The C allocator, told to keep what is freed."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


def keep_freed_memory() -> None:
    """Lets this process reuse freed memory instead of handing it back to the kernel after every tensor.

    By default glibc maps each large tensor anew and the kernel clears it page by page: on a CPU that is a sixth of a
    training step. Does nothing where there is no glibc; the program's peak stays as it is.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)  # large blocks come from the heap …
        mallopt(M_TRIM_THRESHOLD, -1)  # … which never shrinks
