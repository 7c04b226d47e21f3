"""pycuda.driver over the simulated GPU: the objects and functions that the runtime uses, with pycuda's signatures."""

import ctypes
import sys
import threading
from types import ModuleType

import numpy as np
import pytest

from tests.nst_deploy.runtime.cuda_simulator import Simulator, _Stream


class FakeError(Exception):
    pass


class FakeMemoryError(FakeError):
    pass


def fake_driver(simulator: Simulator, devices: int = 1) -> ModuleType:
    """``pycuda.driver`` as of 2026.1: no graphs, and no streams but its own."""
    stack = threading.local()

    class Allocation:
        def __init__(self, address: int) -> None:
            self._address = address

        def __int__(self) -> int:
            return self._address

        def free(self) -> None:
            del simulator.blocks[self._address]

    class Pinned:
        def __init__(self, block: np.ndarray) -> None:
            self.address = block.ctypes.data
            simulator.pinned[self.address] = block

        def free(self) -> None:
            del simulator.pinned[self.address]

    class Context:
        def push(self) -> None:
            stack.depth = getattr(stack, "depth", 0) + 1

        @staticmethod
        def pop() -> None:
            stack.depth -= 1

        @staticmethod
        def get_current() -> "Context | None":
            return Context() if getattr(stack, "depth", 0) else None

        @staticmethod
        def get_device() -> "Device":
            return Device(0)

        @staticmethod
        def synchronize() -> None:
            simulator.synchronize_all()

    class Device:
        def __init__(self, ordinal: int) -> None:
            assert ordinal == 0

        @staticmethod
        def count() -> int:
            return devices

        def name(self) -> str:
            return "Simulated GPU"

        def compute_capability(self) -> tuple[int, int]:
            return 8, 9

        def retain_primary_context(self) -> Context:
            return Context()

    class Stream:
        def __init__(self, flags: int = 0) -> None:
            assert flags == 1
            self.handle = simulator.handle()
            simulator.streams[self.handle] = _Stream()

        def __del__(self) -> None:
            del simulator.streams[self.handle]

        def synchronize(self) -> None:
            simulator.synchronize(self.handle)

        def wait_for_event(self, event: "Event") -> None:
            simulator.wait(self.handle, event.handle)

    class Event:
        def __init__(self, flags: int = 0) -> None:
            self.handle = simulator.handle()
            simulator.events[self.handle] = None

        def __del__(self) -> None:
            del simulator.events[self.handle]

        def record(self, stream: Stream) -> None:
            simulator.record(self.handle, stream.handle)

    def context_needed() -> None:
        if not getattr(stack, "depth", 0):
            raise FakeError("no context is current")

    def mem_alloc(size: int) -> Allocation:
        context_needed()
        address = simulator.allocate(size)
        if address is None:
            raise FakeMemoryError("cuMemAlloc failed: out of memory")
        return Allocation(address)

    def pagelocked_empty(shape: int, dtype: type) -> np.ndarray:
        context_needed()
        block = np.full(shape, 0xAA, dtype)
        pinned = Pinned(block)
        view = np.ctypeslib.as_array((ctypes.c_uint8 * shape).from_address(pinned.address))
        return _WithBase(shape, dtype, buffer=view.data, pinned=pinned)

    class _WithBase(np.ndarray):
        """An array whose ``base`` is pycuda's allocation."""

        def __new__(cls, *arguments: object, pinned: Pinned, **keywords: object) -> "_WithBase":
            array = super().__new__(cls, *arguments, **keywords)
            array.pinned = pinned
            return array

        def __array_finalize__(self, origin: object) -> None:
            self.pinned = getattr(origin, "pinned", None)

        @property
        def base(self) -> Pinned:
            return self.pinned

    def copy(target: int, source: int, size: int, stream: Stream) -> None:
        context_needed()
        simulator.enqueue(stream.handle, lambda: ctypes.memmove(target, source, size) and None)

    module = ModuleType("pycuda.driver")
    module.Error, module.MemoryError = FakeError, FakeMemoryError
    module.Context, module.Device, module.Stream, module.Event = Context, Device, Stream, Event
    module.init = lambda: None
    module.get_driver_version = lambda: 13020
    module.mem_get_info = lambda: (simulator.free, simulator.size)
    module.mem_alloc, module.pagelocked_empty = mem_alloc, pagelocked_empty
    module.memcpy_htod_async = lambda target, block, stream: copy(target, block.ctypes.data, block.nbytes, stream)
    module.memcpy_dtoh_async = lambda block, source, stream: copy(block.ctypes.data, source, block.nbytes, stream)
    module.memcpy_dtod_async = copy
    return module


def install_pycuda(patch: pytest.MonkeyPatch, simulator: Simulator, devices: int = 1) -> ModuleType:
    """From now on pycuda is installed, and drives the simulator."""
    package, driver = ModuleType("pycuda"), fake_driver(simulator, devices)
    package.driver = driver
    package.__spec__ = pytest.__spec__  # any: find_spec asks only whether there is one
    patch.setitem(sys.modules, "pycuda", package)
    patch.setitem(sys.modules, "pycuda.driver", driver)
    return driver
