"""nst-export: checkpoint in, proven engines out."""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from nst_common import package_version
from nst_common.console import ArgumentParser, run_command
from nst_common.errors import UsageError
from nst_deploy.contract import DEFAULT_PRECISIONS, PRECISIONS
from nst_deploy.errors import BackendMissingError

if TYPE_CHECKING:
    from nst_deploy.export.exporter import ExportedFile

PROG = "nst-export"
FORMATS = ("onnx",)
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
        return _verify(arguments)
    return _export(arguments)


def _export(arguments: argparse.Namespace) -> int:
    from nst_deploy.export.exporter import export  # noqa: PLC0415  (torch: not for --help)

    _say(f"reading {arguments.ckpt}")
    report = export(
        arguments.ckpt,
        arguments.out,
        precisions=arguments.precision,
        norm_precision=arguments.norm_precision,
        static_size=arguments.static,
        verify=not arguments.no_verify,
        verify_images=arguments.verify_images,
    )
    for file in report.files:
        _show(file)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from nst_deploy.export.exporter import verify_engine  # noqa: PLC0415

    _show(verify_engine(arguments.verify, arguments.ckpt, arguments.verify_images))
    return 0


def _refuse_export_options(arguments: argparse.Namespace) -> None:
    defaults = _parser().parse_args(["--ckpt", str(arguments.ckpt)])
    for option in ("out", "format", "precision", "norm_precision", "static", "no_verify"):
        if getattr(arguments, option) != getattr(defaults, option):
            flag = "--" + option.replace("_", "-")
            raise UsageError(f"{flag} says how to export, --verify takes an engine as it is", f"Leave {flag} out")


def _show(file: "ExportedFile") -> None:
    size = file.contract.static_size
    sizes = f"{size[0]}x{size[1]} px (HxW) only" if size else "any size"
    if file.report is not None:
        sys.stdout.write(file.report.table() + "\n")
    else:
        _say("not compared with PyTorch; nst-export --verify FILE --ckpt CHECKPOINT does it later")
    megabytes = file.path.stat().st_size / 1e6
    sys.stdout.write(
        f"{file.path}: style {file.contract.style}, {file.contract.precision}, {sizes}, {megabytes:.1f} MB\n"
    )


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
        "--format", type=_list_of(FORMATS), default=FORMATS, metavar="LIST", help=f"of {', '.join(FORMATS)}"
    )
    parser.add_argument(
        "--precision",
        type=_list_of(PRECISIONS),
        default=DEFAULT_PRECISIONS,
        metavar="LIST",
        help=f"of {', '.join(PRECISIONS)} (default: {', '.join(DEFAULT_PRECISIONS)}); fp16 is for GPUs, int8 for "
        "OpenVINO on CPUs",
    )
    parser.add_argument(
        "--norm-precision",
        choices=("fp16", "fp32"),
        default="fp16",
        help="how an fp16 engine stores what instance norms read and write; fp32 for hardware that sums in fp16",
    )
    parser.add_argument(
        "--static", type=_size, metavar="HxW", help="an engine for this one size (default: any size from 8 px)"
    )
    parser.add_argument("--no-verify", action="store_true", help="skip the comparison with PyTorch")
    parser.add_argument("--verify", type=Path, metavar="FILE", help="compare this existing engine instead of exporting")
    parser.add_argument(
        "--verify-images", type=Path, nargs="+", metavar="IMG", help="compare on these instead of the bundled two"
    )
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


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 512x768 (height x width)")
    return int(match[1]), int(match[2])


if __name__ == "__main__":
    sys.exit(main())
