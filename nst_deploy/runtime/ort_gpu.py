"""ONNX Runtime on NVIDIA GPUs: its CUDA and TensorRT execution providers, pictures bound in the GPU's memory."""

import ctypes
import re
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nst_common.errors import UserError
from nst_deploy.contract import INPUT_NAME, OUTPUT_NAME
from nst_deploy.errors import (
    BackendFailedError,
    EngineUnreadableError,
    GpuUnavailableError,
    NoCudaGraphError,
    NotADeviceArrayError,
    OutOfDeviceMemoryError,
    ProviderUnavailableError,
)
from nst_deploy.runtime.device_array import DeviceArray, DeviceView, stream_handle, view_device_array
from nst_deploy.runtime.device_memory import CudaDriver, open_driver
from nst_deploy.runtime.gpu_probe import why_no_gpu
from nst_deploy.runtime.onnx_metadata import read_engine
from nst_deploy.runtime.ort import ERRORS_ONLY, check_tensors
from nst_deploy.runtime.ort_providers import (
    CUDA_PACKAGES,
    NAMES,
    Provider,
    load_onnxruntime,
    profile_of,
    provider_list,
)
from nst_deploy.runtime.plan_checks import find_profile

GRAPH_ID = "gpu_graph_id"  # a run's option: which captured graph it is; -1 for none
NO_CUDNN = "cuDNN is"  # how all of ONNX Runtime's complaints begin: "not available", "unavailable for …"
IDLE_KEPT = 4  # bindings that wait for their next run; one for each thread is what is used

Where = Literal["cuda", "cpu"]  # of the bound pictures; the CPU's serves to try the same code without a GPU


@dataclass
class _Bound:
    """Input and output in device memory, bound to the session."""

    shape: tuple[int, ...]
    binding: Any
    source: Any
    target: Any
    options: Any


