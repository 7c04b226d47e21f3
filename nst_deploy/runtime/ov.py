"""OpenVINO behind the Backend interface."""

import functools
import io
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from nst_deploy.contract import INPUT_NAME, OUTPUT_NAME
from nst_deploy.errors import BackendFailedError, EngineUnreadableError, NotAnEngineError, PrecisionUnavailableError
from nst_deploy.runtime.onnx_metadata import read_engine
from nst_deploy.runtime.ov_cache import BlobCache, user_cache_folder
from nst_deploy.runtime.vendor import loading

CPU = "CPU"
CONVERTER = "openvino.tools.ovc"  # the part of the package that turns other frameworks' models into OpenVINO's


class OvBackend:
    """OpenVINO on the CPU; may be shared between threads.

    One compiled model serves every size. Compiled for a single size it is 2 to 7 % faster, but each size would take
    0.1 s and up to a quarter more memory, and a picture's last bits would depend on what was styled before it; a
    ``--static`` export has that gain without the price.

    All that an INT8 engine leaves open runs in float32, unless ``bf16`` is asked for too: 5 to 10 % faster, but norms
    of small or even pictures lose far more in bfloat16 than convolutions in 8 bits.

    Args:
        bf16: compute in bfloat16: twice as fast where the CPU has it, PSNR 50 dB and more against float32.
        threads: CPU threads for one run; None takes every core.
        cache: keep the compiled model in the user's cache folder.

    Raises:
        BackendMissingError, BackendBrokenError, EngineNotFoundError, EngineUnreadableError, NotAnEngineError.
        PrecisionUnavailableError: bf16 on a CPU without it.
    """

    def __init__(self, engine: Path, *, bf16: bool = False, threads: int | None = None, cache: bool = True) -> None:
        self._ov = _import_openvino()
        precision = "bf16" if bf16 else "f32"
        model, self.contract = read_engine(engine)
        parts = ("int8",) * (self.contract.precision == "int8") + ("bf16",) * bf16
        self.name = "-".join(["openvino-cpu", *parts])
        core = shared_core()
        if bf16 and "BF16" not in core.get_property(CPU, "OPTIMIZATION_CAPABILITIES"):
            raise PrecisionUnavailableError("bf16")
        config: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,  # left to itself it takes the fastest that the CPU has
            "ENABLE_CPU_PINNING": False,  # no faster with it, and two programs would be pinned to the same core
        }
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
        self._compiled = self._open(core, engine, model, config, BlobCache(user_cache_folder()) if cache else None)
        _check_tensors(engine, self._compiled)
        # Asked for what it lacks, OpenVINO takes the next best and says so only here.
        if self._compiled.get_property("INFERENCE_PRECISION_HINT") != getattr(self._ov.Type, precision):
            raise PrecisionUnavailableError(precision)

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        styled = np.empty_like(images, order="C")
        compiled = self._compiled  # close() in another thread must not take it away half-way
        try:
            # A request costs 5 us, and one per run needs no lock; OpenVINO itself lets them run one after the other.
            request = compiled.create_infer_request()
            request.set_input_tensor(self._ov.Tensor(images, shared_memory=images.flags.writeable))
            request.set_output_tensor(self._ov.Tensor(styled, shared_memory=True))
            request.infer()
        except Exception as error:
            raise BackendFailedError(self.name, _reason(error)) from error
        return styled

    def close(self) -> None:
        self._compiled = None

    def _open(self, core: Any, engine: Path, model: bytes, config: dict[str, Any], cache: BlobCache | None) -> Any:
        """The compiled model, from the cache where it is there."""
        if cache is not None:
            cpu = [core.get_property(CPU, "FULL_DEVICE_NAME"), *core.get_property(CPU, "OPTIMIZATION_CAPABILITIES")]
            path = cache.path(model, self._ov.get_version(), config["INFERENCE_PRECISION_HINT"], *cpu)
            blob = cache.load(path)
            if blob is not None:
                try:
                    return core.import_model(self._ov.Tensor(blob), CPU, config)
                except RuntimeError:
                    pass  # of another build that calls itself the same: compiled and stored anew
        try:
            compiled = core.compile_model(core.read_model(io.BytesIO(model)), CPU, config)
        except Exception as error:
            raise EngineUnreadableError(engine, "it is damaged or not an ONNX model") from error
        if cache is not None:
            exported = io.BytesIO()
            compiled.export_model(exported)
            cache.store(path, exported.getvalue())
        return compiled


@functools.cache
def shared_core() -> Any:
    """The one core of this process, never freed.

    A core that loads OpenVINO's CPU plugin gives the thread a signal stack, and takes it away with the plugin. When two
    have come and gone in the order in which they came, the thread is left with one whose memory is unmapped, and the
    next signal, Ctrl-C for instance, ends the process with a segmentation fault (seen in OpenVINO 2026.4).

    Raises:
        BackendMissingError, BackendBrokenError.
    """
    return _import_openvino().Core()


def _import_openvino() -> Any:
    # The package imports its converter, which two thirds of its loading time go to and which reports every import to
    # the vendor. It allows for its absence. A program that has loaded openvino before us, or that imports
    # openvino.tools.ovc by name later, finds everything in place.
    skips_converter = "openvino" not in sys.modules and CONVERTER not in sys.modules
    if skips_converter:
        sys.modules[CONVERTER] = cast("Any", None)  # the import system's own sign for "not there"
    try:
        with loading("openvino", "openvino"):
            import openvino  # noqa: PLC0415  (an optional extra)
    finally:
        if skips_converter:
            del sys.modules[CONVERTER]
    return openvino


def _check_tensors(engine: Path, compiled: Any) -> None:
    for role, nodes, name in (("input", compiled.inputs, INPUT_NAME), ("output", compiled.outputs, OUTPUT_NAME)):
        given = [(sorted(node.get_names()), node.get_element_type().to_string()) for node in nodes]
        if given != [([name], "u8")]:
            raise NotAnEngineError(engine, f"its {role} is {given}, expected one uint8 tensor {name!r}")


def _reason(error: Exception) -> str:
    """The one telling line of OpenVINO's many: it stands last, below the places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
