"""nst-export: checkpoint in, proven engines out."""

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from nst_common import package_version
from nst_common.console import ArgumentParser, run_command
from nst_common.errors import UsageError
from nst_deploy.contract import DEFAULT_PRECISIONS, PRECISIONS
from nst_deploy.errors import BackendBrokenError, BackendMissingError, BuilderMissingError, BuildNeedsGpuError
from nst_deploy.export import triton_cli
from nst_deploy.export.formats import DEFAULT_FORMATS, FORMATS, Format
from nst_deploy.export.plan_arguments import PLAN_OPTIONS, add_plan_arguments, build_options, given_plan_options, size

if TYPE_CHECKING:
    from nst_deploy.export.exporter import ExportedFile

PROG = "nst-export"
REQUIRED = ("torch", "onnx", "onnxscript", "onnxruntime")


def main(argv: Sequence[str] | None = None) -> int:
    """Console entry. Returns 0, 1 for work that failed, 2 for wrong usage, 130 after Ctrl-C."""
    return run_command(PROG, _run, argv)


def _run(argv: Sequence[str]) -> int:
    arguments = _parser().parse_args(argv)
    for package in REQUIRED:
        if find_spec(package) is None:
            raise BackendMissingError(package, "export")
    if arguments.verify is not None:
        _refuse_export_options(arguments)
        triton_cli.refuse_options(arguments)
        return _verify(arguments)
    if triton_cli.FORMAT in (arguments.format or ()):
        _say(f"reading {arguments.ckpt}")
        return triton_cli.run(arguments, lambda file: _show(file, arguments.ckpt))
    triton_cli.refuse_options(arguments)
    return _export(arguments)


def _export(arguments: argparse.Namespace) -> int:
    formats = _formats(arguments)
    options = build_options(arguments)
    from nst_deploy.export.exporter import begin_export  # noqa: PLC0415  (torch: not for --help)

    _say(f"reading {arguments.ckpt}")
    _, files = begin_export(
        arguments.ckpt,
        arguments.out,
        formats=formats,
        precisions=arguments.precision or DEFAULT_PRECISIONS,
        norm_precision=arguments.norm_precision,
        static_size=arguments.static,
        flavor=arguments.trt_flavor,
        build=options,
        verify=not arguments.no_verify,
        verify_images=arguments.verify_images,
    )
    try:
        for file in files:
            _show(file, arguments.ckpt)
    except BuildNeedsGpuError as error:
        if _plan_demanded(arguments):
            raise
        _say(f"no plan: {error}")
    return 0


def _formats(arguments: argparse.Namespace) -> Sequence[Format]:
    """What to write; without being told to, a plan where something that builds it is installed."""
    formats: Sequence[Format] | None = arguments.format
    given = given_plan_options(arguments)
    if formats is not None and "plan" not in formats and given:
        raise UsageError(f"{given[0]} is for plans, and --format is {','.join(formats)}", f"Leave {given[0]} away")
    if formats is not None and "onnx" not in formats and arguments.precision and "fp16" not in arguments.precision:
        raise UsageError(
            f"--precision {','.join(arguments.precision)} is for ONNX files; a plan is always fp16",
            "Leave --precision away, or give --format onnx,plan",
        )
    if formats is not None:
        return formats
    if not given:
        from nst_deploy.export.trt_library import load_builder  # noqa: PLC0415  (numpy)

        try:
            load_builder(None)
        except (BuilderMissingError, BackendBrokenError) as error:
            _say(f"no plan: {error}")
            return DEFAULT_FORMATS
    return FORMATS


def _plan_demanded(arguments: argparse.Namespace) -> bool:
    return arguments.format is not None or bool(given_plan_options(arguments))


def _verify(arguments: argparse.Namespace) -> int:
    from nst_deploy.export.exporter import verify_engine  # noqa: PLC0415

    _show(verify_engine(arguments.verify, arguments.ckpt, arguments.verify_images), arguments.ckpt)
    return 0


