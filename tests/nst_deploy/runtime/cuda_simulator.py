"""A GPU made of ordinary memory, behind the very functions of cuda-bindings and pycuda that the runtime calls.

Streams are lazy: nothing is done before somebody waits for it, and then no more than what was waited for. A wait that
is missing in the runtime shows as wrong pixels.
"""

import ctypes
import threading
from collections import Counter, deque
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")

ALIGNMENT = 256
LEGACY_STREAMS = (0, 1, 2)
Op = Callable[[], None]


def memory(address: int, size: int) -> np.ndarray:
    """The bytes at an address, as an array that shares them."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


class _Stream:
    def __init__(self) -> None:
        self.queue: deque[Op] = deque()
        self.issued = self.done = 0
        self.captured: list[Op] | None = None
        self.broken = False


class Simulator:
    """
    Args:
        size: bytes of device memory.
    """

    def __init__(self, size: int = 1 << 28) -> None:
        self.size = size
        self.lock = threading.RLock()
        self.blocks: dict[int, np.ndarray] = {}  # device memory
        self.pinned: dict[int, np.ndarray] = {}
        self.streams: dict[int, _Stream] = {handle: _Stream() for handle in LEGACY_STREAMS}
        self.events: dict[int, tuple[int, int] | None] = {}
        self.graphs: dict[int, list[Op]] = {}
        self.contexts = 0  # of TensorRT, alive
        self.calls: Counter[str] = Counter()
        self.fail: dict[str, int] = {}  # name of a function -> error code that it answers from now on
        self._handle = 1000

    def handle(self) -> int:
        self._handle += 1
        return self._handle

    def alive(self) -> dict[str, int]:
        """What has been made and not freed."""
        return {
            "device": len(self.blocks),
            "pinned": len(self.pinned),
            "streams": len(self.streams) - len(LEGACY_STREAMS),
            "events": len(self.events),
            "graphs": len(self.graphs),
            "contexts": self.contexts,
        }

    @property
    def free(self) -> int:
        return self.size - sum(block.size for block in self.blocks.values())

    def allocate(self, size: int) -> int | None:
        if size > self.free:
            return None
        block = np.full(size + ALIGNMENT, 0xAA, np.uint8)  # what is read before it was written shows
        address = -(-block.ctypes.data // ALIGNMENT) * ALIGNMENT
        self.blocks[address] = block
        return address

    def enqueue(self, handle: int, op: Op) -> None:
        with self.lock:
            stream = self.streams[handle]
            if stream.captured is not None:
                stream.captured.append(op)
            else:
                stream.queue.append(op)
                stream.issued += 1

    def run_until(self, handle: int, position: int) -> None:
        with self.lock:
            stream = self.streams.get(handle)
            while stream is not None and stream.done < position:
                op = stream.queue.popleft()
                stream.done += 1
                op()

    def synchronize(self, handle: int) -> None:
        self.run_until(handle, self.streams[handle].issued)

    def synchronize_all(self) -> None:
        for handle in list(self.streams):
            self.synchronize(handle)

    def record(self, event: int, stream: int) -> None:
        self.events[event] = (stream, self.streams[stream].issued)

    def wait(self, stream: int, event: int) -> None:
        recorded = self.events[event]
        if recorded is not None:
            self.enqueue(stream, lambda: self.run_until(*recorded))


class FakeRuntime(ModuleType):
    """``cuda.bindings.runtime``; each function answers a tuple that begins with an error code, as there."""

    cudaError_t = runtime.cudaError_t  # noqa: N815
    cudaMemcpyKind = runtime.cudaMemcpyKind  # noqa: N815
    cudaDeviceAttr = runtime.cudaDeviceAttr  # noqa: N815
    cudaStreamCaptureMode = runtime.cudaStreamCaptureMode  # noqa: N815
    cudaStreamNonBlocking = runtime.cudaStreamNonBlocking  # noqa: N815
    cudaGetErrorString = staticmethod(runtime.cudaGetErrorString)  # noqa: N815

    def __init__(self, simulator: Simulator) -> None:
        super().__init__("cuda.bindings.runtime")
        self.simulator = simulator
        self.capability = (8, 9)
        self.answers: dict[str, tuple[object, ...]] = {
            "GetDeviceCount": (1,),
            "GetDevice": (0,),
            "SetDevice": (),
            "GetLastError": (),
            "DriverGetVersion": (13020,),
            "RuntimeGetVersion": (13020,),
            "GetDeviceProperties": (SimpleNamespace(name=b"Simulated GPU\0\0"),),
        }

    def __getattr__(self, name: str) -> object:
        if not name.startswith("cuda"):
            raise AttributeError(name)

        def call(*arguments: int) -> tuple[object, ...]:
            simulator, short = self.simulator, name.removeprefix("cuda")
            with simulator.lock:
                simulator.calls[name] += 1
                if name in simulator.fail:
                    values = 2 if short == "MemGetInfo" else 1
                    return (self.cudaError_t(simulator.fail[name]), *[None] * values)
                answer = self.answers[short] if short in self.answers else getattr(self, "_" + short)(*arguments)
            return answer if answer and isinstance(answer[0], self.cudaError_t) else (self.cudaError_t(0), *answer)

        return call

    def _error(self, name: str) -> tuple[object, ...]:
        return (getattr(self.cudaError_t, name), None)

    def _DeviceGetAttribute(self, attribute: object, _: int) -> tuple[object, ...]:  # noqa: N802
        major = self.cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor
        return (self.capability[0 if attribute == major else 1],)

    def _MemGetInfo(self) -> tuple[object, ...]:  # noqa: N802
        return (self.simulator.free, self.simulator.size)

    def _Malloc(self, size: int) -> tuple[object, ...]:  # noqa: N802
        address = self.simulator.allocate(size)
        return self._error("cudaErrorMemoryAllocation") if address is None else (address,)

    def _Free(self, address: int) -> tuple[object, ...]:  # noqa: N802
        del self.simulator.blocks[address]
        return ()

    def _MallocHost(self, size: int) -> tuple[object, ...]:  # noqa: N802
        block = np.full(size, 0xAA, np.uint8)
        self.simulator.pinned[block.ctypes.data] = block
        return (block.ctypes.data,)

    def _FreeHost(self, address: int) -> tuple[object, ...]:  # noqa: N802
        del self.simulator.pinned[address]
        return ()

    def _MemcpyAsync(self, target: int, source: int, size: int, kind: object, stream: int) -> tuple[object, ...]:  # noqa: N802
        assert isinstance(kind, self.cudaMemcpyKind)
        self.simulator.enqueue(stream, lambda: ctypes.memmove(target, source, size) and None)
        return ()

    def _StreamCreateWithFlags(self, flags: int) -> tuple[object, ...]:  # noqa: N802
        assert flags == self.cudaStreamNonBlocking
        handle = self.simulator.handle()
        self.simulator.streams[handle] = _Stream()
        return (runtime.cudaStream_t(handle),)

    def _StreamDestroy(self, stream: int) -> tuple[object, ...]:  # noqa: N802
        del self.simulator.streams[stream]
        return ()

    def _StreamSynchronize(self, stream: int) -> tuple[object, ...]:  # noqa: N802
        self.simulator.synchronize(stream)
        return ()

    def _DeviceSynchronize(self) -> tuple[object, ...]:  # noqa: N802
        self.simulator.synchronize_all()
        return ()

    def _EventCreate(self) -> tuple[object, ...]:  # noqa: N802
        handle = self.simulator.handle()
        self.simulator.events[handle] = None
        return (runtime.cudaEvent_t(handle),)

    def _EventDestroy(self, event: int) -> tuple[object, ...]:  # noqa: N802
        del self.simulator.events[event]
        return ()

    def _EventRecord(self, event: int, stream: int) -> tuple[object, ...]:  # noqa: N802
        self.simulator.record(event, stream)
        return ()

    def _StreamWaitEvent(self, stream: int, event: int, flags: int) -> tuple[object, ...]:  # noqa: N802
        assert flags == 0
        self.simulator.wait(stream, event)
        return ()

    def _StreamBeginCapture(self, stream: int, mode: object) -> tuple[object, ...]:  # noqa: N802
        assert mode == self.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        assert stream not in LEGACY_STREAMS
        self.simulator.streams[stream].captured = []
        return ()

    def _StreamEndCapture(self, stream: int) -> tuple[object, ...]:  # noqa: N802
        state = self.simulator.streams[stream]
        captured, state.captured = state.captured, None
        if state.broken:
            state.broken = False
            return self._error("cudaErrorStreamCaptureInvalidated")
        handle = self.simulator.handle()
        self.simulator.graphs[handle] = captured or []
        return (runtime.cudaGraph_t(handle),)

    def _GraphInstantiate(self, graph: int, flags: int) -> tuple[object, ...]:  # noqa: N802
        assert flags == 0
        handle = self.simulator.handle()
        self.simulator.graphs[handle] = list(self.simulator.graphs[int(graph)])
        return (runtime.cudaGraphExec_t(handle),)

    def _GraphLaunch(self, graph: int, stream: int) -> tuple[object, ...]:  # noqa: N802
        for op in self.simulator.graphs[graph]:
            self.simulator.enqueue(stream, op)
        return ()

    def _GraphDestroy(self, graph: int) -> tuple[object, ...]:  # noqa: N802
        del self.simulator.graphs[int(graph)]
        return ()

    _GraphExecDestroy = _GraphDestroy


def install_bindings(patch: pytest.MonkeyPatch, simulator: Simulator) -> FakeRuntime:
    """From now on the simulator is what cuda-bindings drives."""
    fake = FakeRuntime(simulator)
    patch.setattr("cuda.bindings.runtime", fake)
    patch.setitem(__import__("sys").modules, "cuda.bindings.runtime", fake)
    return fake
