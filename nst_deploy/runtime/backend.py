"""The one interface that every runtime stands behind."""

from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from nst_common.errors import UsageError
from nst_deploy.contract import ModelContract
from nst_deploy.errors import PrecisionUnknownError
from nst_deploy.runtime.int8_engine import int8_engine

Device = Literal["auto", "cpu", "openvino"]
DEVICES: tuple[Device, ...] = get_args(Device)
LowerPrecision = Literal["bf16", "int8"]  # than the engine's own; only when asked for
LOWER_PRECISIONS: tuple[LowerPrecision, ...] = get_args(LowerPrecision)

Variant: TypeAlias = tuple[Device, LowerPrecision | None]  # a way to run an engine, None being its own precision
# All of them; ``auto`` takes the first whose package is installed.
VARIANTS: tuple[Variant, ...] = (("openvino", None), ("cpu", None), ("openvino", "bf16"), ("openvino", "int8"))
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
) -> Backend:
    """Opens an engine on the fastest installed back end for ``device``.

    Args:
        engine: an ONNX file made by nst-export.
        device: ``cpu`` is ONNX Runtime, ``openvino`` OpenVINO on the CPU, ``auto`` the faster one that is installed.
        precision: to compute in less than the engine's own; None keeps that. ``int8`` opens the INT8 engine that lies
            beside ``engine``.
        threads: CPU threads for one run, 1..MAX_THREADS; None lets the runtime take every core.
        cache: let the back end keep what it compiled in the user's cache folder.

    Raises:
        BackendMissingError, BackendBrokenError, EngineNotFoundError, EngineUnreadableError, NotAnEngineError.
        UsageError: a device or a number of threads that there is not.
        PrecisionUnknownError, PrecisionUnavailableError: the back end, or this CPU, does not have it.
        Int8EngineMissingError, Int8EngineForeignError: there is no INT8 engine beside it, or that of another net.
    """
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise UsageError(f"threads is {threads}, expected 1..{MAX_THREADS}", "None takes every core")
    chosen = choose_device(device, precision)
    if precision == "int8":
        engine = int8_engine(engine)
    # One vendor library is imported only when it is about to be used: it is most of a cold start.
    if chosen == "openvino":
        from nst_deploy.runtime.ov import OvBackend  # noqa: PLC0415

        return OvBackend(engine, bf16=precision == "bf16", threads=threads, cache=cache)
    from nst_deploy.runtime.ort import OrtBackend  # noqa: PLC0415

    return OrtBackend(engine, threads=threads)


def choose_device(device: Device, precision: LowerPrecision | None = None) -> Device:
    """What ``auto`` stands for on this machine; anything else as it is.

    OpenVINO comes first: measured faster in float32 for many pictures of any size, and no slower for a single one,
    its start included. Nothing is loaded for the choice, and nothing measured: nst-bench does that.

    Raises:
        PrecisionUnknownError: the back end has it on no machine.
        UsageError: no such device.
    """
    if device not in DEVICES:
        raise UsageError(f"Unknown device {device!r}", f"Known are {', '.join(DEVICES)}")
    able = [known for known, lower in VARIANTS if lower == precision]
    if device == "auto":
        return next((known for known in able if find_spec(PACKAGES[known]) is not None), able[-1])
    if device not in able:
        raise PrecisionUnknownError(device, str(precision), " or ".join(able))
    return device
