"""TensorRT and TensorRT-RTX over the simulated GPU: the API that the runtime uses, with the library's manners.

It answers False and logs why instead of raising, insists on aligned addresses, enough working memory and one run after
a change of shape before a capture, and works through its working memory, so that two runs in the same one show.
"""

import enum
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from nst_deploy.contract import ModelContract
from nst_deploy.plan_sidecar import Flavor, PlanSidecar, Profile, sha256, write_sidecar
from tests.engines import CONTRACT, negative
from tests.nst_deploy.runtime.cuda_simulator import ALIGNMENT, Simulator, memory

MAGIC: dict[Flavor, bytes] = {"tensorrt": b"ftrt", "rtx": b"vtrt"}
VERSIONS: dict[Flavor, str] = {"tensorrt": "10.13.3.9", "rtx": "1.7.1.116"}
MODULES: dict[Flavor, str] = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
SCRATCH_PER_PIXEL = 7  # bytes
PROFILE = Profile((1, 8, 8), (1, 32, 32), (2, 64, 96))


def write_plan(
    path: Path,
    flavor: Flavor = "tensorrt",
    *,
    profiles: tuple[Profile, ...] = (PROFILE,),
    contract: ModelContract = CONTRACT,
    tensors: tuple[str, str] = ("image", "styled"),
    **sidecar: object,
) -> Path:
    """A plan that the fake takes, and its sidecar; the keywords change what that says."""
    weights = not sidecar.get("weights_stripped", False)
    content = {
        "profiles": [[p.min, p.opt, p.max] for p in profiles],
        "weights": weights,
        "tensors": tensors,
        "portable": sidecar.get("portable", False),
    }
    path.write_bytes(MAGIC[flavor] + json.dumps(content).encode())
    entries = {
        "contract": contract,
        "plan_sha256": sha256(path.read_bytes()),
        "flavor": flavor,
        "library_version": VERSIONS[flavor],
        "gpu_name": "Simulated GPU",
        "compute_capabilities": ("8.9",),
        "profile": profiles[0],
        "portable": False,
        "weights_stripped": False,
        "build_seconds": 1.0,
    }
    write_sidecar(path, PlanSidecar(**{**entries, **sidecar}))  # type: ignore[arg-type]
    return path


class _Strategy(enum.Enum):
    STATIC = 0
    USER_MANAGED = 2


class _GraphStrategy(enum.Enum):
    DISABLED = 0
    WHOLE_GRAPH_CAPTURE = 1


class _Specialization(enum.Enum):
    LAZY, EAGER = range(2)


class _Mode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class _DataType(enum.Enum):
    HALF, UINT8 = range(2)


# Of release 1.7; pybind's enumerations list more than their members.
_ComputeCapability = enum.Enum("_ComputeCapability", "NONE CURRENT SM75 SM80 SM86 SM89 SM120 SM121")


class FakeLibrary(ModuleType):
    """``tensorrt`` or ``tensorrt_rtx``.

    Attributes:
        fail: names of methods that answer False from now on, with what they log.
        made: every execution context ever made.
    """

    ExecutionContextAllocationStrategy, TensorIOMode, DataType = _Strategy, _Mode, _DataType

    def __init__(self, simulator: Simulator, flavor: Flavor) -> None:
        super().__init__(MODULES[flavor])
        self.__version__ = VERSIONS[flavor]
        self.simulator, self.flavor = simulator, flavor
        self.fail: dict[str, str] = {}
        self.made = 0
        self.strategies: list[object] = []
        self.cache = b""  # what RTX has compiled
        self.ILogger = _Logger
        if flavor == "rtx":
            self.IRuntimeCache, self.CudaGraphStrategy = _RuntimeCache, _GraphStrategy
            self.DynamicShapesKernelSpecializationStrategy = _Specialization
            self.ComputeCapability = _ComputeCapability

    def Runtime(self, logger: "_Logger") -> "_Runtime":  # noqa: N802
        return _Runtime(self, logger)

    def Refitter(self, engine: "_Engine", logger: "_Logger") -> "_Refitter":  # noqa: N802
        return _Refitter(engine, logger)

    def OnnxParserRefitter(self, refitter: "_Refitter", logger: "_Logger") -> "_ParserRefitter":  # noqa: N802
        return _ParserRefitter(refitter, logger)


