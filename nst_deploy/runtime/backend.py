"""The one interface that every runtime stands behind."""

from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from nst_common.errors import UsageError, UserError
from nst_deploy.contract import ModelContract
from nst_deploy.errors import NoCudaGraphError, PrecisionUnknownError
from nst_deploy.plan_sidecar import read_sidecar
from nst_deploy.runtime.gpu_probe import why_no_gpu
from nst_deploy.runtime.int8_engine import int8_engine
from nst_deploy.runtime.onnx_metadata import read_engine
from nst_deploy.runtime.plan_checks import check_kind, is_plan

Device = Literal["auto", "cpu", "openvino", "cuda", "tensorrt"]
DEVICES: tuple[Device, ...] = get_args(Device)
LowerPrecision = Literal["bf16", "int8"]  # than the engine's own; only when asked for
LOWER_PRECISIONS: tuple[LowerPrecision, ...] = get_args(LowerPrecision)

Variant: TypeAlias = tuple[Device, LowerPrecision | None]  # a way to run an engine, None being its own precision
# All of them; ``auto`` takes the first whose package is installed.
VARIANTS: tuple[Variant, ...] = (("openvino", None), ("cpu", None), ("openvino", "bf16"), ("openvino", "int8"))
GPU_VARIANTS: tuple[Variant, ...] = (("cuda", None), ("tensorrt", None))  # further ones where there is a GPU
MAX_THREADS = 256  # more than any machine gains from; a slip of the finger may not bring one down
PACKAGES: dict[Device, str] = {"openvino": "openvino", "cpu": "onnxruntime"}


class Backend(Protocol):
    """An opened engine. ``run`` may be called from several threads at once.

    Attributes:
        name: what runs it, as reports print it.
        contract: what the file says of itself.
    """

    name: str
    contract: ModelContract

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 ``[N, H, W, 3]``, RGB -> the same shape, C-contiguous and owned by the caller.

        Raises:
            BackendFailedError: the runtime gave up, for lack of memory for example.
        """
        ...

    def close(self) -> None:
        """Frees what the engine holds; the back end cannot be used afterwards."""
        ...


def open_backend(
    engine: Path,
    device: Device = "auto",
    *,
    precision: LowerPrecision | None = None,
    threads: int | None = None,
    cache: bool = True,
    cuda_graph: bool = False,
) -> Backend:
    """Opens an engine on the fastest installed back end for ``device``.

    Args:
        engine: an ONNX file or a plan made by nst-export.
        device: ``cpu`` is ONNX Runtime, ``openvino`` OpenVINO on the CPU, ``cuda`` ONNX Runtime on an NVIDIA GPU,
            ``tensorrt`` the same through TensorRT, and what runs a plan; ``auto`` the fastest that can be used here.
        precision: to compute in less than the engine's own; None keeps that. ``int8`` opens the INT8 engine that lies
            beside ``engine``.
        threads: CPU threads for one run, 1..MAX_THREADS; None lets the runtime take every core.
        cache: let the back end keep what it compiled in the user's cache folder.
        cuda_graph: run each size as a CUDA graph; for plans, and for ONNX engines of one static size.

    Raises:
        BackendMissingError, BackendBrokenError, EngineNotFoundError, EngineUnreadableError, NotAnEngineError.
        UsageError: a device or a number of threads that there is not.
        PrecisionUnknownError, PrecisionUnavailableError: the back end, or this CPU, does not have it.
        Int8EngineMissingError, Int8EngineForeignError: there is no INT8 engine beside it, or that of another net.
        WrongKindOfEngineError: a plan for a device that runs ONNX engines.
        NoCudaGraphError: a graph on a CPU, or for an ONNX engine of any size.
        And those of PlanBackend and OrtGpuBackend.
    """
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise UsageError(f"threads is {threads}, expected 1..{MAX_THREADS}", "None takes every core")
    if device == "auto" and precision is None and likely_device(engine) == "cuda":
        with suppress(UserError):  # it is not usable after all; whatever is wrong with the engine shows below again
            return _open(engine, "cuda", None, threads=threads, cache=cache, cuda_graph=cuda_graph)
    chosen = choose_device(device, precision, plan=is_plan(engine))
    if precision == "int8":
        engine = int8_engine(engine)
    return _open(engine, chosen, precision, threads=threads, cache=cache, cuda_graph=cuda_graph)


def _open(
    engine: Path,
    device: Device,
    precision: LowerPrecision | None,
    *,
    threads: int | None,
    cache: bool,
    cuda_graph: bool,
) -> Backend:
    # One vendor library is imported only when it is about to be used: it is most of a cold start.
    runs_plan = device == "tensorrt" and is_plan(engine)
    check_kind(engine, plan_needed=runs_plan)
    if runs_plan:
        from nst_deploy.runtime.plan import PlanBackend  # noqa: PLC0415

        return PlanBackend(engine, cuda_graph=cuda_graph, cache=cache)
    if device == "cuda" or device == "tensorrt":  # noqa: PLR1714  (mypy narrows only this form)
        from nst_deploy.runtime.ort_gpu import OrtGpuBackend  # noqa: PLC0415

        return OrtGpuBackend(engine, provider=device, cuda_graph=cuda_graph, cache=cache)
    if cuda_graph:
        raise NoCudaGraphError(f"--device {device}")
    if device == "openvino":
        from nst_deploy.runtime.ov import OvBackend  # noqa: PLC0415

        return OvBackend(engine, bf16=precision == "bf16", threads=threads, cache=cache)
    from nst_deploy.runtime.ort import OrtBackend  # noqa: PLC0415

    return OrtBackend(engine, threads=threads)


def choose_device(device: Device, precision: LowerPrecision | None = None, *, plan: bool = False) -> Device:
    """What ``auto`` stands for on this machine, GPUs left aside; anything else as it is.

    OpenVINO comes first: measured faster in float32 for many pictures of any size, and no slower for a single one,
    its start included. Nothing is loaded for the choice, and nothing measured: nst-bench does that.

    Args:
        plan: the engine is one, which only one device runs.

    Raises:
        PrecisionUnknownError: the back end has it on no machine.
        UsageError: no such device.
    """
    if device not in DEVICES:
        raise UsageError(f"Unknown device {device!r}", f"Known are {', '.join(DEVICES)}")
    if plan and device == "auto":
        device = "tensorrt"
    able = [known for known, lower in VARIANTS if lower == precision]
    if device == "auto":
        return next((known for known in able if find_spec(PACKAGES[known]) is not None), able[-1])
    if device not in able and (device, precision) not in GPU_VARIANTS:
        raise PrecisionUnknownError(device, str(precision), " or ".join(able))
    return device


def likely_device(engine: Path) -> Device:
    """What ``auto`` tries first for an engine in its own precision."""
    return "cuda" if not is_plan(engine) and _cuda_is_likely() else choose_device("auto", plan=is_plan(engine))


def _cuda_is_likely() -> bool:
    """Whether ONNX Runtime's wheel for GPUs and a GPU are here; only opening an engine shows whether they work."""
    spec = find_spec("onnxruntime")
    if spec is None or not spec.submodule_search_locations:
        return False
    folder = Path(spec.submodule_search_locations[0]) / "capi"
    return any(folder.glob("*onnxruntime_providers_cuda.*")) and why_no_gpu() is None


def read_contract(engine: Path) -> ModelContract:
    """What an engine says of itself, without opening it.

    Raises:
        EngineNotFoundError, EngineUnreadableError, NotAnEngineError; for plans also those of ``read_plan``.
    """
    return read_sidecar(engine).contract if is_plan(engine) else read_engine(engine)[1]
