"""nst-infer: photographs in, styled pictures out."""

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from nst_common.atomic_file import CannotWriteError, prepare_folder
from nst_common.console import ArgumentParser, run_command
from nst_common.errors import UserError
from nst_common.progress import Progress
from nst_deploy.contract import MIN_SIZE
from nst_deploy.images import DEFAULT_QUALITY, Picture, load_picture, measure_picture, save_picture
from nst_deploy.jobs import Job, find_pictures, pending, plan_jobs
from nst_deploy.memory import MemoryGuard
from nst_deploy.runtime.backend import DEVICES, LOWER_PRECISIONS, MAX_THREADS, Device, LowerPrecision
from nst_deploy.styles import DEFAULT_STYLE, bundled_styles, thumbnail
from nst_deploy.stylizer import Stylizer

PROG = "nst-infer"

DESCRIPTION = """\
Paints photographs in the style of an engine.

Every picture that Pillow reads is taken: orientation is applied, transparency and colour profile are kept where the
output format has them. Folders are searched with all that lies below them, globs may be quoted, and both keep their
sub-folders in the output."""

EPILOG = """\
where results go:
  without --out     PHOTO.STYLE.jpg in the current folder, with the input's suffix (.png for a GIF, and where a
                    format is read but not written)
  --out x.png       that file, for one picture
  --out styled/     PHOTO.STYLE.jpg in that folder; it is made where it does not exist. Anything without a suffix is a
                    folder too
  --out PATTERN     with {stem} and {ext} of the input (photo, jpg) and the engine's {style}:
                    --out 'styled/{style}/{stem}.png'

examples:
  nst-infer --engine la_muse.onnx photo.jpg
  nst-infer --engine la_muse.onnx holiday/ --out styled/ --size 1600 --skip-existing
  nst-infer --engine la_muse.onnx 'holiday/**/*.jpg' --out '{stem}.{style}.webp' --quality 90

exit codes: 0 all done, 1 something failed (the rest is kept), 2 wrong usage, 130 after Ctrl-C."""


@dataclass(frozen=True)
class InferOptions:
    """What one run was asked for; see ``nst-infer --help``."""

    inputs: tuple[str, ...]
    engine: str
    out: str | None
    device: Device
    precision: LowerPrecision | None
    threads: int | None
    cache: bool
    cuda_graph: bool
    size: int | None
    strength: float
    keep_color: bool
    quality: int
    overwrite: bool
    skip_existing: bool
    list_styles: bool
    verbose: bool


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run_command(PROG, _work, argv)


def _work(argv: Sequence[str]) -> int:
    options = _parse(argv)
    if options.list_styles:
        return _list_styles()
    sources = find_pictures(options.inputs, options.out)
    started = time.perf_counter()
    with _open(options) as stylize:
        if options.verbose:
            _describe_engine(stylize, options.engine, time.perf_counter() - started)
        jobs = plan_jobs(sources, options.out, stylize.contract.style, resume=options.skip_existing)
        todo = pending(jobs, overwrite=options.overwrite, skip_existing=options.skip_existing)
        for folder in sorted({job.target.parent for job in todo}):
            prepare_folder(folder)
        run = Run(stylize, options)
        return run.one(todo[0]) if len(jobs) == len(todo) == 1 else run.many(todo, skipped=len(jobs) - len(todo))


def _open(options: InferOptions) -> Stylizer:
    return Stylizer(
        options.engine,
        device=options.device,
        precision=options.precision,
        threads=options.threads,
        cache=options.cache,
        cuda_graph=options.cuda_graph,
    )


class Run:
    """Works through the jobs of one command."""

    def __init__(self, stylize: Stylizer, options: InferOptions) -> None:
        self._stylize, self._options = stylize, options
        self._guard = MemoryGuard(stylize.contract, on_gpu=stylize.on_gpu)

    def one(self, job: Job) -> int:
        """One picture, one line."""
        started = time.perf_counter()
        try:
            picture = self._style(job)
        except (UserError, MemoryError) as error:
            _complain(_explain(job, error))
            return error.exit_code if isinstance(error, UserError) else 1
        height, width = picture.rgb.shape[:2]
        _say(f"{job.target}: {width}x{height} px in {time.perf_counter() - started:.2f} s")
        return 0

    def many(self, jobs: Sequence[Job], *, skipped: int) -> int:
        """Progress while it works, and a summary however it ends; a failure does not stop the rest."""
        started = time.perf_counter()
        failures: list[str] = []
        finished = 0
        try:
            with Progress(skipped + len(jobs), "pictures", done=skipped) as progress:
                for job in jobs:
                    try:
                        self._style(job)
                        finished += 1
                    except (UserError, MemoryError) as error:
                        failures.append(_explain(job, error))
                        if isinstance(error, CannotWriteError) and error.disk_full:
                            break  # nor will the next ones fit
                    progress.advance(note=f"{len(failures)} failed" if failures else "")
        finally:
            untried = len(jobs) - finished - len(failures)
            _summarize(finished, skipped, untried, failures, time.perf_counter() - started)
        return 1 if failures else 0

    def _style(self, job: Job) -> Picture:
        options = self._options
        size = measure_picture(job.source.path, options.size)
        self._guard.check(size)
        picture = load_picture(job.source.path, options.size)
        styled = self._stylize(picture.rgb, strength=options.strength, keep_color=options.keep_color)
        result = dataclasses.replace(picture, rgb=styled)
        save_picture(job.target, result, quality=options.quality, overwrite=options.overwrite)
        self._guard.went_well(size)
        return result


