"""The one interface that every runtime stands behind."""

from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from nst_deploy.contract import ModelContract

Device = Literal["auto", "cpu"]
DEVICES: tuple[Device, ...] = get_args(Device)


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


def open_backend(engine: Path, device: Device = "auto", *, threads: int | None = None) -> Backend:
    """Opens an engine on the fastest installed back end for ``device``.

    Args:
        engine: an ONNX file made by nst-export.
        threads: CPU threads for one run; None lets the runtime take every core.

    Raises:
        BackendMissingError, BackendBrokenError, EngineNotFoundError, EngineUnreadableError, NotAnEngineError.
    """
    # One vendor library is imported only when it is about to be used: it is most of a cold start.
    from nst_deploy.runtime.ort import OrtBackend  # noqa: PLC0415

    return OrtBackend(engine, threads=threads)
