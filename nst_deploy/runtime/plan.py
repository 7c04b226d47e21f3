"""TensorRT and TensorRT-RTX plans behind the Backend interface."""

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nst_deploy.contract import ModelContract
from nst_deploy.errors import BackendFailedError, NotADeviceArrayError, PictureSizeError
from nst_deploy.plan_sidecar import PlanSidecar, read_plan
from nst_deploy.runtime import trt as library
from nst_deploy.runtime.device_array import DEFAULT_STREAMS, DeviceArray, DeviceView, stream_handle, view_device_array
from nst_deploy.runtime.device_memory import CudaDriver, open_driver
from nst_deploy.runtime.ov_cache import BlobCache, user_cache_folder
from nst_deploy.runtime.plan_checks import check_gpu, check_kind, check_library, find_profile, find_weights
from nst_deploy.runtime.plan_session import PlanSession
from nst_deploy.runtime.trt_context import ContextFactory

BACKEND_NAMES = {"tensorrt": "tensorrt", "rtx": "tensorrt-rtx"}


class PlanBackend:
    """A plan on the GPU. May be shared between threads: each run has a stream, buffers and a context of its own.

    Args:
        plan: a ``.plan`` or ``.rtx.plan`` with its sidecar.
        cuda_graph: run each shape as a CUDA graph: less work for the processor per picture, one context per shape.
        cache: keep what TensorRT-RTX compiles for this GPU in the user's cache folder.
        driver: None opens the current GPU.

    Raises:
        EngineNotFoundError, EngineUnreadableError, NotAnEngineError, WrongKindOfEngineError.
        SidecarMissingError, SidecarMalformedError, PlanMismatchError, PlanWeightsMissingError.
        PlanElsewhereError: it was built for another library, version or GPU.
        RtxUnsupportedError: it is one of TensorRT-RTX, which runs nothing on this GPU.
        BackendMissingError, BackendBrokenError, GpuUnavailableError, DriverTooOldError, OutOfDeviceMemoryError.
    """

    def __init__(
        self, plan: Path, *, cuda_graph: bool = False, cache: bool = True, driver: CudaDriver | None = None
    ) -> None:
        check_kind(plan, plan_needed=True)
        content, sidecar = read_plan(plan)
        self.contract: ModelContract = sidecar.contract
        self.name = BACKEND_NAMES[sidecar.flavor]
        trt = library.load_library(sidecar.flavor)
        check_library(plan, sidecar, trt.__version__)
        own_graphs = cuda_graph and sidecar.flavor == "tensorrt"  # RTX makes its own, one for each shape as well
        self._driver = driver or open_driver(graphs=own_graphs)
        if sidecar.flavor == "rtx":
            library.check_rtx(str(plan), trt, self._driver.gpu)  # first: no other build of the plan would run either
        check_gpu(plan, sidecar, self._driver.gpu)
        self._logger = library.new_logger(trt)
        with self._driver.current():
            contexts = self._open(trt, plan, content, sidecar, graphs=cuda_graph, cache=cache)
        self._pool = _SessionPool(self._driver, contexts, self._logger, name=self.name, graphs=own_graphs)
        # Also where close() is forgotten: at garbage collection, and at the end of the program.
        self._close = weakref.finalize(self, self._pool.close)

    def _open(
        self, trt: Any, plan: Path, content: bytes, sidecar: PlanSidecar, *, graphs: bool, cache: bool
    ) -> ContextFactory:
        runtime, engine = library.deserialize(
            trt, self._logger, content, plan, self._driver.gpu, portable=sidecar.portable
        )
        library.check_tensors(trt, engine, plan)
        if sidecar.weights_stripped:
            library.refit(trt, self._logger, engine, plan, find_weights(plan, sidecar))
        self._profiles = library.profiles(engine)
        blobs = BlobCache(user_cache_folder()) if cache else None
        gpu = self._driver.gpu
        path = blobs.path(content, trt.__version__, gpu.name, gpu.capability) if blobs else None
        return ContextFactory(trt, runtime, engine, graphs=graphs, blobs=blobs, path=path)

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """See Backend; more pictures than the plan takes at once are run in turns.

        Raises:
            PictureSizeError: a size that the plan was not built for.
            OutOfDeviceMemoryError, BackendFailedError.
        """
        profile = self._profile(images.shape)
        styled = np.empty_like(images, order="C")
        with self._session() as session:
            for start, stop in self._turns(len(images), profile):
                session.run_host(images[start:stop], styled[start:stop], profile)
        return styled

    def run_device(self, images: Any, *, stream: Any = None, out: Any = None) -> Any:
        """Styles pictures that lie in the GPU's memory, without a copy through the host.

        Args:
            images: uint8 ``[N, H, W, 3]`` or ``[H, W, 3]``, RGB, C-contiguous: an array of torch, CuPy, pycuda or
                whatever else has ``__cuda_array_interface__`` or ``__dlpack__``.
            stream: the caller's own: torch's, CuPy's, pycuda's, one with ``__cuda_stream__``, or a handle. The work is
                put there, and the call returns before it is done. Without one it returns when it is done.
            out: where to write, an array like ``images``; None makes a new one. Frames of a video should give one:
                making and freeing GPU memory waits for the whole GPU.

        Returns:
            ``out``, or a DeviceArray of the same shape as ``images``.

        Raises:
            NotADeviceArrayError: another type, dtype, shape or place.
            PictureSizeError, OutOfDeviceMemoryError, BackendFailedError.
        """
        with self._session() as session:
            own = stream is None
            handle = session.stream if own else stream_handle(stream)
            joined = not own and (handle in DEFAULT_STREAMS or not self._driver.joins_foreign_streams)
            used = session.stream if own or joined else handle
            if joined:
                self._wait_for(session, handle)
            source = view_device_array(images, used)
            try:
                return self._run_views(session, source, out, used, waits=own or joined)
            finally:
                source.release()

    def _run_views(self, session: PlanSession, source: DeviceView, out: Any, stream: int, *, waits: bool) -> Any:
        profile = self._profile(source.shape)
        self._wait_for(session, source.stream, stream)
        target = view_device_array(out, stream) if out is not None else None
        if target is not None and target.shape != source.shape:
            target.release()
            raise NotADeviceArrayError(f"out {list(target.shape)} for images {list(source.shape)}")
        self._wait_for(session, target.stream if target else None, stream)
        result = None if target is not None else self._new_array(source, None if waits else stream)
        address = target.address if target is not None else result.address  # type: ignore[union-attr]
        n, *picture = source.shape
        size = prod(picture)
        try:
            for start, stop in self._turns(n, profile):
                shape = (stop - start, *source.shape[1:])
                session.run_device(source.address + start * size, address + start * size, shape, profile, stream)
            if waits:
                self._driver.synchronize(stream)
        finally:
            if target is not None:
                target.release()
        return result if out is None else out

    def _wait_for(self, session: PlanSession, made_on: int | None, used_on: int | None = None) -> None:
        """Lets what is put on a stream from now on (None: the session's own) wait for all that is on another one."""
        used = session.stream if used_on is None else used_on
        if made_on is None or made_on == used:
            return
        if not self._driver.joins_foreign_streams:
            self._driver.synchronize(None)
            return
        event = self._driver.new_event()
        try:
            self._driver.record(event, made_on)
            self._driver.wait(used, event)
        finally:
            self._driver.destroy_event(event)

    def _new_array(self, source: DeviceView, stream: int | None) -> DeviceArray:
        memory = _OwnedMemory(self._driver, prod(source.shape))
        shape = source.shape if source.has_batch else source.shape[1:]
        return DeviceArray(memory.address, shape, owner=memory, stream=stream, join=self._join(stream))

    def _join(self, stream: int | None) -> Any:
        """What lets a consumer's stream wait for ours; None where the content is there already."""
        if stream is None:
            return None
        driver = self._driver

        def join(consumer: int) -> None:
            with driver.current():
                event = driver.new_event()
                try:
                    driver.record(event, stream)
                    driver.wait(consumer, event)
                finally:
                    driver.destroy_event(event)

        return join

    def close(self) -> None:
        self._close()

    def _profile(self, shape: tuple[int, ...]) -> int:
        return find_profile(self._profiles, (shape[0], shape[1], shape[2]))

    def _turns(self, count: int, profile: int) -> Iterator[tuple[int, int]]:
        """Ranges of at most as many pictures as the profile takes at once, and at least as many as it needs."""
        least, most = self._profiles[profile].min[0], self._profiles[profile].max[0]
        for start in range(0, count, most):
            stop = min(start + most, count)
            yield max(0, min(start, stop - least)), stop

    @contextmanager
    def _session(self) -> Iterator[PlanSession]:
        with self._driver.current():
            session = self._pool.take()
            try:
                yield session
            except (NotADeviceArrayError, PictureSizeError):
                self._pool.give_back(session)  # nothing was begun
                raise
            except BaseException:
                self._pool.discard(session)  # whatever it was in the middle of
                raise
            self._pool.give_back(session)


