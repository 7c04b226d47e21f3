"""Whether a plan can run here, said before the library tries."""

from pathlib import Path

from nst_deploy.contract import ContractError
from nst_deploy.errors import (
    EngineNotFoundError,
    EngineUnreadableError,
    NotAnEngineError,
    PictureSizeError,
    PlanElsewhereError,
    PlanWeightsMissingError,
    WrongKindOfEngineError,
)
from nst_deploy.plan_sidecar import PLAN_SUFFIX, PlanSidecar, Profile, Shape
from nst_deploy.runtime.device_memory import Gpu
from nst_deploy.runtime.onnx_metadata import parse_metadata, read_engine
from nst_deploy.runtime.trt import NAMES

PLAN_MAGIC = (b"ftrt", b"ptrt", b"vtrt")  # how plans begin; only better messages depend on it

PORTABLE_FROM = (8, 0)  # compute capability from which on TensorRT's hardware-compatible plans run


def is_plan(engine: Path) -> bool:
    """By its name alone."""
    return engine.suffix == PLAN_SUFFIX


def check_kind(engine: Path, *, plan_needed: bool) -> None:
    """
    Raises:
        EngineNotFoundError.
        WrongKindOfEngineError: its content or name is of the other kind.
    """
    if not engine.is_file():
        raise EngineNotFoundError(engine)
    with engine.open("rb") as file:
        begins_as_plan = file.read(4) in PLAN_MAGIC
    if plan_needed:
        if not begins_as_plan and _is_onnx(engine):
            raise WrongKindOfEngineError(engine, "an ONNX model named as a plan", "Name it .onnx")
    elif is_plan(engine):
        raise WrongKindOfEngineError(
            engine, "a plan, and this runs ONNX engines", "Give the .onnx, or choose --device tensorrt"
        )
    elif begins_as_plan:
        raise WrongKindOfEngineError(
            engine, "a plan named as an ONNX model", "Name it .plan, with its .plan.json beside it"
        )


def check_library(plan: Path, sidecar: PlanSidecar, version: str) -> None:
    """
    Args:
        version: of the library of the plan's flavour that is installed.

    Raises:
        PlanElsewhereError: it cannot load plans of the sidecar's version.
    """
    built, here = _numbers(sidecar.library_version), _numbers(version)
    # A portable plan is taken by later versions of the same major one; any other only by the very same.
    if built == here or (sidecar.portable and built[:1] == here[:1] and built <= here):
        return
    name = NAMES[sidecar.flavor]
    raise PlanElsewhereError(plan, f"{name} {sidecar.library_version}", f"{name} {version}", sidecar.flavor)


def check_gpu(plan: Path, sidecar: PlanSidecar, gpu: Gpu) -> None:
    """
    Raises:
        PlanElsewhereError: it was not built for this GPU.
    """
    known = sidecar.compute_capabilities
    here = f"{gpu.name} (compute capability {gpu.capability})"
    if known and gpu.capability not in known:
        capabilities = f"GPUs of compute capability {', '.join(known)}"
        built_on = f" on {sidecar.gpu_name}" if sidecar.gpu_name else ""
        raise PlanElsewhereError(plan, capabilities + built_on, here, sidecar.flavor)
    if sidecar.portable and gpu.compute_capability < PORTABLE_FROM:
        raise PlanElsewhereError(plan, "GPUs of compute capability 8.0 and later", here, sidecar.flavor)
    # TensorRT times its kernels on the GPU that builds; RTX compiles them where it runs.
    tied = sidecar.flavor == "tensorrt" and not sidecar.portable
    if tied and sidecar.gpu_name not in (None, gpu.name):
        raise PlanElsewhereError(plan, str(sidecar.gpu_name), here, sidecar.flavor)


def find_profile(profiles: tuple[Profile, ...], shape: Shape) -> int:
    """Index of the first profile that takes N, H, W, or fewer N at once.

    Raises:
        PictureSizeError: none does.
    """
    n, height, width = shape
    for index, profile in enumerate(profiles):
        if profile.allows((min(n, profile.max[0]), height, width)):
            return index
    ranges = " or ".join(map(_range, profiles))
    if any(profile.allows((profile.opt[0], height, width)) for profile in profiles):
        least = min(profile.min[0] for profile in profiles)
        raise PictureSizeError(
            height, width, f"{ranges}, at least {least} at once, got {n}", "Give more pictures at once"
        )
    flag = "--max-size" if any(height > p.max[1] or width > p.max[2] for p in profiles) else "--min-size"
    raise PictureSizeError(
        height, width, ranges, f"Resize it, or build the plan for it: nst-export --format plan {flag} {height}x{width}"
    )


def find_weights(plan: Path, sidecar: PlanSidecar) -> Path:
    """The ONNX engine beside a stripped plan that it was built from: of the same checkpoint, precision and size.

    Raises:
        PlanWeightsMissingError: there is none.
    """
    wanted = sidecar.contract
    for onnx in sorted(plan.parent.glob("*.onnx")):
        try:
            _, contract = read_engine(onnx)
        except (NotAnEngineError, EngineUnreadableError):
            continue
        if (contract.checkpoint_sha256, contract.precision, contract.static_size) == (
            wanted.checkpoint_sha256,
            wanted.precision,
            wanted.static_size,
        ):
            return onnx
    raise PlanWeightsMissingError(plan, str(plan.parent), f"no {wanted.precision} ONNX engine of its checkpoint there")


def _range(profile: Profile) -> str:
    (_, low_h, low_w), (_, high_h, high_w) = profile.min, profile.max
    if (low_h, low_w) == (high_h, high_w):
        return f"{low_w}x{low_h} px, the one size that the plan was built for"
    return f"{low_w}x{low_h} to {high_w}x{high_h} px, for which the plan was built"


def _numbers(version: str) -> tuple[int, ...]:
    """``10.13.3.9`` -> (10, 13, 3, 9); what is no number counts as 0."""
    return tuple(int(part) if part.isdigit() else 0 for part in version.split("+", maxsplit=1)[0].split("."))


def _is_onnx(path: Path) -> bool:
    try:
        parse_metadata(path.read_bytes())
    except (ContractError, ValueError, OSError):
        return False
    return True
