"""ONNX Runtime's execution providers for NVIDIA GPUs: whether they load, and with which options."""

import contextlib
import ctypes
import hashlib
import io
import os
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from nst_deploy.contract import INPUT_NAME, ModelContract
from nst_deploy.errors import (
    BackendMissingError,
    PackagesCollideError,
    ProviderPrecisionError,
    ProviderUnavailableError,
)
from nst_deploy.plan_sidecar import DEFAULT_PROFILE, Profile
from nst_deploy.runtime.elf import needed_libraries
from nst_deploy.runtime.gpu_probe import LIBRARY as DRIVER  # whether it is there is asked for itself
from nst_deploy.runtime.ort import import_onnxruntime
from nst_deploy.runtime.ov_cache import user_cache_folder

Provider = Literal["cuda", "tensorrt"]
NAMES: dict[Provider, str] = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
WHEELS = ("onnxruntime", "onnxruntime-gpu")
REINSTALL = "Install the one for GPUs in its place: pip uninstall -y onnxruntime && pip install 'nst[gpu]'"
CUDA_PACKAGES = "pip install 'onnxruntime-gpu[cuda,cudnn]'"
TF32_SWITCH = "NVIDIA_TF32_OVERRIDE"  # an environment variable of NVIDIA's libraries; 0 is never


def load_onnxruntime(provider: Provider) -> Any:
    """The module, its provider loaded.

    Raises:
        BackendMissingError, BackendBrokenError.
        PackagesCollideError, ProviderUnavailableError: it is the wheel for CPUs, or half of two, or lacks CUDA.
    """
    try:
        ort = import_onnxruntime()
    except BackendMissingError as error:
        raise BackendMissingError("onnxruntime-gpu", "gpu") from error
    if NAMES[provider] not in ort.get_available_providers():
        if both_wheels():
            raise PackagesCollideError
        raise ProviderUnavailableError(NAMES[provider], "the installed onnxruntime is the one for CPUs", REINSTALL)
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            ort.preload_dlls()
    reason = _why_not_loaded(Path(ort.__file__).parent / "capi", provider)
    if reason is not None:
        if both_wheels():
            raise PackagesCollideError
        remedy = "pip install 'nst[tensorrt]'" if provider == "tensorrt" else CUDA_PACKAGES
        raise ProviderUnavailableError(NAMES[provider], reason, f"Install what it needs: {remedy}")
    return ort


def both_wheels() -> bool:
    """Whether both wheels are installed, which own the same files."""
    for wheel in WHEELS:
        try:
            version(wheel)
        except PackageNotFoundError:
            return False
    return True


def _why_not_loaded(folder: Path, provider: Provider) -> str | None:
    """What the system's loader will say; ONNX Runtime itself would print it and go on with the CPU.

    Not by loading the provider: its code runs at once, and crashes where ONNX Runtime has not prepared it.
    """
    if sys.platform != "linux":
        return None
    try:
        for name in needed_libraries(folder / f"libonnxruntime_providers_{provider}.so"):
            if name != DRIVER:
                ctypes.CDLL(name)
    except (OSError, ValueError) as error:
        return str(error)
    return None


def provider_list(
    provider: Provider,
    model: bytes,
    contract: ModelContract,
    *,
    cuda_graph: bool,
    cache: bool,
    cuda_options: Mapping[str, str] | None = None,
) -> list[Any]:
    """For InferenceSession: what runs the engine, then what runs the rest (a few numbers about shapes, on the CPU).

    Args:
        cuda_options: of the CUDA provider, by ONNX Runtime's names, in place of our own choice.

    Raises:
        ProviderPrecisionError: TensorRT would round a float32 engine's numbers to TF32.
    """
    cuda = (
        NAMES["cuda"],
        {
            "use_tf32": _use_tf32(contract),
            "arena_extend_strategy": "kSameAsRequested",
            "enable_cuda_graph": str(int(cuda_graph and provider == "cuda")),
            **(cuda_options or {}),
        },
    )
    profile = profile_of(provider, contract)
    if profile is None:
        return [cuda, "CPUExecutionProvider"]
    if contract.precision == "fp32" and os.environ.get(TF32_SWITCH) != "0":
        raise ProviderPrecisionError(TF32_SWITCH)
    tensorrt = {**_profile_options(profile), **(_cache_options(model) if cache else {})}
    tensorrt["trt_cuda_graph_enable"] = str(int(cuda_graph))
    return [(NAMES["tensorrt"], tensorrt), cuda, "CPUExecutionProvider"]


def _use_tf32(contract: ModelContract) -> str:
    """Float32 stays float32: an engine's precision is what its file says.

    Not so for FP16, which TF32 does not touch: with ``use_tf32=0`` ONNX Runtime from 1.20 on takes every kernel for
    Tensor Cores from the choice, whatever the type of the convolution (``deselect_numeric_notes({TENSOR_CORE})`` in its
    ``core/providers/cuda/nn/conv.cc``).
    """
    return str(int(contract.precision == "fp16"))


def profile_of(provider: Provider, contract: ModelContract) -> Profile | None:
    """The shapes that TensorRT prepares for: without one it would build anew for every size beyond those it met."""
    if provider == "cuda":
        return None
    if contract.static_size is None:
        return DEFAULT_PROFILE
    size = (DEFAULT_PROFILE.max[0], *contract.static_size)
    return Profile(size, size, size)


def _profile_options(profile: Profile) -> dict[str, str]:
    return {
        f"trt_profile_{name}_shapes": f"{INPUT_NAME}:{n}x{h}x{w}x3"
        for name, (n, h, w) in (("min", profile.min), ("opt", profile.opt), ("max", profile.max))
    }


def _cache_options(model: bytes) -> dict[str, str]:
    """Engines by the content of the model: the provider itself goes by its path, and by the GPU."""
    folder = user_cache_folder() / "tensorrt"
    with contextlib.suppress(OSError):
        (folder / hashlib.sha256(model).hexdigest()[:16]).mkdir(mode=0o700, parents=True, exist_ok=True)
        return {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(folder / hashlib.sha256(model).hexdigest()[:16]),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(folder),
        }
    return {}