class _Logger:
    class Severity(enum.Enum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def log(self, severity: object, message: str) -> None:
        raise NotImplementedError


class _Part:
    """Whatever can fail as the library does: a line in the log, and False."""

    def __init__(self, library: FakeLibrary, logger: _Logger) -> None:
        self.library, self.logger = library, logger

    def refused(self, name: str) -> bool:
        if name in self.library.fail:
            self.logger.log(_Logger.Severity.ERROR, self.library.fail[name])
            return True
        return False

    def complain(self, message: str) -> bool:
        self.logger.log(_Logger.Severity.ERROR, message)
        return False


class _Runtime(_Part):
    engine_host_code_allowed = False

    def deserialize_cuda_engine(self, content: bytes) -> "_Engine | None":
        if self.refused("deserialize_cuda_engine"):
            return None
        if content[:4] != MAGIC[self.library.flavor]:
            self.complain("Magic tag does not match\nand more")
            return None
        if json.loads(content[4:])["portable"] and not self.engine_host_code_allowed:
            self.complain("the engine holds host code, which is not allowed")
            return None
        return _Engine(self.library, self.logger, json.loads(content[4:]))


class _Engine(_Part):
    def __init__(self, library: FakeLibrary, logger: _Logger, content: dict) -> None:
        super().__init__(library, logger)
        self.shapes, self.weights, self.tensors = content["profiles"], content["weights"], content["tensors"]
        self.num_io_tensors, self.num_optimization_profiles = len(self.tensors), len(self.shapes)

    def get_tensor_name(self, index: int) -> str:
        return self.tensors[index]

    def get_tensor_mode(self, name: str) -> _Mode:
        return _Mode.INPUT if name == "image" else _Mode.OUTPUT

    def get_tensor_dtype(self, name: str) -> _DataType:
        return _DataType.UINT8

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        assert name == "image"
        return [(*shape, 3) for shape in self.shapes[index]]

    def create_runtime_config(self) -> "_RuntimeConfig":
        return _RuntimeConfig(self.library)

    def create_execution_context(self, how: "_RuntimeConfig | _Strategy") -> "_Context | None":
        if self.refused("create_execution_context"):
            return None
        strategy = how.strategy if isinstance(how, _RuntimeConfig) else how
        assert strategy == _Strategy.USER_MANAGED
        names = ("cuda_graph_strategy", "dynamic_shapes_kernel_specialization_strategy")
        self.library.strategies.append(tuple(getattr(how, name).name for name in names if hasattr(how, name)))
        return _Context(self)


class _RuntimeConfig:
    def __init__(self, library: FakeLibrary) -> None:
        self.library, self.strategy, self.cuda_graph_strategy = library, _Strategy.STATIC, _GraphStrategy.DISABLED
        self.dynamic_shapes_kernel_specialization_strategy = _Specialization.LAZY

    def set_execution_context_allocation_strategy(self, strategy: _Strategy) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> "_RuntimeCache":
        return _RuntimeCache(self.library)

    def set_runtime_cache(self, cache: "_RuntimeCache") -> bool:
        return True


class _RuntimeCache:
    def __init__(self, library: FakeLibrary) -> None:
        self.library = library

    def deserialize(self, blob: bytes) -> bool:
        if not blob.startswith(b"kernels"):
            return False
        self.library.cache = blob
        return True

    def serialize(self) -> bytes:
        return self.library.cache


class _Context(_Part):
    def __init__(self, engine: _Engine) -> None:
        super().__init__(engine.library, engine.logger)
        self.engine, self.simulator = engine, engine.library.simulator
        self.active_optimization_profile = 0
        self.shape: tuple[int, ...] | None = None
        self.addresses: dict[str, int] = {}
        self.scratch = (0, 0)
        self.settled = False  # it has run since the last change of shape
        with self.simulator.lock:
            self.simulator.contexts += 1
            self.library.made += 1

    def __del__(self) -> None:
        with self.simulator.lock:
            self.simulator.contexts -= 1

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        assert stream in self.simulator.streams
        self.active_optimization_profile = index
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "image"
        low, _, high = self.engine.shapes[self.active_optimization_profile]
        if self.refused("set_input_shape"):
            return False
        if not all(a <= b <= c for a, b, c in zip(low, shape[:3], high, strict=True)):
            return self.complain("Supplied binding dimension does not satisfy any profile")
        self.shape, self.settled = shape, False
        return True

    def infer_shapes(self) -> list[str]:
        return [] if self.shape else ["image"]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert name == "styled"
        assert self.shape is not None
        return self.shape

    def _needed(self) -> int:
        assert self.shape is not None
        n, h, w, _ = self.shape
        return SCRATCH_PER_PIXEL * n * h * w

    def update_device_memory_size_for_shapes(self) -> int:
        return self._needed()

    def set_device_memory(self, address: int, size: int) -> None:
        assert address % ALIGNMENT == 0
        self.scratch = (address, size)

    def set_tensor_address(self, name: str, address: int) -> bool:
        if address % ALIGNMENT:
            return self.complain(f"{name}: the address is not aligned")
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        capturing = self.simulator.streams[stream].captured is not None
        if self.refused("execute_async_v3"):
            return False
        if self.scratch[1] < self._needed():
            return self.complain("the device memory that was provided is too small")
        if capturing and ("capture" in self.library.fail or not self.settled):
            self.simulator.streams[stream].broken = True
            return True  # the library does not notice; ending the capture fails
        self.settled = True
        shape, (scratch, _) = self.shape, self.scratch
        source, target = self.addresses["image"], self.addresses["styled"]
        assert shape is not None
        size = shape[0] * shape[1] * shape[2] * 3

        def work() -> None:
            memory(scratch, size)[:] = memory(source, size)
            memory(target, size)[:] = negative(memory(scratch, size).reshape(shape)).reshape(-1)

        self.simulator.enqueue(stream, work)
        return True


class _Refitter:
    def __init__(self, engine: _Engine, logger: _Logger) -> None:
        self.engine, self.logger, self.loaded = engine, logger, False

    def refit_cuda_engine(self) -> bool:
        self.engine.weights = self.loaded
        return self.loaded


class _ParserRefitter:
    def __init__(self, refitter: _Refitter, logger: _Logger) -> None:
        self.refitter, self.num_errors = refitter, 0

    def refit_from_file(self, path: str) -> bool:
        if "refit_from_file" in self.refitter.engine.library.fail:
            self.num_errors = 1
            return False
        self.refitter.loaded = Path(path).is_file()
        return True

    def get_error(self, index: int) -> "_ParserRefitter":
        assert index == 0
        return self

    def desc(self) -> str:
        return "initializer conv1 has another shape"


def install_library(patch: pytest.MonkeyPatch, simulator: Simulator, flavor: Flavor = "tensorrt") -> FakeLibrary:
    library = FakeLibrary(simulator, flavor)
    patch.setitem(sys.modules, MODULES[flavor], library)
    return library
