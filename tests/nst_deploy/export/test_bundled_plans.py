"""Plans of every bundled style, really built by TensorRT-RTX: on a CPU, since that needs no GPU.

Tracing a net takes longer than building its plan. Nets of one shape have the same graph, so each shape is traced once
and the other styles' weights are put into it; that such a graph is the style's own is proven by running it.
"""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from nst_deploy.contract import ModelContract
from nst_deploy.errors import GpuUnavailableError, PlanMismatchError
from nst_deploy.export import exporter
from nst_deploy.export.build_options import BuildOptions
from nst_deploy.export.deployable import DeployableNet
from nst_deploy.export.engine import BuiltPlan
from nst_deploy.export.engine_builder import EngineBuilder
from nst_deploy.export.fp16 import fold_to_half
from nst_deploy.export.onnx_export import set_contract, to_onnx
from nst_deploy.export.parity import bundled_photographs
from nst_deploy.export.plan_export import PlanExport
from nst_deploy.export.proof import reference_run
from nst_deploy.plan_sidecar import read_plan, write_plan
from nst_deploy.runtime.backend import open_backend
from nst_deploy.runtime.ort import OrtBackend
from nst_train.checkpoints import load_checkpoint

STYLES = sorted((Path(__file__).parents[3] / "engines").glob("*.pth"))
STATIC = (64, 96)
STRIPPED_SIZE = 2_000_000  # bytes; less than any plan with its weights


class Engine(NamedTuple):
    """An FP16 engine and what it was made from."""

    model: onnx.ModelProto
    contract: ModelContract
    net: nn.Module


class Tracer:
    """FP16 engines; each shape of net is traced once."""

    def __init__(self) -> None:
        self._graphs: dict[object, onnx.ModelProto] = {}
        self._photo = np.ascontiguousarray(bundled_photographs()[0][100:196, 100:228])

    def engine(self, ckpt: Path, static: tuple[int, int] | None = None) -> Engine:
        checkpoint = load_checkpoint(ckpt)
        net = checkpoint.build()
        half, scales = fold_to_half(net, [self._photo])
        deployable = DeployableNet(half, torch.float16)
        graph = exporter._Graph("fp16", deployable, scales)
        contract = exporter._contract(checkpoint, graph, static)
        key = (checkpoint.config, static)
        if key not in self._graphs:
            self._graphs[key] = to_onnx(deployable, contract)
        model = onnx.ModelProto()
        model.CopyFrom(self._graphs[key])
        put_weights(model, deployable)
        set_contract(model, contract)
        return Engine(model, contract, net)


def put_weights(model: onnx.ModelProto, deployable: DeployableNet) -> None:
    state = dict(deployable.named_parameters())
    placed = 0
    for initializer in model.graph.initializer:
        if initializer.name in state:
            array = state[initializer.name].detach().numpy()
            initializer.CopyFrom(numpy_helper.from_array(array, initializer.name))
            placed += 1
    assert placed == len(state)
    norms = {name: module for name, module in deployable.named_modules() if isinstance(module, nn.InstanceNorm2d)}
    for node in model.graph.node:
        if node.op_type == "InstanceNormalization":
            (epsilon,) = [attribute for attribute in node.attribute if attribute.name == "epsilon"]
            epsilon.f = norms[node.input[1].removesuffix(".weight")].eps


@pytest.fixture(scope="module")
def tracer() -> Tracer:
    return Tracer()


@pytest.fixture(scope="module")
def builder() -> EngineBuilder:
    return EngineBuilder("rtx", pytest.importorskip("tensorrt_rtx"))


def build(builder: EngineBuilder, engine: Engine, folder: Path, options: BuildOptions | None = None) -> BuiltPlan:
    return PlanExport(builder, options or BuildOptions(), folder).build(
        engine.model.SerializeToString(), engine.contract
    )


def test_there_are_styles_of_both_widths() -> None:
    assert {path.stem.endswith("_half") for path in STYLES} == {True, False}


