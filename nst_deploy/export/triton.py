"""A checkpoint as a model repository of Triton Inference Server: all of its models, or nothing."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nst_common.atomic_file import CannotWriteError, atomic_write, prepare_folder
from nst_common.errors import UsageError
from nst_deploy.contract import DEFAULT_PRECISIONS, Precision
from nst_deploy.errors import ModelExistsError, NotAModelError, PlanNotServableError, WrongCheckpointError
from nst_deploy.export.exporter import ExportedFile, export
from nst_deploy.export.formats import DEFAULT_FORMATS, Format
from nst_deploy.export.parity import PHOTOGRAPHS
from nst_deploy.images import load_picture
from nst_deploy.plan_sidecar import PlanSidecar, read_plan, read_sidecar, sidecar_path, write_sidecar
from nst_deploy.triton import TritonOptions, WarmupFrame, onnx_config, plan_config
from nst_train.checkpoints import load_checkpoint

CONFIG = "config.pbtxt"
WARMUP_FOLDER = "warmup"  # the names that Triton looks for, also those of the engines
ONNX_FILE, PLAN_FILE = "model.onnx", "model.plan"
VERSION = "1"
WARMUP_PICTURE = PHOTOGRAPHS / "rocket.jpg"


@dataclass(frozen=True)
class RepositoryReport:
    """What an export put into a repository.

    Attributes:
        files: the engines that were made, where they lie in the repository; a plan has its sidecar beside it.
        models: their folders.
    """

    files: tuple[ExportedFile, ...]
    models: tuple[Path, ...]


def export_repository(
    ckpt: str | Path,
    out: str | Path,
    *,
    options: TritonOptions | None = None,
    formats: Sequence[Format] = DEFAULT_FORMATS,
    precisions: Sequence[Precision] = DEFAULT_PRECISIONS,
    plan: str | Path | None = None,
    overwrite: bool = False,
    static_size: tuple[int, int] | None = None,
    **export_options: Any,
) -> RepositoryReport:
    """Exports a checkpoint into a model repository, as models that need no further editing.

    ``STYLE`` runs the FP32 engine on ONNX Runtime, ``STYLE_fp16`` the FP16 one, ``STYLE_trt`` a plan on TensorRT. They
    are made beside the repository and renamed into it at the end: other styles in it are not touched, and a server
    that watches it never sees half a model.

    Args:
        out: the repository, created if need be.
        options: how the models are served; None for the defaults.
        formats: ``plan`` builds one with TensorRT.
        plan: in place of that, a TensorRT plan of the same checkpoint, with its sidecar beside it.
        overwrite: replace models of these names; without it they are an error.
        static_size, export_options: of nst_deploy.export.export; the latter are verify, verify_images, norm_precision
            and build.

    Raises:
        ModelExistsError, NotAModelError: a name is taken.
        PlanNotServableError, WrongCheckpointError: the plan; and everything that reading it raises.
        UsageError, CannotWriteError; everything that nst_deploy.export.export raises.
    """
    ckpt, out, options = Path(ckpt), Path(out), options or TritonOptions()
    _check_warmup_size(options.warmup_size, static_size)
    checkpoint = load_checkpoint(ckpt)
    if options.kind == "cpu" and (plan is not None or "plan" in formats):
        raise UsageError("--triton-kind is cpu, but plans run on GPUs alone", "Leave one of the two away")
    if plan is not None:
        _check_plan(Path(plan), read_sidecar(Path(plan)), ckpt, checkpoint.sha256)
    names = [_onnx_name(checkpoint.style, precision) for precision in precisions if "onnx" in formats]
    names += [f"{checkpoint.style}_trt"] if plan is not None or "plan" in formats else []
    for name in names:
        _check_place(out / name, overwrite=overwrite)
    with _staging(out) as staging:
        report = export(
            ckpt,
            staging / "engines",
            formats=formats,
            precisions=precisions,
            flavor="tensorrt",
            static_size=static_size,
            **export_options,
        )
        files = [*report.files, *([_copy_plan(Path(plan), staging / "engines")] if plan is not None else [])]
        models = [staging / "models" / name for name in names]
        written = [_write_model(model, file, options) for model, file in zip(models, files, strict=True)]
        _publish(models, out, staging, overwrite=overwrite)
        placed = [replace(file, path=out / file.path.relative_to(staging / "models")) for file in written]
    return RepositoryReport(tuple(placed[: len(report.files)]), tuple(out / name for name in names))


def _onnx_name(style: str, precision: Precision) -> str:
    return style if precision == "fp32" else f"{style}_{precision}"


def _check_plan(plan: Path, sidecar: PlanSidecar, ckpt: Path, checkpoint_sha256: str) -> None:
    """Whether Triton's TensorRT back end can load it, and it is of this checkpoint."""
    if sidecar.contract.checkpoint_sha256 != checkpoint_sha256:
        raise WrongCheckpointError(plan, ckpt)
    if sidecar.flavor != "tensorrt":
        remedy = "Build it with --trt-flavor tensorrt, or serve the ONNX engine"
        raise PlanNotServableError(plan, "it was built by TensorRT-RTX, and the back end is TensorRT", remedy)
    if sidecar.weights_stripped:
        raise PlanNotServableError(plan, "it holds no weights", "Build it without --strip-weights")
    if sidecar.profile.min[0] > 1:
        least = sidecar.profile.min[0]
        raise PlanNotServableError(plan, f"it takes no fewer than {least} pictures", "Build it for 1 and more")


