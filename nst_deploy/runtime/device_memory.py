"""A GPU's memory, streams and graphs behind one small interface, and buffers that are reused and grown.

Addresses, streams, events and graphs are plain integers, CUDA's own handles, so that those of other libraries can be
used in their place.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Gpu:
    """
    Attributes:
        name: as its driver calls it.
        compute_capability: (major, minor).
        driver_cuda: the latest CUDA that the driver supports, (major, minor).
    """

    name: str
    compute_capability: tuple[int, int]
    driver_cuda: tuple[int, int]

    @property
    def capability(self) -> str:
        """Such as ``8.9``."""
        return "{}.{}".format(*self.compute_capability)


class CudaDriver(Protocol):
    """One GPU. Every call but ``current`` must be made inside ``with driver.current():``; sizes are bytes.

    Copies and events are asynchronous: they are done when their stream has come so far.

    Attributes:
        name: of the library behind it.
        gpu: what it drives.
        joins_foreign_streams: streams and events may be mixed with those of other libraries.

    Raises (every call):
        OutOfDeviceMemoryError: an allocation that does not fit.
        BackendFailedError: anything else that CUDA complains of, also about work that was enqueued before.
    """

    name: str
    gpu: Gpu
    joins_foreign_streams: bool

    def current(self) -> AbstractContextManager[None]:
        """Makes the GPU the current one of this thread."""
        ...

    def memory(self) -> tuple[int, int]:
        """Free and total."""
        ...

    def allocate(self, size: int) -> int: ...
    def free(self, address: int) -> None:
        """Waits for what is running on the GPU."""
        ...

    def allocate_pinned(self, size: int) -> NDArray[np.uint8]: ...
    def free_pinned(self, block: NDArray[np.uint8]) -> None: ...
    def upload(self, address: int, block: NDArray[np.uint8], stream: int) -> None: ...
    def download(self, block: NDArray[np.uint8], address: int, stream: int) -> None: ...
    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Within the GPU."""
        ...

    def new_stream(self) -> int:
        """One that does not wait for the default stream."""
        ...

    def destroy_stream(self, stream: int) -> None: ...
    def synchronize(self, stream: int | None) -> None:
        """Waits for a stream, or for all of them."""
        ...

    def new_event(self) -> int: ...
    def destroy_event(self, event: int) -> None: ...
    def record(self, event: int, stream: int) -> None: ...
    def wait(self, stream: int, event: int) -> None:
        """Lets what is enqueued on the stream from now on wait for the event."""
        ...

    def capture(self, stream: int, enqueue: Callable[[], None]) -> int:
        """An executable graph of what ``enqueue`` puts on the stream, which is not run.

        Raises:
            CannotCaptureError: something in it is not possible in a graph.
        """
        ...

    def launch(self, graph: int, stream: int) -> None: ...
    def destroy_graph(self, graph: int) -> None: ...


def open_driver(*, graphs: bool = False) -> CudaDriver:
    """The current GPU, through pycuda where that is installed, and cuda-bindings otherwise.

    Args:
        graphs: CUDA graphs will be captured, which pycuda cannot.

    Raises:
        BackendMissingError, BackendBrokenError: neither is installed, or the one that is does not load.
        GpuUnavailableError, DriverTooOldError.
    """
    if not graphs and find_spec("pycuda") is not None:
        from nst_deploy.runtime.cuda_pycuda import PycudaDriver  # noqa: PLC0415

        return PycudaDriver()
    from nst_deploy.runtime.cuda_bindings import BindingsDriver  # noqa: PLC0415

    return BindingsDriver()


class DeviceBuffer:
    """Device memory that grows when more is asked for and is kept otherwise."""

    def __init__(self, driver: CudaDriver) -> None:
        self._driver = driver
        self.address = self.size = 0

    def ensure(self, size: int) -> int:
        """Its address, with room for ``size`` bytes; growing it loses what it held."""
        if size > self.size:
            self.free()  # first: both together might not fit
            self.address = self._driver.allocate(size)
            self.size = size
        return self.address

    def free(self) -> None:
        if self.size:
            address, self.address, self.size = self.address, 0, 0
            self._driver.free(address)


class PinnedBuffer:
    """Page-locked host memory, which a GPU copies from and to while the processor goes on; grows like DeviceBuffer."""

    def __init__(self, driver: CudaDriver) -> None:
        self._driver = driver
        self._block: NDArray[np.uint8] | None = None

    def ensure(self, size: int) -> NDArray[np.uint8]:
        """uint8 ``[size]``, the first part of it."""
        if self._block is None or size > self._block.size:
            self.free()
            self._block = self._driver.allocate_pinned(size)
        return self._block[:size]

    def free(self) -> None:
        if self._block is not None:
            block, self._block = self._block, None
            self._driver.free_pinned(block)
