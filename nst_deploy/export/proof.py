"""Proof that an engine equals the PyTorch net that it was made from."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nst_deploy.contract import ModelContract
from nst_deploy.errors import ReferenceFailedError
from nst_deploy.export.deployable import DeployableNet
from nst_deploy.export.parity import ParityReport, Run, compare, verification_pictures
from nst_deploy.parity_limit import LIMITS
from nst_deploy.plan_sidecar import Profile
from nst_deploy.runtime.backend import PACKAGES, Backend, open_backend
from nst_deploy.runtime.onnx_metadata import read_engine
from nst_train.checkpoints import Checkpoint


def reference_run(net: nn.Module) -> Run:
    """A net as the truth that engines are compared with: PyTorch eager, uint8 ``[N, H, W, 3]`` -> the same."""
    deployable = DeployableNet(net).eval()

    def run(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        try:
            with torch.inference_mode():
                styled: NDArray[np.uint8] = deployable(torch.from_numpy(images.copy())).numpy()
        except RuntimeError as error:  # how PyTorch says that memory is short
            _, height, width, _ = images.shape
            raise ReferenceFailedError(height, width, str(error).split("\n")[0]) from error
        return styled

    return run


def prove_file(checkpoint: Checkpoint, engine: Path, images: Sequence[Path] | None) -> ParityReport:
    """Compares an ONNX engine with its checkpoint's net; raises what ``prove`` does, and opening the engine."""
    backend = open_to_prove(engine)
    try:
        return prove(checkpoint, backend.run, backend.contract, images, name=backend.name)
    finally:
        backend.close()


def open_to_prove(engine: Path) -> Backend:
    """What users run it on: INT8 engines are for OpenVINO, and ONNX Runtime computes them in float32."""
    _, contract = read_engine(engine)
    on_openvino = contract.precision == "int8" and find_spec(PACKAGES["openvino"]) is not None
    return open_backend(engine, "openvino" if on_openvino else "cpu", cache=False)


def prove(
    checkpoint: Checkpoint,
    run: Run,
    contract: ModelContract,
    images: Sequence[Path] | None,
    *,
    name: str = "",
    profile: Profile | None = None,
) -> ParityReport:
    """Compares what runs an engine with its checkpoint's net.

    Args:
        images: photographs; None for the two that the package carries.
        name: of what runs it.
        profile: of a plan.

    Raises:
        ParityError: it differs by more than its precision allows.
        ReferenceFailedError: PyTorch could not compute the pictures.
    """
    # No CPU kernel computes in FP16: it casts to float32 and back round every operation. Plans run on GPUs alone.
    name = "fp16-emulated" if contract.precision == "fp16" and profile is None else name
    pictures = verification_pictures(images, contract.static_size, profile)
    report = compare(reference_run(checkpoint.build()), run, name, pictures)
    report.require(LIMITS[contract.precision])
    return report
