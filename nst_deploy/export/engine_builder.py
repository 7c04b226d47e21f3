"""ONNX to a serialised engine: one code path for TensorRT 10 and 11 and for TensorRT-RTX."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nst_common.atomic_file import CannotWriteError, atomic_write
from nst_deploy.contract import INPUT_NAME, OUTPUT_NAME
from nst_deploy.errors import BuildFailedError, BuildNeedsGpuError, BuildOutOfMemoryError, ParserFailedError
from nst_deploy.export.build_options import CURRENT_GPU, BuildOptions
from nst_deploy.export.build_progress import run_watched
from nst_deploy.export.trt_library import find_gpu, free_memory
from nst_deploy.plan_sidecar import Flavor, Profile
from nst_deploy.runtime.trt import NAMES

CHANNELS = 3
# How the libraries say, in prose alone, what has a remedy of its own.
NO_GPU = ("cudaError 35", "cudaError 100", "no CUDA-capable device", "CUDA initialization failure", "CUDA_SUCCESS")
NO_MEMORY = ("out of memory", "OutOfMemory", "cudaError 2:", "FAILED_ALLOCATION")
NO_WORKSPACE = ("workspace",)


class EngineBuilder:
    """Builds serialised engines with one library.

    Args:
        flavor: which of the two ``trt`` is.
        trt: the module tensorrt or tensorrt_rtx.
    """

    def __init__(self, flavor: Flavor, trt: Any) -> None:
        self.flavor, self.trt = flavor, trt

    def build(
        self, model: bytes, profile: Profile, options: BuildOptions, *, name: str, timing_cache: Path | None = None
    ) -> bytes:
        """Builds one engine and shows how far it is.

        Args:
            model: a serialised ONNX model, uint8 ``image`` to uint8 ``styled``.
            name: what the progress calls it.
            timing_cache: a file of measured kernel times, read and kept up to date; TensorRT alone has one.

        Raises:
            ParserFailedError: the library does not understand the model.
            BuildFailedError, BuildNeedsGpuError, BuildOutOfMemoryError.
        """
        options.check_flavor(self.flavor)
        logger = _new_logger(self.trt)
        builder = self._new_builder(logger)
        # Required on 10.x for FP16 to stay where the graph says; later releases know nothing else.
        network = builder.create_network(1 << int(self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        self._parse(network, model, logger)
        config = builder.create_builder_config()
        self._configure(config, options)
        self._add_profile(builder, config, profile, logger)
        timing = _TimingCache(config, timing_cache) if self.flavor == "tensorrt" and timing_cache else None

        def build(monitor: Any) -> Any:
            config.progress_monitor = monitor
            return builder.build_serialized_network(network, config)

        serialized = run_watched(name, self.trt, build)
        if serialized is None:
            raise self._failure(logger)
        if timing is not None:
            timing.store()
        return bytes(serialized)

    def known_capabilities(self, capabilities: Sequence[str]) -> tuple[str, ...]:
        """Those of them that this release of TensorRT-RTX builds for."""
        return tuple(c for c in capabilities if hasattr(self.trt.ComputeCapability, _member(c)))

    def _new_builder(self, logger: Any) -> Any:
        try:
            builder = self.trt.Builder(logger)
        except Exception as error:  # TensorRT needs a GPU from here on and raises whatever pybind makes of it
            raise self._failure(logger, str(error)) from error
        if builder is None:
            raise self._failure(logger)
        return builder

    def _parse(self, network: Any, model: bytes, logger: Any) -> None:
        parser = self.trt.OnnxParser(network, logger)
        understood = parser.parse(model)
        if not understood:
            errors = [_parser_error(parser.get_error(i)) for i in range(parser.num_errors)]
            raise ParserFailedError(NAMES[self.flavor], "; ".join(errors) or logger.text() or "it gives no reason")
        # An empty file passes for a model without layers.
        inputs = [network.get_input(i) for i in range(network.num_inputs)]
        outputs = [network.get_output(i) for i in range(network.num_outputs)]
        given = [(tensor.name, tensor.dtype) for tensor in (*inputs, *outputs)]
        if given != [(INPUT_NAME, self.trt.DataType.UINT8), (OUTPUT_NAME, self.trt.DataType.UINT8)]:
            listed = ", ".join(f"{name} ({dtype})" for name, dtype in given) or "none"
            raise ParserFailedError(
                NAMES[self.flavor], f"its tensors are {listed}, expected uint8 {INPUT_NAME} and {OUTPUT_NAME}"
            )

    def _configure(self, config: Any, options: BuildOptions) -> None:
        flags = self.trt.BuilderFlag
        if options.workspace_bytes is not None:
            config.set_memory_pool_limit(self.trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
        if options.optimization_level is not None:
            config.builder_optimization_level = options.optimization_level
        if options.portable:
            config.hardware_compatibility_level = self.trt.HardwareCompatibilityLevel.AMPERE_PLUS
            config.set_flag(flags.VERSION_COMPATIBLE)
        if options.strip_weights:
            config.set_flag(flags.STRIP_PLAN)
            # The same weights come back, and plain REFIT would forbid what is only right for these.
            config.set_flag(flags.REFIT_IDENTICAL)
        if options.compute_capabilities:
            config.num_compute_capabilities = len(options.compute_capabilities)
            for index, capability in enumerate(options.compute_capabilities):
                config.set_compute_capability(self._capability(capability), index)

    def _capability(self, text: str) -> Any:
        known = self.trt.ComputeCapability
        if not hasattr(known, _member(text)):
            raise BuildFailedError(
                NAMES[self.flavor],
                f"release {self.trt.__version__} does not build for compute capability {text}",
                "Leave it out of --compute-capability, or install a later release",
            )
        return getattr(known, _member(text))

    def _add_profile(self, builder: Any, config: Any, profile: Profile, logger: Any) -> None:
        shapes = builder.create_optimization_profile()
        shapes.set_shape(INPUT_NAME, *((*shape, CHANNELS) for shape in (profile.min, profile.opt, profile.max)))
        if config.add_optimization_profile(shapes) < 0:
            raise self._failure(logger)

    def _failure(self, logger: Any, said: str = "") -> Exception:
        """The library's complaints as one of our errors."""
        reason = logger.text() or said or "it gives no reason"
        library = NAMES[self.flavor]
        if any(text in reason for text in NO_MEMORY):
            return BuildOutOfMemoryError(library, reason, free_memory())
        if any(text in reason for text in NO_WORKSPACE):
            return BuildFailedError(
                library, reason, "Give it more with --workspace, or lower --max-size or --max-batch"
            )
        if any(text in reason for text in NO_GPU) and find_gpu() is None:
            return BuildNeedsGpuError(library, reason)
        return BuildFailedError(library, reason, "Please report it with the checkpoint and the version of the library")