class OrtGpuBackend:
    """ONNX Runtime on the GPU; may be shared between threads.

    Args:
        engine: an ONNX engine; FP16 ones are what GPUs are for.
        provider: ``cuda``, or ``tensorrt``, which builds engines at the first run and keeps them in the user's cache.
        cuda_graph: run as a CUDA graph; for engines of one static size.
        cache: see ``provider``.
        cuda_options: see ``provider_list``.

    Raises:
        BackendMissingError, BackendBrokenError, PackagesCollideError, ProviderUnavailableError, GpuUnavailableError.
        EngineNotFoundError, EngineUnreadableError, NotAnEngineError.
        NoCudaGraphError: a graph for an engine of any size.
        ProviderPrecisionError: TensorRT would compute a float32 engine in TF32.
    """

    def __init__(
        self,
        engine: Path,
        *,
        provider: Provider = "cuda",
        cuda_graph: bool = False,
        cache: bool = True,
        cuda_options: Mapping[str, str] | None = None,
    ) -> None:
        model, self.contract = read_engine(engine)
        if cuda_graph and self.contract.static_size is None:
            raise NoCudaGraphError("An ONNX engine of any size (exported without --static)")
        ort = load_onnxruntime(provider)
        reason = why_no_gpu()
        if reason is not None:
            raise GpuUnavailableError(reason)
        self._profile = profile_of(provider, self.contract)
        providers = provider_list(
            provider, model, self.contract, cuda_graph=cuda_graph, cache=cache, cuda_options=cuda_options
        )
        self._start(ort, engine, f"onnxruntime-{provider}", providers, where="cuda", cuda_graph=cuda_graph)

    def _start(
        self, ort: Any, engine: Path, name: str, providers: list[Any], *, where: Where, cuda_graph: bool
    ) -> None:
        self.name, self._ort, self._where, self._cuda_graph = name, ort, where, cuda_graph
        options = ort.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        options.enable_mem_pattern = cuda_graph  # a pattern for every size would pile up memory
        try:
            # Without the fallback of the Python package, which would start again on the CPU and print that it does.
            self._session: Any = ort.InferenceSession(str(engine), options, providers=providers, enable_fallback=0)
        except Exception as error:
            if (known := _known_cause(error)) is not None:
                raise known from error
            raise EngineUnreadableError(engine, _said(error)) from error
        wanted = providers[0][0]
        if self._session.get_providers()[0] != wanted:
            raise ProviderUnavailableError(
                wanted, "ONNX Runtime left it out, and printed why", f"Install what it needs: {CUDA_PACKAGES}"
            )
        check_tensors(engine, self._session)
        self._lock = threading.Lock()
        self._graph_lock = threading.Lock()  # a captured graph is one for all threads
        self._idle: list[_Bound] = []
        self._graphs: dict[tuple[int, ...], _Bound] = {}
        self._driver: CudaDriver | None = None
        self._copies: int | None = None  # a stream

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """See Backend.

        Raises:
            PictureSizeError: a size that TensorRT was not prepared for.
            OutOfDeviceMemoryError, BackendFailedError.
        """
        most = self._check_shape(images.shape)
        parts = [self._run(images[start : start + most]) for start in range(0, len(images), most)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self._cuda_graph:
            with self._graph_lock:
                return self._run_bound(self._captured(images.shape), images)
        bound = self._take(images.shape)
        styled = self._run_bound(bound, images)
        with self._lock:
            self._idle = [bound, *self._idle][:IDLE_KEPT]
        return styled

    def _run_bound(self, bound: _Bound, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        try:
            bound.source.update_inplace(images)
            self._session.run_with_iobinding(bound.binding, bound.options)
            styled: NDArray[np.uint8] = bound.target.numpy()
        except Exception as error:
            raise self._failure(error) from error
        # From the CPU's memory it is a view of what the next run writes to.
        return styled.copy() if self._where == "cpu" else styled

    def _captured(self, shape: tuple[int, ...]) -> _Bound:
        """What the graph of this shape reads and writes, always the same; only for who holds the graphs' lock."""
        if shape not in self._graphs:
            self._graphs[shape] = self._bind(shape, graph=len(self._graphs))
        return self._graphs[shape]

    def _take(self, shape: tuple[int, ...]) -> _Bound:
        """An idle binding of this shape, or a new one; idle ones of other shapes go, for their memory."""
        with self._lock:
            for index, bound in enumerate(self._idle):
                if bound.shape == shape:
                    return self._idle.pop(index)
            self._idle.clear()
        return self._bind(shape, graph=-1)

    def _bind(self, shape: tuple[int, ...], *, graph: int) -> _Bound:
        new, where = self._ort.OrtValue.ortvalue_from_shape_and_type, self._where
        try:
            source, target = (new(list(shape), np.uint8, where, 0) for _ in range(2))
            binding = self._session.io_binding()
            binding.bind_ortvalue_input(INPUT_NAME, source)
            binding.bind_ortvalue_output(OUTPUT_NAME, target)
        except Exception as error:
            raise self._failure(error) from error
        return _Bound(shape, binding, source, target, self._run_options(graph))

    def _run_options(self, graph: int) -> Any:
        options = self._ort.RunOptions()
        options.log_severity_level = ERRORS_ONLY
        if self._cuda_graph:
            options.add_run_config_entry(GRAPH_ID, str(graph))
        return options

    def run_device(self, images: Any, *, stream: Any = None, out: Any = None) -> Any:
        """Styles pictures that lie in the GPU's memory, without a copy through the host; returns when it is done.

        Args, Returns: see PlanBackend.run_device. The work runs on ONNX Runtime's own stream: what is on the caller's
        is waited for first. A CUDA graph has pictures of its own, which are copied within the GPU.

        Raises:
            NotADeviceArrayError, OutOfDeviceMemoryError, BackendFailedError.
        """
        source = view_device_array(images, 1)
        try:
            target = None if out is None else view_device_array(out, 1)
            try:
                self._wait_for(source.stream, target.stream if target else None, stream)
                return self._run_views(source, target, out)
            finally:
                if target is not None:
                    target.release()
        finally:
            source.release()

    def _run_views(self, source: DeviceView, target: DeviceView | None, out: Any) -> Any:
        if target is not None and target.shape != source.shape:
            raise NotADeviceArrayError(f"out {list(target.shape)} for images {list(source.shape)}")
        most = self._check_shape(source.shape)
        if source.shape[0] > most:
            raise NotADeviceArrayError(f"{source.shape[0]} pictures, of which {most} can be styled at once")
        value: Any = None
        try:
            if target is None:
                value = self._ort.OrtValue.ortvalue_from_shape_and_type(list(source.shape), np.uint8, self._where, 0)
            address = target.address if target is not None else value.data_ptr()
            if self._cuda_graph:
                self._replay(source, address)
            else:
                self._run_in_place(source, address)
        except UserError:
            raise
        except Exception as error:
            raise self._failure(error) from error
        shape = source.shape if source.has_batch else source.shape[1:]
        return out if target is not None else DeviceArray(address, shape, owner=value)

    def _run_in_place(self, source: DeviceView, target: int) -> None:
        binding, shape = self._session.io_binding(), list(source.shape)
        binding.bind_input(INPUT_NAME, self._where, 0, np.uint8, shape, source.address)
        binding.bind_output(OUTPUT_NAME, self._where, 0, np.uint8, shape, target)
        self._session.run_with_iobinding(binding, self._run_options(-1))
        binding.synchronize_outputs()

    def _replay(self, source: DeviceView, target: int) -> None:
        size = prod(source.shape)
        with self._graph_lock:
            bound = self._captured(source.shape)
            self._copy(bound.source.data_ptr(), source.address, size)
            self._session.run_with_iobinding(bound.binding, bound.options)
            self._copy(target, bound.target.data_ptr(), size)

    def _copy(self, target: int, source: int, size: int) -> None:
        """Within the GPU; returns when it is done, for ONNX Runtime's stream does not wait for ours."""
        if self._where == "cpu":
            ctypes.memmove(target, source, size)
            return
        driver = self._driver = self._driver or open_driver()
        with driver.current():
            self._copies = self._copies or driver.new_stream()
            driver.copy(target, source, size, self._copies)
            driver.synchronize(self._copies)

    def _wait_for(self, *streams: Any) -> None:
        handles = {stream_handle(stream) for stream in streams if stream is not None}
        if handles:
            driver = open_driver()
            with driver.current():
                driver.synchronize(None)

    def _check_shape(self, shape: tuple[int, ...]) -> int:
        """How many of these pictures can be styled at once."""
        if self._profile is None:
            return shape[0]
        find_profile((self._profile,), (shape[0], shape[1], shape[2]))
        return self._profile.max[0]

    def close(self) -> None:
        with self._lock:
            self._idle.clear()
            self._graphs.clear()
            self._session = None
            driver, stream = self._driver, self._copies
            self._driver = self._copies = None
        if driver is not None and stream is not None:
            with driver.current():
                driver.destroy_stream(stream)

    def _failure(self, error: Exception) -> Exception:
        return _known_cause(error) or BackendFailedError(self.name, _said(error))


def _known_cause(error: Exception) -> Exception | None:
    """What ONNX Runtime says in prose alone, and what is no fault of the engine."""
    if _is_memory(error):
        return _out_of_memory()
    if NO_CUDNN in str(error):  # which it loads by itself, and only when an operator needs it
        return ProviderUnavailableError(NAMES["cuda"], "cuDNN is not found", f"Install what it needs: {CUDA_PACKAGES}")
    return None


def _said(error: Exception) -> str:
    """One line: what CUDA says, without the names of ONNX Runtime's functions in front; or its first line."""
    text = str(error).strip()
    failure = re.search(r"CU\w+ failure -?\d+: [^;\n]*", text)
    return failure[0].strip() if failure else text.split("\n")[0]


def _is_memory(error: Exception) -> bool:
    """ONNX Runtime has no kind of error for it, and every part of it says it in words of its own."""
    text = str(error).lower()
    return any(words in text for words in ("out of memory", "failed to allocate memory", "available memory of"))


def _out_of_memory() -> OutOfDeviceMemoryError:
    free = total = 0
    with suppress(Exception):  # how much is free is a service; the error is not to be replaced by another
        driver = open_driver()
        with driver.current():
            free, total = driver.memory()
    return OutOfDeviceMemoryError(None, free, total)
