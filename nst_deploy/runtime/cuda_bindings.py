"""cuda-bindings, NVIDIA's own, behind the CudaDriver interface."""

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nst_deploy.errors import (
    BackendFailedError,
    CannotCaptureError,
    DriverTooOldError,
    GpuUnavailableError,
    OutOfDeviceMemoryError,
)
from nst_deploy.runtime.device_memory import Gpu
from nst_deploy.runtime.vendor import loading

# While any thread captures, CUDA refuses to wait for the whole GPU, in every other thread too.
_CAPTURING = threading.RLock()


class BindingsDriver:
    """The GPU that is the current one of the calling thread, through CUDA's runtime API.

    Raises:
        BackendMissingError, BackendBrokenError, GpuUnavailableError, DriverTooOldError.
    """

    name = "cuda-bindings"
    joins_foreign_streams = True

    def __init__(self) -> None:
        with loading("cuda-bindings", "tensorrt", "cuda.bindings.runtime"):
            from cuda.bindings import runtime  # noqa: PLC0415  (an optional extra)
        self._rt: Any = runtime
        self._check_driver()
        self._ordinal = self._call(self._rt.cudaGetDevice())
        self.gpu = self._describe()

    def _check_driver(self) -> None:
        """No GPU and an old driver are told apart before anything else fails because of them."""
        error, count = self._rt.cudaGetDeviceCount()
        codes = self._rt.cudaError_t
        if error == codes.cudaErrorInsufficientDriver:
            supported, needed = self._driver_cuda(), _version(self._call(self._rt.cudaRuntimeGetVersion()))
            if supported == (0, 0):
                raise GpuUnavailableError("the NVIDIA driver is not installed")
            raise DriverTooOldError(supported, needed)
        if error == codes.cudaErrorNoDevice or (error == codes.cudaSuccess and count == 0):
            raise GpuUnavailableError("the driver finds none")
        if error != codes.cudaSuccess:
            raise GpuUnavailableError(self._text(error))

    def _driver_cuda(self) -> tuple[int, int]:
        return _version(self._call(self._rt.cudaDriverGetVersion()))

    def _describe(self) -> Gpu:
        attributes = self._rt.cudaDeviceAttr
        major, minor = (
            self._call(self._rt.cudaDeviceGetAttribute(attribute, self._ordinal))
            for attribute in (
                attributes.cudaDevAttrComputeCapabilityMajor,
                attributes.cudaDevAttrComputeCapabilityMinor,
            )
        )
        properties = self._call(self._rt.cudaGetDeviceProperties(self._ordinal))
        return Gpu(properties.name.split(b"\0")[0].decode(), (major, minor), self._driver_cuda())

    @contextmanager
    def current(self) -> Iterator[None]:
        previous = self._call(self._rt.cudaGetDevice())
        if previous != self._ordinal:
            self._call(self._rt.cudaSetDevice(self._ordinal))
        try:
            yield
        finally:
            if previous != self._ordinal:
                self._call(self._rt.cudaSetDevice(previous))

    def memory(self) -> tuple[int, int]:
        error, free, total = self._rt.cudaMemGetInfo()
        self._check(error)
        return int(free), int(total)

    def allocate(self, size: int) -> int:
        return int(self._call(self._rt.cudaMalloc(size), need=size))

    def free(self, address: int) -> None:
        self.synchronize(None)
        self._call(self._rt.cudaFree(address))

    def allocate_pinned(self, size: int) -> NDArray[np.uint8]:
        address = int(self._call(self._rt.cudaMallocHost(size), need=size))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def free_pinned(self, block: NDArray[np.uint8]) -> None:
        self._call(self._rt.cudaFreeHost(block.ctypes.data))

    def upload(self, address: int, block: NDArray[np.uint8], stream: int) -> None:
        kind = self._rt.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call(self._rt.cudaMemcpyAsync(address, block.ctypes.data, block.nbytes, kind, stream))

    def download(self, block: NDArray[np.uint8], address: int, stream: int) -> None:
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call(self._rt.cudaMemcpyAsync(block.ctypes.data, address, block.nbytes, kind, stream))

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._call(self._rt.cudaMemcpyAsync(target, source, size, kind, stream))

    def new_stream(self) -> int:
        return int(self._call(self._rt.cudaStreamCreateWithFlags(self._rt.cudaStreamNonBlocking)))

    def destroy_stream(self, stream: int) -> None:
        self._call(self._rt.cudaStreamDestroy(stream))

    def synchronize(self, stream: int | None) -> None:
        if stream is not None:
            self._call(self._rt.cudaStreamSynchronize(stream))
            return
        with _CAPTURING:
            self._call(self._rt.cudaDeviceSynchronize())

    def new_event(self) -> int:
        return int(self._call(self._rt.cudaEventCreate()))

    def destroy_event(self, event: int) -> None:
        self._call(self._rt.cudaEventDestroy(event))

    def record(self, event: int, stream: int) -> None:
        self._call(self._rt.cudaEventRecord(event, stream))

    def wait(self, stream: int, event: int) -> None:
        self._call(self._rt.cudaStreamWaitEvent(stream, event, 0))

    def capture(self, stream: int, enqueue: Callable[[], None]) -> int:
        with _CAPTURING:
            graph = self._captured(stream, enqueue)
        try:
            error, executable = self._rt.cudaGraphInstantiate(graph, 0)
        finally:
            self._rt.cudaGraphDestroy(graph)
        if error != self._rt.cudaError_t.cudaSuccess:
            raise CannotCaptureError(self._text(error))
        return int(executable)

    def _captured(self, stream: int, enqueue: Callable[[], None]) -> Any:
        # Of this thread alone: allocations of others may not break it.
        mode = self._rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call(self._rt.cudaStreamBeginCapture(stream, mode))
        try:
            enqueue()
        except BaseException:
            _, graph = self._rt.cudaStreamEndCapture(stream)  # whatever it says, the stream is usable again
            if graph is not None and int(graph):
                self._rt.cudaGraphDestroy(graph)
            raise
        error, graph = self._rt.cudaStreamEndCapture(stream)
        if error != self._rt.cudaError_t.cudaSuccess:
            raise CannotCaptureError(self._text(error))
        return graph

    def launch(self, graph: int, stream: int) -> None:
        self._call(self._rt.cudaGraphLaunch(graph, stream))

    def destroy_graph(self, graph: int) -> None:
        self._call(self._rt.cudaGraphExecDestroy(graph))

    def _call(self, answer: tuple[Any, ...], *, need: int | None = None) -> Any:
        """The value in a call's answer, which begins with its error code."""
        error, *values = answer
        self._check(error, need)
        return values[0] if values else None

    def _check(self, error: Any, need: int | None = None) -> None:
        codes = self._rt.cudaError_t
        if error == codes.cudaSuccess:
            return
        if error == codes.cudaErrorMemoryAllocation:
            self._rt.cudaGetLastError()  # an allocation that failed may not show in the next call as well
            _, free, total = self._rt.cudaMemGetInfo()
            raise OutOfDeviceMemoryError(need, int(free or 0), int(total or 0))
        raise BackendFailedError("CUDA", self._text(error))

    def _text(self, error: Any) -> str:
        _, text = self._rt.cudaGetErrorString(error)
        return f"{text.decode()} ({error.name})"


def _version(number: int) -> tuple[int, int]:
    """CUDA writes 13.2 as 13020."""
    return number // 1000, number % 1000 // 10
