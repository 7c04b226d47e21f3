"""All ways to run one style on this machine: its engines, where, and how."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nst_common.errors import UserError
from nst_deploy.contract import ModelContract, Precision
from nst_deploy.runtime.backend import GPU_VARIANTS, VARIANTS, Device, LowerPrecision, read_contract
from nst_deploy.runtime.gpu_probe import why_no_gpu
from nst_deploy.runtime.plan_checks import is_plan

Computed = Precision | Literal["bf16"]  # what a way computes in
COMPUTED: tuple[Computed, ...] = ("fp32", "fp16", "bf16", "int8")  # from the most exact to the least
GPU_DEVICES = tuple(device for device, _ in GPU_VARIANTS)
SUFFIXES = r"(\.(fp16|int8))?\.onnx|(\.rtx)?\.plan"  # what nst-export puts behind a style's name


@dataclass(frozen=True)
class Way:
    """One engine on one device.

    Attributes:
        engine: its file.
        computes: what it computes in.
        device, precision, cuda_graph: see ``open_backend``.
        is_asked: the engine is the one that was named; others are its companions.
    """

    engine: Path
    computes: Computed
    device: Device
    precision: LowerPrecision | None = None
    cuda_graph: bool = False
    is_asked: bool = True

    @property
    def on_gpu(self) -> bool:
        return self.device in GPU_DEVICES

    @property
    def flags(self) -> str:
        """For nst-infer; the engine too where it is not the one that was named."""
        engine = "" if self.is_asked else f"--engine {self.engine.name} "
        precision = f" --precision {self.precision}" if self.precision else ""
        return f"{engine}--device {self.device}{precision}{' --cuda-graph' if self.cuda_graph else ''}"

    @property
    def name(self) -> str:
        """The flags without dashes."""
        return re.sub(r"--(device |precision |engine )?", "", self.flags)


@dataclass(frozen=True)
class Ways:
    """
    Attributes:
        ways: that there are.
        reference: what pixels are compared with: the float32 engine, on the first of these that runs.
        notes: what is not among them, and why.
    """

    ways: tuple[Way, ...]
    reference: tuple[Way, ...]
    notes: tuple[str, ...] = ()


def find_ways(engine: Path, contract: ModelContract) -> Ways:
    """All that make sense here. Where there is a GPU, also what lies beside the engine for it: FP16 engines, plans."""
    has_gpu = why_no_gpu() is None
    ways = list(_ways_of(engine, contract, has_gpu=has_gpu))
    companions, notes = _companions(engine, contract)
    if has_gpu:
        for path, other in companions:
            ways += (way for way in _ways_of(path, other, has_gpu=True, is_asked=False) if way.on_gpu)
        if not any(way.on_gpu and way.computes == "fp16" for way in ways):
            notes.append(
                f"no FP16 engine or plan lies beside {engine.name}: nst-export --precision fp32,fp16 makes them"
            )
    exact = [(engine, contract, True), *((path, other, False) for path, other in companions)]
    reference = [
        Way(path, "fp32", device, is_asked=is_asked)
        for path, other, is_asked in exact
        if other.precision == "fp32" and not is_plan(path)
        for device in ("cpu", "openvino", *(("cuda",) if has_gpu else ()))
    ]
    if not reference and not is_plan(engine):  # the engine's own precision, where nothing more exact is at hand
        reference = [way for way in ways if way.device == "cpu" and way.precision is None]
    elif reference and reference[0] not in ways:
        ways.append(reference[0])
    return Ways(tuple(ways), tuple(reference), tuple(notes) if has_gpu else ())


def _ways_of(engine: Path, contract: ModelContract, *, has_gpu: bool, is_asked: bool = True) -> Iterator[Way]:
    """Of one engine. A graph is offered where it can be captured: for plans, and for ONNX engines of one size."""
    if is_plan(engine):
        for graph in (False, True) if has_gpu else (False,):
            yield Way(engine, contract.precision, "tensorrt", cuda_graph=graph, is_asked=is_asked)
        return
    for device, lower in VARIANTS:
        computes = max(lower or contract.precision, contract.precision, key=COMPUTED.index)
        yield Way(engine, computes, device, lower, is_asked=is_asked)
    for device, _ in GPU_VARIANTS if has_gpu and contract.precision != "int8" else ():
        for graph in (False,) if contract.static_size is None else (False, True):
            yield Way(engine, contract.precision, device, cuda_graph=graph, is_asked=is_asked)


def _companions(engine: Path, contract: ModelContract) -> tuple[list[tuple[Path, ModelContract]], list[str]]:
    """What else nst-export made of the same checkpoint and left beside it; and what is there, but not that."""
    style = re.sub(rf"({SUFFIXES})$", "", engine.name)
    found, notes = [], []
    for path in sorted(engine.parent.glob("*")):
        if path.name == engine.name or not re.fullmatch(re.escape(style) + f"({SUFFIXES})", path.name):
            continue
        try:
            other = read_contract(path)
        except UserError as error:
            notes.append(f"{path.name} is left out: {error}")
            continue
        if other.checkpoint_sha256 != contract.checkpoint_sha256:
            notes.append(f"{path.name} is left out: it was made from another checkpoint")
        elif other.static_size not in (None, contract.static_size):
            notes.append(f"{path.name} is left out: it is for one size only")
        else:
            found.append((path, other))
    return found, notes
