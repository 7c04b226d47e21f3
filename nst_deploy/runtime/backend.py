"""The one interface that every runtime stands behind."""

from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from nst_deploy.contract import ModelContract
from nst_deploy.errors import PrecisionUnknownError

Device = Literal["auto", "cpu", "openvino"]
DEVICES: tuple[Device, ...] = get_args(Device)
LowerPrecision = Literal["bf16"]  # than the engine's own; only when asked for
LOWER_PRECISIONS: tuple[LowerPrecision, ...] = get_args(LowerPrecision)

# Every way to run an engine, None being its own precision. ``auto`` takes the first whose package is installed.
VARIANTS: tuple[tuple[Device, LowerPrecision | None], ...] = (("openvino", None), ("cpu", None), ("openvino", "bf16"))
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
        precision: to compute in less than the engine's own; None keeps that.
        threads: CPU threads for one run; None lets the runtime take every core.
        cache: let the back end keep what it compiled in the user's cache folder.

    Raises:
        BackendMissingError, BackendBrokenError, EngineNotFoundError, EngineUnreadableError, NotAnEngineError.
        PrecisionUnknownError, PrecisionUnavailableError: neither the back end, or nor this CPU, has it.
    """
    chosen = choose_device(device, precision)
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
    """
    able = [known for known, lower in VARIANTS if lower == precision]
    if device == "auto":
        return next((known for known in able if find_spec(PACKAGES[known]) is not None), able[-1])
    if device not in able:
        raise PrecisionUnknownError(device, str(precision), " or ".join(able))
    return device