class _OwnedMemory:
    """Device memory that is freed with its last reference."""

    def __init__(self, driver: CudaDriver, size: int) -> None:
        self.address = driver.allocate(size)
        self._free = weakref.finalize(self, _free, driver, self.address)
        self._free.atexit = False  # the driver frees it all then, and may be gone already


def _free(driver: CudaDriver, address: int) -> None:
    with suppress(BackendFailedError), driver.current():
        driver.free(address)


class _SessionPool:
    """Sessions that are not in use; as many are made as threads run at once."""

    def __init__(self, driver: CudaDriver, contexts: ContextFactory, logger: Any, *, name: str, graphs: bool) -> None:
        self._driver, self._contexts, self._logger = driver, contexts, logger
        self._name, self._graphs = name, graphs
        self._lock = threading.Lock()
        self._idle: list[PlanSession] = []
        self._closed = False

    def take(self) -> PlanSession:
        with self._lock:
            if self._closed:
                raise BackendFailedError(self._name, "it has been closed")
            if self._idle:
                return self._idle.pop()
        return PlanSession(
            self._driver, self._contexts.new, lambda: str(self._logger.last), name=self._name, graphs=self._graphs
        )

    def give_back(self, session: PlanSession) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(session)
                return
        session.close()  # the pool was closed while it ran

    def discard(self, session: PlanSession) -> None:
        with suppress(Exception):  # what went wrong is being reported already
            session.close()

    def close(self) -> None:
        """Frees what is idle; what is running is freed when it ends."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            idle, self._idle = self._idle, []
        with self._driver.current():
            for session in idle:
                session.close()
            self._contexts.close()
