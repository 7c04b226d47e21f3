"""pycuda behind the CudaDriver interface."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from nst_deploy.errors import BackendFailedError, CannotCaptureError, GpuUnavailableError, OutOfDeviceMemoryError
from nst_deploy.runtime.device_memory import Gpu
from nst_deploy.runtime.vendor import loading

NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, which pycuda does not name


class PycudaDriver:
    """The GPU of the calling thread's context, or the primary context of the first GPU where there is none.

    pycuda frees what it made when the last reference goes, and knows only streams that it made itself.

    Raises:
        BackendMissingError, BackendBrokenError, GpuUnavailableError.
    """

    name = "pycuda"
    joins_foreign_streams = False

    def __init__(self) -> None:
        with loading("pycuda", "pycuda"):
            import pycuda.driver  # noqa: PLC0415  (an optional extra)
        self._cuda: Any = pycuda.driver
        try:
            self._cuda.init()
            if not self._cuda.Device.count():
                raise GpuUnavailableError("the driver finds none")
            self._context = self._cuda.Context.get_current() or self._cuda.Device(0).retain_primary_context()
            with self.current():
                self.gpu = self._describe()
        except self._cuda.Error as error:
            raise GpuUnavailableError(_text(error)) from error
        # pycuda's objects by the handles that stand for them.
        self._memory: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}
        self._events: dict[int, Any] = {}
        self._last_event = 0

    def _describe(self) -> Gpu:
        device = self._cuda.Context.get_device()
        number = self._cuda.get_driver_version()
        return Gpu(device.name(), tuple(device.compute_capability()), (number // 1000, number % 1000 // 10))

    @contextmanager
    def current(self) -> Iterator[None]:
        self._context.push()
        try:
            yield
        except self._cuda.MemoryError as error:
            free, total = self.memory()
            raise OutOfDeviceMemoryError(None, free, total) from error
        except self._cuda.Error as error:
            raise BackendFailedError("CUDA", _text(error)) from error
        finally:
            self._cuda.Context.pop()

    def memory(self) -> tuple[int, int]:
        free, total = self._cuda.mem_get_info()
        return int(free), int(total)

    def allocate(self, size: int) -> int:
        try:
            block = self._cuda.mem_alloc(size)
        except self._cuda.MemoryError as error:
            self._out_of_memory(size, error)
        self._memory[int(block)] = block
        return int(block)

    def free(self, address: int) -> None:
        self.synchronize(None)
        self._memory.pop(address).free()

    def allocate_pinned(self, size: int) -> NDArray[np.uint8]:
        try:
            block: NDArray[np.uint8] = self._cuda.pagelocked_empty(size, np.uint8)
        except self._cuda.MemoryError as error:
            self._out_of_memory(size, error)
        return block

    def free_pinned(self, block: NDArray[np.uint8]) -> None:
        base: Any = block.base  # its allocation, which a view of it would keep alive
        base.free()

    def upload(self, address: int, block: NDArray[np.uint8], stream: int) -> None:
        self._cuda.memcpy_htod_async(address, block, self._streams[stream])

    def download(self, block: NDArray[np.uint8], address: int, stream: int) -> None:
        self._cuda.memcpy_dtoh_async(block, address, self._streams[stream])

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        self._cuda.memcpy_dtod_async(target, source, size, self._streams[stream])

    def new_stream(self) -> int:
        stream = self._cuda.Stream(NON_BLOCKING)
        self._streams[stream.handle] = stream
        return int(stream.handle)

    def destroy_stream(self, stream: int) -> None:
        del self._streams[stream]

    def synchronize(self, stream: int | None) -> None:
        if stream is None:
            self._cuda.Context.synchronize()
        else:
            self._streams[stream].synchronize()

    def new_event(self) -> int:
        self._last_event += 1
        self._events[self._last_event] = self._cuda.Event()
        return self._last_event

    def destroy_event(self, event: int) -> None:
        del self._events[event]

    def record(self, event: int, stream: int) -> None:
        self._events[event].record(self._streams[stream])

    def wait(self, stream: int, event: int) -> None:
        self._streams[stream].wait_for_event(self._events[event])

    def capture(self, stream: int, enqueue: Callable[[], None]) -> int:
        raise CannotCaptureError("pycuda cannot; install cuda-bindings")

    def launch(self, graph: int, stream: int) -> None:
        raise NotImplementedError("pycuda captures no graphs that could be launched")

    def destroy_graph(self, graph: int) -> None:
        raise NotImplementedError("pycuda captures no graphs that could be destroyed")

    def _out_of_memory(self, size: int, error: BaseException) -> NoReturn:
        free, total = self.memory()
        raise OutOfDeviceMemoryError(size, free, total) from error


def _text(error: BaseException) -> str:
    return str(error).split("\n", maxsplit=1)[0]
