"""Whether there is an NVIDIA GPU, asked of its driver alone: no package is needed, and nothing is loaded for long."""

import ctypes
import sys

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
SUCCESS, NO_DEVICE = 0, 100  # of CUDA's driver API


def why_no_gpu() -> str | None:
    """What stands in the way of using a GPU; None where nothing does."""
    try:
        cuda = ctypes.CDLL(LIBRARY)
    except OSError:
        return "the NVIDIA driver is not installed"
    status = cuda.cuInit(0)
    count = ctypes.c_int(0)
    if status == SUCCESS:
        status = cuda.cuDeviceGetCount(ctypes.byref(count))
    if status == NO_DEVICE or (status == SUCCESS and count.value == 0):
        return "the driver finds none"
    return None if status == SUCCESS else f"the driver fails with CUDA error {status}"
