"""Execution contexts of an engine, and what TensorRT-RTX compiles for them on the way."""

import threading
from pathlib import Path
from typing import Any

from nst_deploy.runtime.ov_cache import BlobCache


class ContextFactory:
    """Makes contexts whose working memory is ours to give: only as much as a shape needs, shared by all of a session.

    Holds the engine and its runtime, which must outlive every context.

    Args:
        graphs: let TensorRT-RTX run each shape as a CUDA graph.
        blobs, path: where what TensorRT-RTX compiles is kept; None keeps it nowhere.
    """

    def __init__(
        self, trt: Any, runtime: Any, engine: Any, *, graphs: bool, blobs: BlobCache | None, path: Path | None
    ) -> None:
        self._strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self._runtime, self._engine = runtime, engine
        self._blobs, self._path = blobs, path
        self._lock = threading.Lock()
        self._config: Any = None
        self._cache: Any = None
        if hasattr(trt, "IRuntimeCache"):  # RTX compiles its kernels here, for this GPU
            self._config = self._configure(trt, graphs)

    def _configure(self, trt: Any, graphs: bool) -> Any:
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(self._strategy)
        if graphs:
            config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            # A size that is captured will be run often: its own kernels are compiled before, and the graph holds them.
            strategies = trt.DynamicShapesKernelSpecializationStrategy
            config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        self._cache = config.create_runtime_cache()
        self._stored = self._load()
        config.set_runtime_cache(self._cache)
        return config

    def _load(self) -> bytes:
        """What lay on disk, now in the cache; a file that it does not take counts as none."""
        if self._blobs is None or self._path is None:
            return b""
        blob = self._blobs.load(self._path)
        if blob is None or not self._cache.deserialize(blob.tobytes()):
            return b""
        return blob.tobytes()

    def new(self) -> Any:
        """A context, or None where the library makes none."""
        with self._lock:
            if self._engine is None:
                return None
            return self._engine.create_execution_context(self._config or self._strategy)

    def close(self) -> None:
        """Keeps what was compiled for the next process, and lets the engine go."""
        with self._lock:
            if self._cache is not None and self._blobs is not None and self._path is not None:
                compiled = self._cache.serialize()
                content = b"" if compiled is None else bytes(compiled)
                if content and content != self._stored:
                    self._blobs.store(self._path, content)
            self._cache = self._config = self._engine = self._runtime = None
