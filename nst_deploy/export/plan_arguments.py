"""The options of nst-export that are about plans."""

import argparse
import re

from nst_deploy.export.build_options import (
    CURRENT_GPU,
    DEFAULT_MAX_SIZE,
    DEFAULT_MIN_SIZE,
    DEFAULT_OPT_SIZE,
    OPTIMIZATION_LEVELS,
    RTX_CAPABILITIES,
    RTX_DEFAULT_CAPABILITIES,
    BuildOptions,
    Size,
)
from nst_deploy.plan_sidecar import FLAVORS

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
# Option -> the field of BuildOptions that it fills.
FIELDS = {
    "min_size": "min_size",
    "opt_size": "opt_size",
    "max_size": "max_size",
    "max_batch": "max_batch",
    "workspace": "workspace_bytes",
    "opt_level": "optimization_level",
    "portable": "portable",
    "strip_weights": "strip_weights",
    "compute_capability": "compute_capabilities",
}
PLAN_OPTIONS = ("trt_flavor", *FIELDS)


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Each is None, or False, unless it is given: BuildOptions has the defaults."""
    group = parser.add_argument_group("plans (TensorRT, TensorRT-RTX)")
    group.add_argument(
        "--trt-flavor", choices=FLAVORS, help="what builds the plan (default: the first of these that is installed)"
    )
    group.add_argument(
        "--min-size", type=size, metavar="HxW", help=f"smallest picture (default: {_shown(DEFAULT_MIN_SIZE)})"
    )
    group.add_argument(
        "--opt-size", type=size, metavar="HxW", help=f"where it is fastest (default: {_shown(DEFAULT_OPT_SIZE)})"
    )
    group.add_argument(
        "--max-size", type=size, metavar="HxW", help=f"largest picture (default: {_shown(DEFAULT_MAX_SIZE)})"
    )
    group.add_argument(
        "--max-batch", type=int, metavar="N", help=f"most pictures at once (default: {BuildOptions().max_batch})"
    )
    group.add_argument(
        "--workspace", type=_bytes, metavar="BYTES", help="scratch memory, such as 512M or 4G (default: all there is)"
    )
    levels = f"{OPTIMIZATION_LEVELS[0]} (built fastest) to {OPTIMIZATION_LEVELS[-1]} (runs fastest)"
    group.add_argument("--opt-level", type=int, metavar="N", help=f"{levels}; TensorRT only")
    group.add_argument(
        "--portable",
        action="store_true",
        help="for other GPUs, from compute capability 8.0, and later releases too; TensorRT only",
    )
    group.add_argument(
        "--strip-weights", action="store_true", help="leave the weights to the .fp16.onnx that is written beside it"
    )
    known = ", ".join(RTX_CAPABILITIES)
    group.add_argument(
        "--compute-capability",
        type=_capabilities,
        metavar="LIST",
        help=f"GPUs to build for, of {known}, or {CURRENT_GPU} (default: all from {RTX_DEFAULT_CAPABILITIES[0]}); "
        "TensorRT-RTX only",
    )


def given_plan_options(arguments: argparse.Namespace) -> list[str]:
    """The flags among them that were given."""
    return ["--" + name.replace("_", "-") for name in PLAN_OPTIONS if _is_given(getattr(arguments, name))]


def build_options(arguments: argparse.Namespace) -> BuildOptions:
    """
    Raises:
        UsageError: a value that no plan can have.
    """
    given = {field: getattr(arguments, name) for name, field in FIELDS.items()}
    return BuildOptions(**{field: value for field, value in given.items() if _is_given(value)})


def _is_given(value: object) -> bool:
    return value is not None and value is not False  # 0 is a value


def size(text: str) -> Size:
    """``512x768``, height first."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 512x768 (height x width)")
    return int(match[1]), int(match[2])


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)([KMG]?)(iB|B)?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes such as 536870912, 512M or 4G")
    return int(match[1]) * UNITS[match[2]]


def _capabilities(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",")))


def _shown(value: Size) -> str:
    return f"{value[0]}x{value[1]}"
