"""TensorRT's builder without TensorRT: the names and manners that engine_builder.py relies on, and a record of it all.

TensorRT-RTX's too, as far as it has more. It answers None or False and logs why instead of raising, but for
``Builder``, which raises where there is no GPU.
"""

import enum
import json
import sys
from types import ModuleType
from typing import Any

import onnx
import pytest

STEPS = 3


class _Logger:
    class Severity(enum.Enum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def log(self, severity: object, message: str) -> None:
        raise NotImplementedError


class _Monitor:
    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise NotImplementedError

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError


class FakeTensorRT(ModuleType):
    """``tensorrt`` 10.13, which builds a page of JSON of what it was asked for.

    Attributes:
        errors: what the build logs before it fails; none: it succeeds.
        parser_errors: (node's name, operator, description) of what the parser complains.
        no_gpu: what ``Builder`` raises.
        known_times: the timing cache that it accepts; any other is of another GPU.
        built: what each build was asked for.
        before_step: called before each step that a build reports.
    """

    ILogger, IProgressMonitor = _Logger, _Monitor
    DataType = enum.Enum("DataType", "FLOAT HALF UINT8")
    BuilderFlag = enum.Enum("BuilderFlag", "VERSION_COMPATIBLE STRIP_PLAN REFIT_IDENTICAL")
    MemoryPoolType = enum.Enum("MemoryPoolType", "WORKSPACE")
    HardwareCompatibilityLevel = enum.Enum("HardwareCompatibilityLevel", "NONE AMPERE_PLUS")
    ComputeCapability = enum.Enum("ComputeCapability", "CURRENT SM80 SM89")  # of TensorRT-RTX alone
    NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", "STRONGLY_TYPED")

    def __init__(self) -> None:
        super().__init__("tensorrt")
        self.__version__ = "10.13.3.9"
        self.errors: list[str] = []
        self.parser_errors: list[tuple[str, str, str]] = []
        self.no_gpu = ""
        self.known_times = b""
        self.built: list[dict[str, Any]] = []
        self.before_step = lambda: None

    def Builder(self, logger: _Logger) -> "Builder":  # noqa: N802
        if self.no_gpu:
            raise TypeError(self.no_gpu)
        return Builder(self, logger)

    def OnnxParser(self, network: "INetworkDefinition", logger: _Logger) -> "OnnxParser":  # noqa: N802
        return OnnxParser(self, network)


def install(patch: pytest.MonkeyPatch) -> FakeTensorRT:
    """Puts it where ``import tensorrt`` finds it, and ``find_spec`` too."""
    fake = FakeTensorRT()
    fake.__spec__ = __import__("importlib.machinery").machinery.ModuleSpec("tensorrt", None)
    patch.setitem(sys.modules, "tensorrt", fake)
    return fake


class _Tensor:
    def __init__(self, name: str, dtype: object) -> None:
        self.name, self.dtype = name, dtype


class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.inputs: list[_Tensor] = []
        self.outputs: list[_Tensor] = []

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    @property
    def num_outputs(self) -> int:
        return len(self.outputs)

    def get_input(self, index: int) -> _Tensor:
        return self.inputs[index]

    def get_output(self, index: int) -> _Tensor:
        return self.outputs[index]


class ParserError:
    def __init__(self, name: str, operator: str, text: str) -> None:
        self._name, self._operator, self._text = name, operator, text

    def desc(self) -> str:
        return self._text

    def node(self) -> int:
        return 7

    def node_name(self) -> str:
        return self._name

    def node_operator(self) -> str:
        return self._operator


class OnnxParser:
    def __init__(self, library: FakeTensorRT, network: INetworkDefinition) -> None:
        self._library, self._network = library, network

    def parse(self, model: bytes) -> bool:
        if self._library.parser_errors:
            return False
        graph = onnx.load_model_from_string(model).graph
        types = {
            onnx.TensorProto.UINT8: self._library.DataType.UINT8,
            onnx.TensorProto.FLOAT: FakeTensorRT.DataType.FLOAT,
        }
        for values, tensors in ((graph.input, self._network.inputs), (graph.output, self._network.outputs)):
            tensors += [_Tensor(value.name, types[value.type.tensor_type.elem_type]) for value in values]
        return True

    @property
    def num_errors(self) -> int:
        return len(self._library.parser_errors)

    def get_error(self, index: int) -> ParserError:
        return ParserError(*self._library.parser_errors[index])


class IOptimizationProfile:
    def __init__(self) -> None:
        self.shapes: tuple[Any, ...] = ()

    def set_shape(self, name: str, low: Any, best: Any, high: Any) -> None:
        assert name == "image"
        self.shapes = (low, best, high)


class ITimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content


class IBuilderConfig:
    def __init__(self, library: FakeTensorRT) -> None:
        self._library = library
        self.flags: list[str] = []
        self.pools: dict[str, int] = {}
        self.profiles: list[Any] = []
        self.builder_optimization_level = 3
        self.hardware_compatibility_level = library.HardwareCompatibilityLevel.NONE
        self.num_compute_capabilities = 0
        self.capabilities: dict[int, str] = {}
        self.progress_monitor: Any = None
        self._cache: ITimingCache | None = None

    def set_flag(self, flag: enum.Enum) -> None:
        self.flags.append(flag.name)

    def set_memory_pool_limit(self, pool: enum.Enum, size: int) -> None:
        self.pools[pool.name] = size

    def set_compute_capability(self, capability: enum.Enum, index: int) -> bool:
        assert index < self.num_compute_capabilities
        self.capabilities[index] = capability.name
        return True

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self.profiles.append(profile.shapes)
        return len(self.profiles) - 1

    def create_timing_cache(self, content: bytes) -> ITimingCache | None:
        return None if content == b"damaged" else ITimingCache(content)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if cache.content not in (b"", self._library.known_times) and not ignore_mismatch:
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._cache


class Builder:
    def __init__(self, library: FakeTensorRT, logger: _Logger) -> None:
        self._library, self._logger = library, logger

    def create_network(self, flags: int) -> INetworkDefinition:
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig(self._library)

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> bytes | None:
        asked = {
            "network": network.flags,
            "flags": sorted(config.flags),
            "pools": config.pools,
            "profiles": config.profiles,
            "level": config.builder_optimization_level,
            "compatibility": config.hardware_compatibility_level.name,
            "capabilities": list(config.capabilities.values()),
            "times": config._cache.content.decode() if config._cache else None,
        }
        self._library.built.append(asked)
        monitor = config.progress_monitor
        monitor.phase_start("Building engine", None, STEPS)
        for step in range(STEPS):
            self._library.before_step()
            if not monitor.step_complete("Building engine", step):
                monitor.phase_finish("Building engine")
                self._logger.log(_Logger.Severity.ERROR, "Build canceled by user")
                return None
        monitor.phase_finish("Building engine")
        for message in self._library.errors:
            self._logger.log(_Logger.Severity.ERROR, message)
        if self._library.errors:
            return None
        if config._cache:
            config._cache.content += b"+times"
        return b"ftrt" + json.dumps(asked).encode()