def _copy_plan(plan: Path, folder: Path) -> ExportedFile:
    """The plan and its sidecar, in ``folder``."""
    content, sidecar = read_plan(plan)
    copy = folder / plan.name
    with atomic_write(copy) as partial:
        partial.write_bytes(content)
    write_sidecar(copy, sidecar)
    return ExportedFile(copy, sidecar.contract, None, plan=sidecar)


def _check_place(model: Path, *, overwrite: bool) -> None:
    """A name that is free, or taken by a model that may be replaced."""
    if not os.path.lexists(model):
        return
    if not (model / CONFIG).is_file():
        raise NotAModelError(model)
    if not overwrite:
        raise ModelExistsError(model)


def _write_model(model: Path, file: ExportedFile, options: TritonOptions) -> ExportedFile:
    """Makes the folder ``model`` and moves the engine into it; returns the file where it lies then."""
    engine = model / VERSION / (ONNX_FILE if file.plan is None else PLAN_FILE)
    engine.parent.mkdir(parents=True)
    file.path.rename(engine)
    if file.plan is None:
        frame = _write_frame(model, options.warmup_size or file.contract.static_size)
        config = onnx_config(model.name, file.contract, options, frame)
    else:
        sidecar_path(file.path).rename(sidecar_path(engine))
        frame = _write_frame(model, options.warmup_size or file.plan.profile.opt[1:])
        if not file.plan.profile.allows((1, frame.height, frame.width)):
            given = f"--triton-warmup-size is {frame.height}x{frame.width}"
            raise UsageError(f"{given}, which the plan does not take", "Choose a size of its profile")
        config = plan_config(model.name, file.plan, options, frame)
    with atomic_write(model / CONFIG) as partial:
        partial.write_text(config, encoding="utf-8")
    return replace(file, path=engine)


def _check_warmup_size(size: tuple[int, int] | None, static_size: tuple[int, int] | None) -> None:
    if size is not None and static_size is not None and size != static_size:
        given = f"--triton-warmup-size is {size[0]}x{size[1]}"
        raise UsageError(f"{given}, the engine takes {static_size[0]}x{static_size[1]} px alone", "Leave it away")


def _write_frame(model: Path, size: tuple[int, int] | None) -> WarmupFrame:
    """A photograph of the package as the raw bytes that Triton reads: uint8 ``[H, W, 3]``, RGB.

    Args:
        size: (H, W) in px; None for the photograph's own.
    """
    photograph = Image.fromarray(load_picture(WARMUP_PICTURE).rgb)
    if size is not None:
        photograph = photograph.resize((size[1], size[0]), Image.Resampling.LANCZOS)
    pixels = np.asarray(photograph)
    height, width, _ = pixels.shape
    frame = WarmupFrame(f"{WARMUP_PICTURE.stem}.{width}x{height}.rgb", height, width)
    (model / WARMUP_FOLDER).mkdir()
    with atomic_write(model / WARMUP_FOLDER / frame.file) as partial:
        partial.write_bytes(pixels.tobytes())
    return frame


@contextmanager
def _staging(repository: Path) -> Iterator[Path]:
    """A folder on the repository's file system that is gone afterwards, as is a repository that stayed empty."""
    is_new = not repository.exists()
    prepare_folder(repository)
    place = _staging_place(repository) / f".{repository.resolve().name}.{os.urandom(4).hex()}.part"
    try:
        for folder in (place, place / "models", place / "replaced"):
            folder.mkdir()
        yield place
    except OSError as cause:
        raise CannotWriteError(repository, cause) from cause
    finally:
        shutil.rmtree(place, ignore_errors=True)
        if is_new:
            with suppress(OSError):  # it holds the models
                repository.rmdir()


def _staging_place(repository: Path) -> Path:
    """Beside the repository: Triton takes every folder in it for a model, hidden ones too.

    Where the repository is a mount of its own, or the place beside it is not ours to write to, nothing but the
    repository itself can be renamed from; a server that watches it will then complain of one model that is none.
    """
    folder = repository.resolve()
    beside = folder.parent
    same_device = folder.stat().st_dev == beside.stat().st_dev
    return beside if same_device and os.access(beside, os.W_OK | os.X_OK) else folder


def _publish(models: Sequence[Path], repository: Path, staging: Path, *, overwrite: bool) -> None:
    """Renames all models into the repository; when one of them fails, those before it are taken back."""
    moved: list[tuple[Path, Path]] = []  # from, to
    try:
        for model in models:
            target = repository / model.name
            _check_place(target, overwrite=overwrite)  # again: the export took a while
            if os.path.lexists(target):
                _move(target, staging / "replaced" / model.name, moved)
            _move(model, target, moved)
    except BaseException:
        for source, target in reversed(moved):
            target.rename(source)
        raise


def _move(source: Path, target: Path, moved: list[tuple[Path, Path]]) -> None:
    source.rename(target)
    moved.append((source, target))
