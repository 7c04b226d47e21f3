"""Checkpoint in, proven engines out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx
import torch

from nst_common import package_version
from nst_common.atomic_file import atomic_write, prepare_folder
from nst_common.errors import UsageError
from nst_deploy.contract import DEFAULT_PRECISIONS, MIN_SIZE, ModelContract, Precision
from nst_deploy.errors import WrongCheckpointError
from nst_deploy.export.build_options import MAX_SIZE, BuildOptions
from nst_deploy.export.deployable import DeployableNet
from nst_deploy.export.engine_builder import EngineBuilder
from nst_deploy.export.fold import fold
from nst_deploy.export.formats import DEFAULT_FORMATS, Format
from nst_deploy.export.fp16 import NormPrecision, emulated_run, fold_to_half
from nst_deploy.export.int8 import Site, fold_to_int8
from nst_deploy.export.onnx_export import save_onnx, set_contract, to_onnx
from nst_deploy.export.parity import ParityReport, Run, bundled_photographs
from nst_deploy.export.plan_export import PlanExport, open_plan
from nst_deploy.export.proof import open_to_prove, prove, prove_file
from nst_deploy.export.quantize import quantize
from nst_deploy.export.trt_library import load_builder
from nst_deploy.plan_sidecar import Flavor, PlanSidecar, Profile, read_sidecar, write_sidecar
from nst_deploy.runtime.backend import Backend
from nst_deploy.runtime.int8_engine import SUFFIX as INT8_SUFFIX
from nst_deploy.runtime.plan_checks import is_plan
from nst_train.checkpoints import Checkpoint, load_checkpoint

SUFFIXES: dict[Precision, str] = {"fp32": ".onnx", "fp16": ".fp16.onnx", "int8": INT8_SUFFIX}
FLOAT_BYTES = 4
# Peak memory on a CPU, in full-resolution float activations of the first layer's width, measured at 1.6, 2 and 8
# megapixels: 2.3 to 2.6 for ONNX Runtime, 4.5 for OpenVINO.
LIVE_ACTIVATIONS = 4.5


@dataclass(frozen=True)
class ExportedFile:
    """One file that an export wrote.

    Attributes:
        path: where it lies.
        contract: what it says of itself.
        report: the comparison with PyTorch; None when it was skipped, or could not be made here.
        not_run: why a plan could not be run here, and so was not compared.
        plan: the sidecar of a plan; None for an ONNX file.
    """

    path: Path
    contract: ModelContract
    report: ParityReport | None
    not_run: str | None = None
    plan: PlanSidecar | None = None


@dataclass(frozen=True)
class ExportReport:
    """What an export read and wrote."""

    checkpoint: Path
    origin: str
    files: tuple[ExportedFile, ...]


def export(
    ckpt: str | Path,
    out: str | Path = ".",
    *,
    formats: Sequence[Format] = DEFAULT_FORMATS,
    precisions: Sequence[Precision] = DEFAULT_PRECISIONS,
    norm_precision: NormPrecision = "fp16",
    static_size: tuple[int, int] | None = None,
    flavor: Flavor | None = None,
    build: BuildOptions | None = None,
    verify: bool = True,
    verify_images: Sequence[Path] | None = None,
) -> ExportReport:
    """Exports a checkpoint as self-contained engines and proves that they equal the PyTorch net.

    Args:
        ckpt: our .pth, a pytorch/examples fast_neural_style .pth, or a lengstrom/fast-style-transfer .npz.
        out: folder of the files, created if need be: ``STYLE.onnx`` for FP32, ``STYLE.fp16.onnx`` for FP16,
            ``STYLE.int8.onnx`` for INT8, ``STYLE.plan`` or ``STYLE.rtx.plan``, which are FP16.
        formats: ``onnx`` and ``plan``.
        precisions: of the ONNX files. A plan without weights brings its FP16 ONNX file along.
        norm_precision: of the instance norms in an FP16 engine: see fold_to_half.
        static_size: (H, W) in px for an engine that takes only this size; None for any size from 8 px.
        flavor: of the plan; None takes the library that is installed, TensorRT before TensorRT-RTX.
        build: how the plan is built.
        verify: compare every engine with PyTorch, uint8 to uint8, before its file appears. A plan that cannot run here
            is kept all the same, without figures, once its graph is proven as a GPU would run it.
        verify_images: photographs for it; None for the two that the package carries.

    Raises:
        CheckpointNotFoundError, CheckpointUnreadableError, CheckpointMismatchError: see nst_train.checkpoints.
        ParityError: an engine differs by more than its precision allows; its file is not written.
        BuilderMissingError, BackendMissingError, BackendBrokenError: nothing here builds the plan.
        ParserFailedError, BuildFailedError, BuildNeedsGpuError, BuildOutOfMemoryError: the plan.
        ExportFailedError, CannotWriteError, UsageError.
    """
    checkpoint, files = begin_export(
        ckpt,
        out,
        formats=formats,
        precisions=precisions,
        norm_precision=norm_precision,
        static_size=static_size,
        flavor=flavor,
        build=build,
        verify=verify,
        verify_images=verify_images,
    )
    return ExportReport(Path(ckpt), checkpoint.origin, tuple(files))


def begin_export(
    ckpt: str | Path,
    out: str | Path,
    *,
    formats: Sequence[Format],
    precisions: Sequence[Precision],
    norm_precision: NormPrecision,
    static_size: tuple[int, int] | None,
    flavor: Flavor | None,
    build: BuildOptions | None,
    verify: bool,
    verify_images: Sequence[Path] | None,
) -> tuple[Checkpoint, Iterator[ExportedFile]]:
    """``export`` file by file: what can be refused is refused at once, each file is made when it is asked for."""
    ckpt, out = Path(ckpt), Path(out)
    _check_static_size(static_size)
    plans = _plan_export(out, formats, flavor, build, static_size)
    checkpoint = load_checkpoint(ckpt)
    prepare_folder(out)
    wanted = list(precisions) if "onnx" in formats else []
    if plans is not None and plans.options.strip_weights and "fp16" not in wanted:
        wanted.append("fp16")  # the plan's weights are read from there

    def files() -> Iterator[ExportedFile]:
        for precision in wanted:
            graph = _graph(checkpoint, precision, norm_precision)
            yield _export_onnx(checkpoint, out, graph, static_size, verify=verify, images=verify_images)
        if plans is not None:
            graph = _graph(checkpoint, "fp16", norm_precision)
            proven = "fp16" in wanted  # the same graph, as an ONNX file
            yield _export_plan(
                checkpoint, plans, graph, static_size, verify=verify, proven=proven, images=verify_images
            )

    return checkpoint, files()


def verify_engine(engine: str | Path, ckpt: str | Path, images: Sequence[Path] | None = None) -> ExportedFile:
    """Measures an existing engine against its checkpoint and records the figures in its metadata, or a plan's sidecar.

    Raises:
        WrongCheckpointError: the engine was made from another checkpoint.
        ParityError: beyond its precision's limit; the file stays as it was.
        Everything that loading the two files raises.
    """
    engine, checkpoint = Path(engine), load_checkpoint(Path(ckpt))
    sidecar = read_sidecar(engine) if is_plan(engine) else None
    if sidecar is not None:
        _check_checkpoint(engine, sidecar.contract, Path(ckpt), checkpoint)  # also where the plan cannot be opened
    backend = open_plan(engine) if sidecar else open_to_prove(engine)
    try:
        contract = backend.contract
        _check_checkpoint(engine, contract, Path(ckpt), checkpoint)
        profile = sidecar.profile if sidecar else None
        report = prove(checkpoint, backend.run, contract, images, name=backend.name, profile=profile)
    finally:
        backend.close()
    contract = replace(contract, parity=report.parity)
    if sidecar is not None:
        sidecar = replace(sidecar, contract=contract)
        write_sidecar(engine, sidecar)
    else:
        model = onnx.load_model(str(engine))
        set_contract(model, contract)
        save_onnx(model, engine)
    return ExportedFile(engine, contract, report, plan=sidecar)


def _check_checkpoint(engine: Path, contract: ModelContract, ckpt: Path, checkpoint: Checkpoint) -> None:
    if contract.checkpoint_sha256 != checkpoint.sha256:
        raise WrongCheckpointError(engine, ckpt)


@dataclass(frozen=True)
class _Graph:
    """What one precision makes of a checkpoint.

    Attributes:
        emulated: how a GPU would run it, where no CPU kernel does so; None where the CPU's own kernels tell.
        sites: how convolutions are quantised, by the names of their weights.
    """

    precision: Precision
    deployable: DeployableNet
    norm_scales: tuple[float, ...] = ()
    emulated: Run | None = None
    sites: Mapping[str, Site] = field(default_factory=dict)


def _graph(checkpoint: Checkpoint, precision: Precision, norm_precision: NormPrecision) -> _Graph:
    net = checkpoint.build()
    if precision == "fp32":
        return _Graph(precision, DeployableNet(fold(net, rounded=True)))
    if precision == "int8":
        folded, sites = fold_to_int8(net, bundled_photographs())
        deployable = DeployableNet(folded)
        return _Graph(precision, deployable, sites={f"net.{name}": site for name, site in sites.items()})
    half, scales = fold_to_half(net, bundled_photographs(), norm_precision)
    return _Graph(precision, DeployableNet(half, torch.float16), scales, emulated_run(half))


def _export_onnx(
    checkpoint: Checkpoint,
    out: Path,
    graph: _Graph,
    static_size: tuple[int, int] | None,
    *,
    verify: bool,
    images: Sequence[Path] | None,
) -> ExportedFile:
    contract = _contract(checkpoint, graph, static_size)
    model = to_onnx(graph.deployable, contract)
    quantize(model, graph.sites)
    report = None
    path = out / f"{checkpoint.style}{SUFFIXES[graph.precision]}"
    # The engine is proven under a temporary name, as the bytes that users get, and appears only afterwards.
    with atomic_write(path) as unproven:
        onnx.save_model(model, str(unproven))
        if verify:
            if graph.emulated is not None:
                prove(checkpoint, graph.emulated, contract, images)
            report = prove_file(checkpoint, unproven, images)
            contract = replace(contract, parity=report.parity)
            set_contract(model, contract)
            onnx.save_model(model, str(unproven))
    return ExportedFile(path, contract, report)


def _contract(checkpoint: Checkpoint, graph: _Graph, static_size: tuple[int, int] | None) -> ModelContract:
    return ModelContract(
        style=checkpoint.style,
        precision=graph.precision,
        checkpoint_sha256=checkpoint.sha256,
        package_version=package_version(),
        working_bytes_per_pixel=round(LIVE_ACTIVATIONS * FLOAT_BYTES * checkpoint.config.widths[0]),
        static_size=static_size,
        norm_scales=graph.norm_scales,
    )


def _plan_export(
    out: Path,
    formats: Sequence[Format],
    flavor: Flavor | None,
    build: BuildOptions | None,
    static_size: tuple[int, int] | None,
) -> PlanExport | None:
    """What builds the plan, where one is wanted, found before any work is done."""
    if "plan" not in formats:
        return None
    options = build or BuildOptions()
    options.profile(static_size)
    if flavor is not None:
        options.check_flavor(flavor)  # a contradiction is one whatever is installed
    builder = EngineBuilder(*load_builder(flavor))
    options.check_flavor(builder.flavor)
    return PlanExport(builder, options, out)


def _export_plan(
    checkpoint: Checkpoint,
    plans: PlanExport,
    graph: _Graph,
    static_size: tuple[int, int] | None,
    *,
    verify: bool,
    proven: bool,
    images: Sequence[Path] | None,
) -> ExportedFile:
    contract = _contract(checkpoint, graph, static_size)
    model = to_onnx(graph.deployable, contract).SerializeToString()

    def measure(backend: Backend, profile: Profile) -> ParityReport:
        return prove(checkpoint, backend.run, contract, images, name=backend.name, profile=profile)

    plan = plans.build(model, contract)
    report, not_run = plans.measure(plan, model, measure) if verify else (None, None)
    if not_run is not None and not proven and graph.emulated is not None:
        prove(checkpoint, graph.emulated, contract, images)
    path, sidecar = plans.write(plan, report)
    return ExportedFile(path, sidecar.contract, report, not_run, sidecar)


def _check_static_size(size: tuple[int, int] | None) -> None:
    if size is not None and not all(MIN_SIZE <= side <= MAX_SIZE for side in size):
        expected = f"HxW of {MIN_SIZE}..{MAX_SIZE} px"
        raise UsageError(f"The static size is {size[0]}x{size[1]}, expected {expected}", "Choose another")
