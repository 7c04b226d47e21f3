"""The C allocator, told to keep what is freed; how PyTorch's ones say that there is nothing left."""

import ctypes
import sys

import torch

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


def ran_out_of_memory(error: RuntimeError) -> bool:
    """Whether that is what PyTorch's ``error`` means; the CPU's allocator has no class of its own for it."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
