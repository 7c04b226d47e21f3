"""All that one thread at a time needs to run a plan: a stream, buffers, execution contexts, CUDA graphs."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nst_deploy.contract import INPUT_NAME, OUTPUT_NAME
from nst_deploy.errors import BackendFailedError, OutOfDeviceMemoryError
from nst_deploy.runtime.device_memory import CudaDriver, DeviceBuffer, PinnedBuffer

ALIGNMENT = 256  # bytes, of every address that TensorRT is given
GRAPHS_KEPT = 8  # shapes whose graphs are kept in one session; the longest unused goes

Tensor = tuple[int, int, int, int]  # N, H, W, 3


@dataclass
class _Prepared:
    """A context and what it was last told; ``graph`` stands for exactly that."""

    context: Any
    shape: Tensor | None = None
    addresses: tuple[int, int, int] = (0, 0, 0)
    scratch: int = 0  # bytes that this shape needs
    graph: int | None = None


class PlanSession:
    """Not for two threads at once. Every method must be called with the driver's GPU current.

    Args:
        new_context: makes an execution context whose memory we provide.
        last_error: the library's last complaint.
        graphs: run each shape as a CUDA graph.
    """

    def __init__(
        self,
        driver: CudaDriver,
        new_context: Callable[[], Any],
        last_error: Callable[[], str],
        *,
        name: str,
        graphs: bool,
    ) -> None:
        self._driver, self._new_context, self._last_error = driver, new_context, last_error
        self._name, self._graphs = name, graphs
        # TensorRT wants a context for every graph: changing its shape would pull the ground from under it.
        self._prepared: OrderedDict[tuple[int, Tensor | None], _Prepared] = OrderedDict()
        self._input, self._output, self._scratch = (DeviceBuffer(driver) for _ in range(3))
        self._pinned_input, self._pinned_output = PinnedBuffer(driver), PinnedBuffer(driver)
        self.stream = driver.new_stream()
        self._done = driver.new_event()  # of the last run
        self._last_stream = self.stream

    def run_host(self, images: NDArray[np.uint8], styled: NDArray[np.uint8], profile: int) -> None:
        """uint8 ``[N, H, W, 3]``, C-contiguous, from and to ordinary memory; returns when it is done."""
        shape, stream, driver = _tensor(images.shape), self.stream, self._driver
        size = images.nbytes
        self._take_turn(stream)
        source, target = self._pinned_input.ensure(size), self._pinned_output.ensure(size)
        addresses = self._input.ensure(size), self._output.ensure(size)
        source[:] = images.reshape(-1)
        driver.upload(addresses[0], source, stream)
        self._execute(shape, profile, addresses, stream)
        driver.download(target, addresses[1], stream)
        driver.synchronize(stream)
        styled.reshape(-1)[:] = target

    def run_device(self, source: int, target: int, shape: Tensor, profile: int, stream: int) -> None:
        """From one device address to another; enqueued on ``stream``, not waited for."""
        size = prod(shape)
        self._take_turn(stream)
        # A graph has the addresses built in, and TensorRT takes only aligned ones.
        own_source = self._graphs or source % ALIGNMENT != 0
        own_target = self._graphs or target % ALIGNMENT != 0
        addresses = (
            self._input.ensure(size) if own_source else source,
            self._output.ensure(size) if own_target else target,
        )
        if own_source:
            self._driver.copy(addresses[0], source, size, stream)
        self._execute(shape, profile, addresses, stream)
        if own_target:
            self._driver.copy(target, addresses[1], size, stream)
        self._driver.record(self._done, stream)

    def close(self) -> None:
        """Frees all of it, after what was enqueued is done; whatever goes wrong with one, the others are freed."""
        steps: list[Callable[[], None]] = [lambda: self._driver.synchronize(None)]
        for prepared in self._prepared.values():
            steps.append(lambda prepared=prepared: self._drop_graph(prepared))  # type: ignore[misc]
        steps += [self._prepared.clear]
        steps += [buffer.free for buffer in (self._input, self._output, self._scratch)]
        steps += [buffer.free for buffer in (self._pinned_input, self._pinned_output)]
        steps += [lambda: self._driver.destroy_event(self._done), lambda: self._driver.destroy_stream(self.stream)]
        failures: list[Exception] = []
        for step in steps:
            try:
                step()
            except Exception as error:  # noqa: BLE001  (raised again below)
                failures.append(error)
        if failures:
            raise failures[0]

    def _take_turn(self, stream: int) -> None:
        """The last run may still be under way on another stream, in the same buffers."""
        if stream != self._last_stream:
            if self._last_stream != self.stream:  # what ran on our own was waited for
                self._driver.wait(stream, self._done)
            self._last_stream = stream

    def _execute(self, shape: Tensor, profile: int, addresses: tuple[int, int], stream: int) -> None:
        prepared = self._prepare(shape, profile, addresses)
        if not self._graphs:
            self._enqueue(prepared, stream)
            return
        if prepared.graph is None:
            # Once outside of a graph, as TensorRT asks for after a change of shape; then again inside. Both on our own
            # stream, after what uses the same buffers on the caller's.
            self._driver.record(self._done, stream)
            self._driver.wait(self.stream, self._done)
            self._enqueue(prepared, self.stream)
            self._driver.synchronize(self.stream)
            prepared.graph = self._driver.capture(self.stream, lambda: self._enqueue(prepared, self.stream))
        self._driver.launch(prepared.graph, stream)

    def _prepare(self, shape: Tensor, profile: int, addresses: tuple[int, int]) -> _Prepared:
        key = (profile, shape if self._graphs else None)
        prepared = self._prepared.get(key)
        if prepared is None:
            self._make_room()
            prepared = self._prepared[key] = _Prepared(self._context(profile))
        self._prepared.move_to_end(key)
        if prepared.shape != shape:
            self._set_shape(prepared, shape)
        wanted = (*addresses, self._scratch.ensure(prepared.scratch))
        if prepared.addresses != wanted:
            self._drop_graph(prepared)
            self._set_addresses(prepared, wanted)
        return prepared

    def _make_room(self) -> None:
        while len(self._prepared) >= GRAPHS_KEPT:
            self._driver.synchronize(None)  # it may still be running
            _, oldest = self._prepared.popitem(last=False)
            self._drop_graph(oldest)

    def _context(self, profile: int) -> Any:
        context = self._new_context()
        if context is None:
            self._fail()
        if profile != context.active_optimization_profile:
            self._check(context.set_optimization_profile_async(profile, self.stream))
            self._driver.synchronize(self.stream)
        return context

    def _set_shape(self, prepared: _Prepared, shape: Tensor) -> None:
        context = prepared.context
        prepared.shape = None  # until all of it is known to hold
        self._check(context.set_input_shape(INPUT_NAME, shape))
        missing = context.infer_shapes()
        if missing:
            raise BackendFailedError(self._name, f"the shapes of {', '.join(missing)} stay unknown")
        given = tuple(context.get_tensor_shape(OUTPUT_NAME))
        if given != shape:
            raise BackendFailedError(self._name, f"it makes {list(given)} of {list(shape)}")
        prepared.scratch = int(context.update_device_memory_size_for_shapes())
        prepared.addresses = (0, 0, 0)
        prepared.shape = shape

    def _set_addresses(self, prepared: _Prepared, addresses: tuple[int, int, int]) -> None:
        context = prepared.context
        self._check(context.set_tensor_address(INPUT_NAME, addresses[0]))
        self._check(context.set_tensor_address(OUTPUT_NAME, addresses[1]))
        if prepared.scratch:
            context.set_device_memory(addresses[2], self._scratch.size)
        prepared.addresses = addresses

    def _enqueue(self, prepared: _Prepared, stream: int) -> None:
        self._check(prepared.context.execute_async_v3(stream))

    def _drop_graph(self, prepared: _Prepared) -> None:
        if prepared.graph is not None:
            graph, prepared.graph = prepared.graph, None
            self._driver.destroy_graph(graph)

    def _check(self, accepted: bool) -> None:
        if not accepted:
            self._fail()

    def _fail(self) -> None:
        """The library returned no, and has logged why."""
        reason = self._last_error()
        if "memory" in reason.lower():
            raise OutOfDeviceMemoryError(None, *self._driver.memory())
        raise BackendFailedError(self._name, reason or "it gave no reason")


def _tensor(shape: tuple[int, ...]) -> Tensor:
    n, h, w, c = shape
    return n, h, w, c