def _refuse_export_options(arguments: argparse.Namespace) -> None:
    defaults = _parser().parse_args(["--ckpt", str(arguments.ckpt)])
    for option in ("out", "format", "precision", "norm_precision", "static", "no_verify", *PLAN_OPTIONS):
        if getattr(arguments, option) != getattr(defaults, option):
            flag = "--" + option.replace("_", "-")
            raise UsageError(f"{flag} says how to export, --verify takes an engine as it is", f"Leave {flag} out")


def _show(file: "ExportedFile", ckpt: Path) -> None:
    later = f"nst-export --verify {file.path} --ckpt {ckpt}"
    if file.report is not None:
        sys.stdout.write(file.report.table() + "\n")
    elif file.not_run is not None:
        _say(f"warning: {file.path.name} was not run and has no parity figures: {file.not_run}; later: {later}")
    else:
        _say(f"{file.path.name} was not compared with PyTorch; later: {later}")
    sizes = _sizes(file)
    megabytes = file.path.stat().st_size / 1e6
    sys.stdout.write(
        f"{file.path}: style {file.contract.style}, {file.contract.precision}, {sizes}, {megabytes:.1f} MB\n"
    )


def _sizes(file: "ExportedFile") -> str:
    """What it takes, and how long a plan took to build."""
    static, plan = file.contract.static_size, file.plan
    if plan is None:
        return f"{static[0]}x{static[1]} px (HxW) only" if static else "any size"
    (_, *low), (_, *best), (batch, *high) = plan.profile.min, plan.profile.opt, plan.profile.max
    smallest, fastest, largest = (f"{height}x{width}" for height, width in (low, best, high))
    sizes = f"{largest} px (HxW) only" if static else f"{smallest} to {largest} px (HxW), fastest at {fastest}"
    together = f", up to {batch} at once" if batch > 1 else ""
    return f"{sizes}{together}, built in {plan.build_seconds:.1f} s"


def _say(message: str) -> None:
    sys.stderr.write(message + "\n")


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        PROG,
        description="Turn a checkpoint into self-contained engines (uint8 pictures in, uint8 pictures out) and prove "
        "on real photographs that they equal the PyTorch net.",
    )
    parser.add_argument(
        "--ckpt",
        type=Path,
        required=True,
        metavar="FILE",
        help="nst .pth, pytorch/examples fast_neural_style .pth, or lengstrom/fast-style-transfer .npz",
    )
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="folder for the files (default: here)")
    parser.add_argument(
        "--format",
        type=_list_of((*FORMATS, triton_cli.FORMAT)),
        metavar="LIST",
        help=f"of {', '.join(FORMATS)} (default: onnx, and plan where TensorRT or TensorRT-RTX is installed); "
        f"{triton_cli.FORMAT} puts the engines into a model repository of Triton Inference Server",
    )
    parser.add_argument(
        "--precision",
        type=_list_of(PRECISIONS),
        metavar="LIST",
        help=f"of the ONNX files, of {', '.join(PRECISIONS)} (default: {', '.join(DEFAULT_PRECISIONS)}); fp16 is for "
        "GPUs, and what every plan has, int8 for OpenVINO on CPUs",
    )
    parser.add_argument(
        "--norm-precision",
        choices=("fp16", "fp32"),
        default="fp16",
        help="how an fp16 engine stores what instance norms read and write; fp32 for hardware that sums in fp16",
    )
    parser.add_argument(
        "--static", type=size, metavar="HxW", help="an engine for this one size (default: any size from 8 px)"
    )
    parser.add_argument("--no-verify", action="store_true", help="skip the comparison with PyTorch")
    parser.add_argument("--verify", type=Path, metavar="FILE", help="compare this existing engine instead of exporting")
    parser.add_argument(
        "--verify-images", type=Path, nargs="+", metavar="IMG", help="compare on these instead of the bundled two"
    )
    add_plan_arguments(parser)
    triton_cli.add_options(parser)
    parser.add_argument("--version", action="version", version=f"%(prog)s {package_version()}")
    return parser


def _list_of(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """A parser of comma-separated names, of which there must be one at least and no unknown one."""

    def parse(text: str) -> tuple[str, ...]:
        names = tuple(name.strip() for name in text.split(","))
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(known)}")
        return names

    return parse


if __name__ == "__main__":
    sys.exit(main())