@pytest.mark.parametrize("ckpt", STYLES, ids=lambda path: path.stem)
def test_a_plan_of_every_style(ckpt: Path, tracer: Tracer, builder: EngineBuilder, tmp_path: Path) -> None:
    engine = tracer.engine(ckpt)
    plan = build(builder, engine, tmp_path)
    path = tmp_path / plan.name
    write_plan(path, plan.content, plan.sidecar)
    assert path.name == f"{ckpt.stem}.rtx.plan"
    content, sidecar = read_plan(path)
    assert content[:4] == b"vtrt"
    assert STRIPPED_SIZE < len(content) < 20_000_000
    assert sidecar == plan.sidecar
    assert sidecar.contract == engine.contract
    assert (sidecar.contract.precision, sidecar.contract.static_size) == ("fp16", None)
    assert sidecar.flavor == "rtx"
    assert sidecar.build_seconds > 0
    path.write_bytes(content[:-1])
    with pytest.raises(PlanMismatchError):
        read_plan(path)


@pytest.mark.parametrize("name", ["la_muse", "la_muse_half"])
def test_a_plan_of_one_size(name: str, tracer: Tracer, builder: EngineBuilder, tmp_path: Path, no_gpu: None) -> None:
    engine = tracer.engine(_style(name), STATIC)
    plan = build(builder, engine, tmp_path, BuildOptions(max_batch=2))
    profile = plan.sidecar.profile
    assert (profile.min, profile.opt, profile.max) == ((1, *STATIC), (2, *STATIC), (2, *STATIC))
    path = tmp_path / plan.name
    write_plan(path, plan.content, plan.sidecar)
    for device in ("auto", "tensorrt"):
        with pytest.raises(GpuUnavailableError) as caught:
            open_backend(path, device)
        assert "\n" not in str(caught.value)


def test_the_weights_put_into_a_traced_graph_are_the_styles_own(tracer: Tracer, tmp_path: Path) -> None:
    tracer.engine(_style("la_muse_half"))
    engine = tracer.engine(_style("starry_night_half"))
    onnx.save_model(engine.model, tmp_path / "engine.onnx")
    backend = OrtBackend(tmp_path / "engine.onnx")
    image = np.ascontiguousarray(bundled_photographs()[1][None, 50:115, 60:131])
    difference = np.abs(backend.run(image).astype(int) - reference_run(engine.net)(image))
    backend.close()
    assert difference.max() <= 3


def test_two_builds_of_one_engine_are_the_same_but_for_a_few_bytes(
    tracer: Tracer, builder: EngineBuilder, tmp_path: Path
) -> None:
    engine = tracer.engine(_style("la_muse_half"))
    first, second = (np.frombuffer(build(builder, engine, tmp_path).content, np.uint8) for _ in range(2))
    assert first.size == second.size
    # Some numbers in it depend on the order in which its threads end: 0 or 42 of 7.7 million bytes were seen to.
    assert (first != second).mean() < 1e-3


def test_the_plans_of_two_styles_differ_in_their_weights(
    tracer: Tracer, builder: EngineBuilder, tmp_path: Path
) -> None:
    plans = [build(builder, tracer.engine(_style(name)), tmp_path) for name in ("la_muse_half", "starry_night_half")]
    one, other = (np.frombuffer(plan.content, np.uint8) for plan in plans)
    count = min(one.size, other.size)
    parameters = sum(p.numel() for p in tracer.engine(_style("la_muse_half")).net.parameters())
    assert (one[:count] != other[:count]).sum() > parameters / 2
    assert replace(plans[0].sidecar, contract=plans[1].sidecar.contract).profile == plans[1].sidecar.profile


def _style(name: str) -> Path:
    return next(path for path in STYLES if path.stem == name)


def test_turing_must_be_asked_for(tracer: Tracer, builder: EngineBuilder, tmp_path: Path) -> None:
    options = BuildOptions(compute_capabilities=("7.5",))
    plan = build(builder, tracer.engine(_style("la_muse_half")), tmp_path, options)
    assert plan.sidecar.compute_capabilities == ("7.5",)