class _TimingCache:
    """Kernel times measured by earlier builds, in a file; one that is missing or damaged is as good as an empty one."""

    def __init__(self, config: Any, path: Path) -> None:
        self._config, self._path = config, path
        try:
            content = path.read_bytes()
        except OSError:
            content = b""
        # Of another GPU or release it is refused, and an empty one takes its place.
        if not (content and self._use(content)):
            self._use(b"")

    def _use(self, content: bytes) -> bool:
        cache = self._config.create_timing_cache(content)
        return cache is not None and bool(self._config.set_timing_cache(cache, ignore_mismatch=False))

    def store(self) -> None:
        cache = self._config.get_timing_cache()
        if cache is None:
            return
        try:
            with atomic_write(self._path) as partial:
                partial.write_bytes(bytes(cache.serialize()))
        except CannotWriteError:
            return  # the next build only takes longer


def _member(capability: str) -> str:
    """Its name in ComputeCapability: ``8.9`` -> ``SM89``."""
    return "CURRENT" if capability == CURRENT_GPU else "SM" + capability.replace(".", "")


def _new_logger(trt: Any) -> Any:
    severity = trt.ILogger.Severity

    class Logger(trt.ILogger):  # type: ignore[misc]
        """Keeps the library's complaints, each once."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._complaints: dict[str, None] = {}

        def log(self, level: Any, message: str) -> None:
            if level in (severity.INTERNAL_ERROR, severity.ERROR):
                self._complaints[" ".join(message.split())] = None

        def text(self) -> str:
            return "; ".join(self._complaints)

    return Logger()


def _parser_error(error: Any) -> str:
    """With the node, where one is to blame: ``node Conv_7 (Conv): …``."""
    text = " ".join(str(error.desc()).split())
    node, operator = error.node_name(), error.node_operator()
    if node or operator:
        return f"node {node or error.node()} ({operator}): {text}"
    return text
