"""TensorRT and TensorRT-RTX, which have the same API under two names, to run plans with."""

from pathlib import Path
from typing import Any

from nst_deploy.contract import INPUT_NAME, OUTPUT_NAME
from nst_deploy.errors import (
    EngineUnreadableError,
    NotAnEngineError,
    PlanWeightsMissingError,
    RtxUnsupportedError,
)
from nst_deploy.plan_sidecar import Flavor, Profile
from nst_deploy.runtime.device_memory import Gpu
from nst_deploy.runtime.vendor import loading

NAMES: dict[Flavor, str] = {"tensorrt": "TensorRT", "rtx": "TensorRT-RTX"}
RTX_REFUSAL = "TensorRT-RTX does not support this compute capability"  # in its complaint about a plan
MODULES: dict[Flavor, str] = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}


def load_library(flavor: Flavor) -> Any:
    """
    Raises:
        BackendMissingError, BackendBrokenError.
    """
    if flavor == "rtx":
        with loading("tensorrt-rtx", "rtx", "tensorrt_rtx"):
            import tensorrt_rtx  # noqa: PLC0415  (an optional extra)
        return tensorrt_rtx
    with loading("tensorrt", "tensorrt"):
        import tensorrt  # noqa: PLC0415
    return tensorrt


def new_logger(trt: Any) -> Any:
    """A logger of the library that prints nothing and keeps the last complaint in ``last``."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.last = ""
            self._serious = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)

        def log(self, severity: Any, message: str) -> None:
            if severity in self._serious:
                self.last = message.strip().split("\n")[0]

    return Logger()


def rtx_capabilities(trt: Any) -> tuple[tuple[int, int], ...]:
    """The compute capabilities that this release of TensorRT-RTX names, (major, minor), from the earliest on."""
    names = (name.removeprefix("SM") for name in dir(trt.ComputeCapability) if name.startswith("SM"))
    return tuple(sorted((int(digits[:-1]), int(digits[-1])) for digits in names))


def rtx_runs_on(trt: Any, capability: tuple[int, int]) -> bool:
    """Whether TensorRT-RTX runs on GPUs of this compute capability, (major, minor).

    It builds plans on every GPU, also for ``current``, and refuses them only when they are loaded. Its own
    ``get_engine_validity`` does not tell a plan for other GPUs from a GPU that no plan is for. But what it names to
    build for is all that it runs on, besides what is later than all of these: 9.0 is not among them.
    """
    known = rtx_capabilities(trt)
    return capability in known or capability > known[-1]


def check_rtx(what: str, trt: Any, gpu: Gpu) -> None:
    """
    Args:
        what: is to run there, for the message.
        trt: the module tensorrt_rtx.

    Raises:
        RtxUnsupportedError: it runs nothing on this GPU.
    """
    if not rtx_runs_on(trt, gpu.compute_capability):
        raise _unsupported(what, trt, gpu)


def _unsupported(what: str, trt: Any, gpu: Gpu) -> RtxUnsupportedError:
    known = ["{}.{}".format(*capability) for capability in rtx_capabilities(trt)]
    return RtxUnsupportedError(what, gpu.name, gpu.capability, trt.__version__, known)


def deserialize(trt: Any, logger: Any, content: bytes, plan: Path, gpu: Gpu, *, portable: bool) -> tuple[Any, Any]:
    """The library's runtime, which must live as long as the engine, and the engine.

    Args:
        portable: it was built to run with later versions, and so carries code of its own.

    Raises:
        EngineUnreadableError: the library does not take it.
        RtxUnsupportedError: because of the GPU, which ``check_rtx`` took for one that it runs on.
    """
    runtime = trt.Runtime(logger)
    if portable:
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        if RTX_REFUSAL in logger.last:
            raise _unsupported(str(plan), trt, gpu)
        raise EngineUnreadableError(plan, logger.last or "it is damaged or no plan")
    return runtime, engine


def check_tensors(trt: Any, engine: Any, plan: Path) -> None:
    """
    Raises:
        NotAnEngineError: its inputs and outputs are not those of the contract.
    """
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    given = {name: (engine.get_tensor_mode(name), engine.get_tensor_dtype(name)) for name in names}
    expected = {
        INPUT_NAME: (trt.TensorIOMode.INPUT, trt.DataType.UINT8),
        OUTPUT_NAME: (trt.TensorIOMode.OUTPUT, trt.DataType.UINT8),
    }
    if given != expected:
        listed = ", ".join(f"{name} ({mode}, {dtype})" for name, (mode, dtype) in given.items())
        raise NotAnEngineError(plan, f"its tensors are {listed}, expected uint8 {INPUT_NAME} and {OUTPUT_NAME}")


def profiles(engine: Any) -> tuple[Profile, ...]:
    """What the engine itself says that it takes; its sidecar says the same of the first."""
    return tuple(
        Profile(*(tuple(shape)[:3] for shape in engine.get_tensor_profile_shape(INPUT_NAME, index)))
        for index in range(engine.num_optimization_profiles)
    )


def refit(trt: Any, logger: Any, engine: Any, plan: Path, onnx: Path) -> None:
    """Gives a stripped engine its weights from the ONNX file that it was built from.

    Raises:
        PlanWeightsMissingError: they do not fit.
    """
    refitter = trt.Refitter(engine, logger)
    parser = trt.OnnxParserRefitter(refitter, logger)
    if not (parser.refit_from_file(str(onnx)) and refitter.refit_cuda_engine()):
        reasons = [str(parser.get_error(i).desc()) for i in range(parser.num_errors)]
        raise PlanWeightsMissingError(plan, str(onnx), reasons[0] if reasons else logger.last or "they do not fit")
