"""An ONNX engine as a plan with its sidecar."""

import time
from dataclasses import dataclass
from pathlib import Path

from nst_deploy.contract import ModelContract
from nst_deploy.export.build_options import CURRENT_GPU, RTX_DEFAULT_CAPABILITIES, BuildOptions
from nst_deploy.export.engine_builder import EngineBuilder
from nst_deploy.export.trt_library import find_gpu
from nst_deploy.plan_sidecar import PLAN_SUFFIXES, PlanSidecar, sha256
from nst_deploy.runtime.trt import check_rtx

TIMING_CACHE = "tensorrt.timing"  # beside the plans, for all of them: nets of one shape have the same kernels


@dataclass(frozen=True)
class BuiltPlan:
    """A plan that is not written yet."""

    name: str
    content: bytes
    sidecar: PlanSidecar


def build_plan(
    model: bytes, contract: ModelContract, builder: EngineBuilder, options: BuildOptions, folder: Path
) -> BuiltPlan:
    """Builds the plan of one ONNX engine and describes it.

    Args:
        model: the serialised FP16 engine.
        contract: what it says of itself; its parity is not taken over, for the plan has to be measured itself.
        folder: where the plan will lie; TensorRT's timing cache is kept there.

    Raises:
        UsageError: options that contradict each other or the flavour.
        RtxUnsupportedError: a plan of TensorRT-RTX for this GPU, on which it runs none.
        ParserFailedError, BuildFailedError, BuildNeedsGpuError, BuildOutOfMemoryError.
    """
    name = contract.style + PLAN_SUFFIXES[builder.flavor]
    profile = options.profile(contract.static_size)
    gpu = find_gpu()
    if builder.flavor == "rtx" and gpu is not None and options.compute_capabilities == (CURRENT_GPU,):
        # The library would build it all the same.
        check_rtx(f"{name} for --compute-capability {CURRENT_GPU}", builder.trt, gpu.gpu)
    started = time.monotonic()
    content = builder.build(model, profile, options, name=name, timing_cache=folder / TIMING_CACHE)
    seconds = time.monotonic() - started
    sidecar = PlanSidecar(
        contract=contract,
        plan_sha256=sha256(content),
        flavor=builder.flavor,
        library_version=builder.trt.__version__,
        gpu_name=gpu.gpu.name if gpu else None,
        compute_capabilities=_capabilities(builder, options, gpu.gpu.capability if gpu else None),
        profile=profile,
        portable=options.portable,
        weights_stripped=options.strip_weights,
        build_seconds=round(seconds, 1),
    )
    return BuiltPlan(name, content, sidecar)


def _capabilities(builder: EngineBuilder, options: BuildOptions, here: str | None) -> tuple[str, ...]:
    if builder.flavor == "tensorrt":
        return ()
    if options.compute_capabilities == (CURRENT_GPU,):
        return (here,) if here else ()
    return options.compute_capabilities or builder.known_capabilities(RTX_DEFAULT_CAPABILITIES)
