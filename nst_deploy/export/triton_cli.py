"""What nst-export is asked of Triton: its options, and the work that they are for."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nst_common.errors import UsageError
from nst_deploy.contract import DEFAULT_PRECISIONS
from nst_deploy.export.formats import Format
from nst_deploy.export.plan_arguments import build_options, given_plan_options, size
from nst_deploy.triton import KINDS, TritonOptions

if TYPE_CHECKING:
    from nst_deploy.export.exporter import ExportedFile

FORMAT = "triton"
PREFIX = "triton_"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds them to nst-export's parser."""
    group = parser.add_argument_group("for --format triton", "--out is the model repository of the server.")
    defaults = TritonOptions()

    def add(name: str, attribute: str, text: str, **settings: Any) -> None:
        default = getattr(defaults, attribute)
        note = "" if default is None else f" (default: {default})"
        group.add_argument(f"--triton-{name}", dest=PREFIX + attribute, default=default, help=text + note, **settings)

    add("kind", "kind", "auto: every GPU of the server, its CPU where it has none", choices=KINDS)
    add("instances", "instances", "copies of the model, per GPU or on the CPU", type=int, metavar="N")
    add("threads", "threads", "CPU threads of each instance (default: every core)", type=int, metavar="N")
    add("max-batch", "max_batch", "pictures in one run", type=int, metavar="N")
    add(
        "queue-delay", "queue_delay", "how long a picture may wait for others to join", type=int, metavar="MICROSECONDS"
    )
    add("warmup-size", "warmup_size", "of the frame styled at the start: the size to expect", type=size, metavar="HxW")
    group.add_argument("--triton-plan", type=Path, metavar="FILE", help="serve this TensorRT plan too, as STYLE_trt")
    group.add_argument("--overwrite", action="store_true", help="replace the models that the repository has")


def refuse_options(arguments: argparse.Namespace) -> None:
    """
    Raises:
        UsageError: one of them was given, but not the format that it is for.
    """
    parser = argparse.ArgumentParser()
    add_options(parser)
    for option, default in vars(parser.parse_args([])).items():
        if getattr(arguments, option) != default:
            flag = "--" + option.replace("_", "-")
            raise UsageError(f"{flag} is for --format triton", f"Leave {flag} out, or add the format")


def run(arguments: argparse.Namespace, show: Callable[["ExportedFile"], None]) -> int:
    """Makes the repository and reports it; returns the exit code."""
    formats = _formats(arguments)
    build = build_options(arguments) if "plan" in formats else None
    from nst_deploy.export.triton import export_repository  # noqa: PLC0415  (torch: not for --help)

    chosen = {option: value for option, value in vars(arguments).items() if option.startswith(PREFIX)}
    plan = chosen.pop("triton_plan")
    report = export_repository(
        arguments.ckpt,
        arguments.out,
        options=TritonOptions(**{option.removeprefix(PREFIX): value for option, value in chosen.items()}),
        formats=formats,
        precisions=arguments.precision or DEFAULT_PRECISIONS,
        plan=plan,
        overwrite=arguments.overwrite,
        build=build,
        norm_precision=arguments.norm_precision,
        static_size=arguments.static,
        verify=not arguments.no_verify,
        verify_images=arguments.verify_images,
    )
    for file in report.files:
        show(file)
    for model in report.models:
        sys.stdout.write(f"{model}: ready to be served\n")
    return 0


def _formats(arguments: argparse.Namespace) -> tuple[Format, ...]:
    """Which engines the repository gets: ONNX always, a plan where it was asked for."""
    if "plan" not in arguments.format:
        if given := given_plan_options(arguments):
            raise UsageError(f"{given[0]} is for plans", f"Leave {given[0]} away, or give --format plan,{FORMAT}")
        return ("onnx",)
    if arguments.trt_flavor == "rtx":
        raise UsageError("Triton loads plans of TensorRT, --trt-flavor is rtx", "Leave it or the format plan away")
    if arguments.strip_weights:
        raise UsageError("Triton loads plans with their weights, --strip-weights was given", "Leave it away")
    if arguments.triton_plan is not None:
        raise UsageError("--triton-plan gives a plan, --format plan builds one", "Leave one of the two away")
    return ("onnx", "plan")