def _explain(job: Job, error: UserError | MemoryError) -> str:
    """One line that names the picture."""
    text = str(error) if isinstance(error, UserError) else "Out of memory. Make it smaller with --size"
    path = str(job.source.path)
    return text if path in text else f"{path}: {text}"


def _summarize(finished: int, skipped: int, untried: int, failures: Sequence[str], seconds: float) -> None:
    counts = [f"{finished} styled in {seconds:.1f} s"]
    counts += [f"{skipped} skipped because their output exists"] if skipped else []
    counts += [f"{untried} not begun"] if untried else []
    counts += [f"{len(failures)} failed"] if failures else []
    _say(f"{finished + skipped + untried + len(failures)} pictures: {', '.join(counts)}")
    for failure in failures:
        _complain(failure)


def _say(message: str) -> None:
    sys.stdout.write(message + "\n")
    sys.stdout.flush()  # before what follows on stderr


def _complain(message: str) -> None:
    sys.stderr.write(f"{PROG}: error: {message}\n")


def _list_styles() -> int:
    styles = bundled_styles()
    width = max(map(len, styles), default=0)
    for name, engine in styles.items():
        default = "  (the default)" if name == DEFAULT_STYLE else ""
        _say(f"{name:{width}}  {thumbnail(engine)}{default}")
    if not styles:
        _say("No style is bundled with this installation. Make an engine: nst-export --ckpt CHECKPOINT")
    return 0


def _describe_engine(stylize: Stylizer, engine: str, seconds: float) -> None:
    contract = stylize.contract
    lines = [
        f"engine {engine}: style {contract.style}, {contract.precision}, made by nst {contract.package_version}",
        f"back end {stylize.backend}, opened in {seconds:.2f} s",
    ]
    if contract.parity is None:
        lines.append("parity with PyTorch was not measured at export")
    else:
        parity = contract.parity
        psnr = "no difference at all" if parity.psnr_db is None else f"PSNR {parity.psnr_db:.1f} dB"
        lines.append(
            f"parity with PyTorch at export, on {parity.backend}: at most {parity.max_levels} of 255 levels apart, "
            f"{parity.identical:.3%} of values identical, {psnr}"
        )
    sys.stderr.write("\n".join(lines) + "\n")


class _VersionAction(argparse.Action):
    """Looks the version up only when asked: the reader of package metadata is a tenth of a cold start."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from nst_common import package_version  # noqa: PLC0415

        _say(f"{PROG} {package_version()}")
        parser.exit()


def _parse(argv: Sequence[str]) -> InferOptions:
    parser = _parser()
    values = vars(parser.parse_args(argv))
    values["inputs"] = tuple(values["inputs"])
    options = InferOptions(**values)
    if not options.inputs and not options.list_styles:
        parser.error("no picture given")
    return options


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog=PROG, description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("inputs", nargs="*", metavar="INPUT", help="picture, folder, or quoted glob such as 'photos/**/*.jpg'")
    add("--engine", default=DEFAULT_STYLE, help="path of an engine, or name of a bundled style (default: %(default)s)")
    add("--out", metavar="PATH", help="file, folder or pattern (default: the current folder, see below)")
    add("--size", type=_size, metavar="PX", help="reduce to this longest side first; smaller pictures stay as they are")
    add("--strength", type=_strength, default=1.0, metavar="0..1", help="0 is the photograph, 1 the style (default: 1)")
    add("--keep-color", action="store_true", help="take only light and dark from the style, colour from the photograph")
    add(
        "--quality",
        type=_quality,
        default=DEFAULT_QUALITY,
        metavar="1..100",
        help="of JPEG, WebP and AVIF (default: %(default)s)",
    )
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    existing.add_argument("--skip-existing", action="store_true", help="leave out pictures whose output exists")
    add(
        "--device",
        choices=DEVICES,
        default="auto",
        help="cpu is ONNX Runtime, openvino OpenVINO on the CPU, cuda ONNX Runtime on an NVIDIA GPU, tensorrt the same "
        "through TensorRT and what runs a .plan (default: the fastest one that can be used here; nst-bench shows)",
    )
    add(
        "--precision",
        choices=LOWER_PRECISIONS,
        help="compute in less than the engine's precision: bf16 is twice as fast where the CPU has it, and differs by "
        "a few of 255 levels at most; int8, faster still, takes the engine NAME.int8.onnx beside it",
    )
    add("--threads", type=_threads, metavar="N", help="CPU threads (default: every core)")
    add("--no-cache", action="store_false", dest="cache", help="keep nothing compiled for the next start")
    add("--cuda-graph", action="store_true", help="run each size as a CUDA graph (plans; --static engines on cuda)")
    add("--list", action="store_true", dest="list_styles", help="list the bundled styles and exit")
    add("-v", "--verbose", action="store_true", help="say what engine and back end run, and how the engine was proven")
    add("--version", action=_VersionAction, nargs=0, dest=argparse.SUPPRESS, help="show the version and exit")
    return parser


def _size(text: str) -> int:
    return _whole_number(text, MIN_SIZE, None)


def _quality(text: str) -> int:
    return _whole_number(text, 1, 100)


def _threads(text: str) -> int:
    return _whole_number(text, 1, MAX_THREADS)


def _whole_number(text: str, least: int, most: int | None) -> int:
    expected = f"from {least} up" if most is None else f"{least}..{most}"
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least or (most is not None and number > most):
        raise argparse.ArgumentTypeError(f"{text!r} given, expected a whole number, {expected}")
    return number


def _strength(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0.0 <= number <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} given, expected a number 0..1")
    return number
