"""Building: one code path, with the real TensorRT-RTX and with a TensorRT that only keeps records."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from nst_common.errors import UsageError, UserError
from nst_deploy.errors import (
    BackendMissingError,
    BuilderMissingError,
    BuildFailedError,
    BuildNeedsGpuError,
    BuildOutOfMemoryError,
    ParserFailedError,
    RtxUnsupportedError,
)
from nst_deploy.export import engine_builder, trt_library
from nst_deploy.export.build_options import BuildOptions
from nst_deploy.export.engine import TIMING_CACHE, build_plan
from nst_deploy.export.engine_builder import EngineBuilder
from nst_deploy.export.trt_library import installed_flavors, load_builder
from nst_deploy.plan_sidecar import Profile
from nst_deploy.runtime.device_memory import Gpu
from tests.engines import CONTRACT, write_engine
from tests.nst_deploy.export.fake_builder import FakeTensorRT, install

PROFILE = Profile((1, 8, 8), (1, 32, 32), (1, 64, 64))


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    return install(monkeypatch)


@pytest.fixture
def rtx() -> EngineBuilder:
    return EngineBuilder("rtx", pytest.importorskip("tensorrt_rtx"))


@pytest.fixture
def model(tmp_path: Path) -> bytes:
    return write_engine(tmp_path / "negative.onnx").read_bytes()


def build(builder: EngineBuilder, model: bytes, options: BuildOptions | None = None, **keywords: Any) -> bytes:
    return builder.build(model, PROFILE, options or BuildOptions(), name="negative.plan", **keywords)


# --- TensorRT-RTX itself ---------------------------------------------------------------------------------------------


def test_rtx_builds_a_plan_without_a_gpu(rtx: EngineBuilder, model: bytes) -> None:
    plan = build(rtx, model)
    assert plan[:4] == b"vtrt"
    assert len(plan) > 10_000


def test_rtx_is_told_which_gpus_to_build_for(rtx: EngineBuilder) -> None:
    plans = {
        c: build(rtx, convolution(), BuildOptions(compute_capabilities=c)) for c in ((), ("7.5",), ("8.9", "12.0"))
    }
    # The header says it as a set of bits, from 7.5 upwards; what follows is compiled for them.
    assert len({plan[:48] for plan in plans.values()}) == 3


def test_rtx_building_for_this_gpu_where_none_is(rtx: EngineBuilder, model: bytes, no_gpu: None) -> None:
    with pytest.raises(BuildNeedsGpuError, match="needs a GPU to build this plan"):
        build(rtx, model, BuildOptions(compute_capabilities=("current",)))


def test_rtx_needs_a_gpu_to_strip_weights(rtx: EngineBuilder, no_gpu: None) -> None:
    with pytest.raises(BuildNeedsGpuError, match="needs a GPU"):
        build(rtx, convolution(), BuildOptions(strip_weights=True))


def test_rtx_says_which_nodes_it_cannot_parse_all_of_them(rtx: EngineBuilder) -> None:
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Bernoulli", ["x"], ["y"], name="noise"),
        helper.make_node("Odd", ["y"], ["z"], name="stranger", domain="elsewhere"),
        helper.make_node("Cast", ["z"], ["styled"], to=TensorProto.UINT8),
    ]
    with pytest.raises(ParserFailedError) as caught:
        build(rtx, engine(nodes))
    assert "node noise (Bernoulli): " in str(caught.value)
    assert "node stranger (Odd): " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no model", "cut"], ids=["empty", "text", "cut short"])
def test_rtx_is_given_what_is_no_model(rtx: EngineBuilder, model: bytes, content: bytes | str) -> None:
    with pytest.raises(ParserFailedError, match="TensorRT-RTX cannot read the ONNX model"):
        build(rtx, model[: len(model) // 2] if isinstance(content, str) else content)


def test_a_model_that_does_not_keep_the_contract(rtx: EngineBuilder) -> None:
    floats = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "h", "w", 3]) for name in ("image", "styled")
    ]
    graph = helper.make_graph([helper.make_node("Relu", ["image"], ["styled"])], "g", floats[:1], floats[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    with pytest.raises(ParserFailedError, match=r"image \(DataType.FLOAT\).* expected uint8 image and styled"):
        build(rtx, model.SerializeToString())


def test_too_little_workspace_is_said_with_the_option(rtx: EngineBuilder) -> None:
    with pytest.raises(BuildFailedError, match=r"workspace limit.* Give it more with --workspace"):
        build(rtx, convolution(), BuildOptions(workspace_bytes=1))


def test_rtx_has_no_timing_cache(rtx: EngineBuilder, model: bytes, tmp_path: Path) -> None:
    build(rtx, model, timing_cache=tmp_path / TIMING_CACHE)
    assert not (tmp_path / TIMING_CACHE).exists()


def test_a_capability_that_this_release_does_not_know(tensorrt: FakeTensorRT, model: bytes) -> None:
    with pytest.raises(BuildFailedError, match=r"release 10\.13\.3\.9 does not build for compute capability 12\.1"):
        build(EngineBuilder("rtx", tensorrt), model, BuildOptions(compute_capabilities=("12.1",)))


# --- TensorRT, its words kept ----------------------------------------------------------------------------------------


def test_tensorrt_gets_the_options(tensorrt: FakeTensorRT, model: bytes) -> None:
    plain, full = (
        BuildOptions(),
        BuildOptions(workspace_bytes=1 << 30, optimization_level=0, portable=True, strip_weights=True),
    )
    for options in (plain, full):
        build(EngineBuilder("tensorrt", tensorrt), model, options)
    asked, told = tensorrt.built
    strongly_typed = 1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert asked["network"] == told["network"] == strongly_typed
    assert asked["profiles"] == [((1, 8, 8, 3), (1, 32, 32, 3), (1, 64, 64, 3))]
    assert (asked["flags"], asked["pools"], asked["level"], asked["compatibility"]) == ([], {}, 3, "NONE")
    assert told["flags"] == ["REFIT_IDENTICAL", "STRIP_PLAN", "VERSION_COMPATIBLE"]
    assert (told["pools"], told["level"], told["compatibility"]) == ({"WORKSPACE": 1 << 30}, 0, "AMPERE_PLUS")


def test_kernel_times_are_kept_beside_the_plans(tensorrt: FakeTensorRT, model: bytes, tmp_path: Path) -> None:
    cache, builder = tmp_path / TIMING_CACHE, EngineBuilder("tensorrt", tensorrt)
    build(builder, model, timing_cache=cache)
    assert cache.read_bytes() == b"+times"
    tensorrt.known_times = b"+times"
    build(builder, model, timing_cache=cache)
    assert cache.read_bytes() == b"+times+times"
    for content in (b"damaged", b"of another GPU"):
        cache.write_bytes(content)
        build(builder, model, timing_cache=cache)
        assert tensorrt.built[-1]["times"] == ""
    assert cache.read_bytes() == b"+times"
    cache.unlink()
    cache.mkdir()  # nor can it be written
    assert build(builder, model, timing_cache=cache)


def test_a_parsers_errors_are_shown_whole(tensorrt: FakeTensorRT, model: bytes) -> None:
    tensorrt.parser_errors = [("Conv_3", "Conv", "kernel is\n  odd"), ("", "Pad", "no mode"), ("", "", "no graph")]
    with pytest.raises(ParserFailedError) as caught:
        build(EngineBuilder("tensorrt", tensorrt), model)
    assert "node Conv_3 (Conv): kernel is odd; node 7 (Pad): no mode; no graph" in str(caught.value)


@pytest.mark.parametrize(
    ("message", "error", "says"),
    [
        (
            "Error Code 2: OutOfMemory (no further information)",
            BuildOutOfMemoryError,
            "2.00 of 8.00 GiB of the GPU are",
        ),
        ("Could not find any implementation for node x due to insufficient workspace", BuildFailedError, "--workspace"),
        ("Error Code 10: Internal Error", BuildFailedError, "Please report it"),
    ],
)
def test_a_failed_build(
    tensorrt: FakeTensorRT,
    model: bytes,
    monkeypatch: pytest.MonkeyPatch,
    message: str,
    error: type[UserError],
    says: str,
) -> None:
    monkeypatch.setattr(engine_builder, "free_memory", lambda: (2 << 30, 8 << 30))
    tensorrt.errors = ["first\nreason", message, message]
    with pytest.raises(error) as caught:
        build(EngineBuilder("tensorrt", tensorrt), model)
    assert str(caught.value).count(message) == 1
    assert "first reason; " in str(caught.value)
    assert says in str(caught.value)


def test_tensorrt_without_a_gpu(tensorrt: FakeTensorRT, model: bytes, no_gpu: None) -> None:
    tensorrt.no_gpu = "pybind11::init(): factory function returned nullptr: CUDA initialization failure with error: 100"
    with pytest.raises(BuildNeedsGpuError, match="--trt-flavor rtx"):
        build(EngineBuilder("tensorrt", tensorrt), model)


def test_ctrl_c_stops_the_build_at_its_next_step(tensorrt: FakeTensorRT, model: bytes) -> None:
    steps = []

    def step() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)
        steps.append(threading.current_thread().name)

    tensorrt.before_step = step
    # A suite that a shell started in the background inherits a SIGINT that is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            build(EngineBuilder("tensorrt", tensorrt), model)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(steps) == 1
    assert not [thread for thread in threading.enumerate() if thread.name == steps[0]]


def test_a_build_shows_how_far_it_is(tensorrt: FakeTensorRT, model: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    build(EngineBuilder("tensorrt", tensorrt), model)
    assert "3/3 steps of negative.plan" in capsys.readouterr().err


# --- the plan and what is said of it ---------------------------------------------------------------------------------


class Driver:
    """A GPU that is here, as far as the sidecar knows of it."""

    gpu = Gpu("NVIDIA L4", (8, 9), (13, 0))


def test_a_sidecar_says_what_was_built(rtx: EngineBuilder, model: bytes, tmp_path: Path, no_gpu: None) -> None:
    plan = build_plan(model, CONTRACT, rtx, BuildOptions(max_size=(64, 64)), tmp_path)
    sidecar = plan.sidecar
    assert plan.name == "negative.rtx.plan"
    assert (sidecar.flavor, sidecar.library_version, sidecar.gpu_name) == ("rtx", rtx.trt.__version__, None)
    assert sidecar.profile == Profile((1, 8, 8), (1, 64, 64), (1, 64, 64))
    assert {"8.0", "8.6", "8.9", "12.0"} <= set(sidecar.compute_capabilities)
    assert "7.5" not in sidecar.compute_capabilities
    assert (sidecar.portable, sidecar.weights_stripped) == (False, False)
    turing = build_plan(convolution(), CONTRACT, rtx, BuildOptions(compute_capabilities=("7.5",)), tmp_path)
    assert turing.sidecar.compute_capabilities == ("7.5",)


def test_a_sidecar_of_a_machine_with_a_gpu(
    tensorrt: FakeTensorRT, model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nst_deploy.export.engine.find_gpu", Driver)
    options = BuildOptions(portable=True, strip_weights=True)
    plan = build_plan(model, CONTRACT, EngineBuilder("tensorrt", tensorrt), options, tmp_path)
    assert plan.name == "negative.plan"
    assert json.loads(plan.content[4:])["compatibility"] == "AMPERE_PLUS"
    sidecar = plan.sidecar
    assert (sidecar.flavor, sidecar.gpu_name, sidecar.compute_capabilities) == ("tensorrt", "NVIDIA L4", ())
    assert sidecar.portable
    assert sidecar.weights_stripped
    options = BuildOptions(compute_capabilities=("current",))
    here = build_plan(model, CONTRACT, EngineBuilder("rtx", tensorrt), options, tmp_path)
    assert json.loads(here.content[4:])["capabilities"] == ["CURRENT"]
    assert here.sidecar.compute_capabilities == ("8.9",)


@pytest.mark.parametrize("capability", [(9, 0), (10, 0)])
def test_rtx_builds_nothing_for_a_gpu_here_on_which_it_would_not_run(
    rtx: EngineBuilder, model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]
) -> None:
    class Unsupported(Driver):
        gpu = Gpu("NVIDIA H100", capability, (13, 0))

    monkeypatch.setattr("nst_deploy.export.engine.find_gpu", Unsupported)
    monkeypatch.setattr(rtx, "build", lambda *_, **__: pytest.fail("it has been built"))
    here = r"negative\.rtx\.plan for --compute-capability current cannot run on NVIDIA H100: .* 8\.9, .*, not \d+\.0\. "
    with pytest.raises(RtxUnsupportedError, match=here) as caught:
        build_plan(model, CONTRACT, rtx, BuildOptions(compute_capabilities=("current",)), tmp_path)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    monkeypatch.setattr("nst_deploy.export.engine.find_gpu", Unsupported)
    elsewhere = build_plan(model, CONTRACT, rtx, BuildOptions(compute_capabilities=("8.9",)), tmp_path)
    assert elsewhere.sidecar.compute_capabilities == ("8.9",)  # a plan for other machines is none of this one's affair


# --- which library ---------------------------------------------------------------------------------------------------


def test_tensorrt_comes_before_rtx(tensorrt: FakeTensorRT) -> None:
    pytest.importorskip("tensorrt_rtx")
    assert installed_flavors() == ("tensorrt", "rtx")
    assert load_builder(None) == ("tensorrt", tensorrt)
    assert load_builder("rtx")[1].__name__ == "tensorrt_rtx"


def test_no_builder_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_library, "find_spec", lambda _: None)
    with pytest.raises(BuilderMissingError, match=r"pip install 'nst\[rtx\]'.*pip install 'nst\[tensorrt\]'"):
        load_builder(None)


def test_the_one_asked_for_is_not_installed() -> None:
    if "tensorrt" in installed_flavors():
        pytest.skip("tensorrt is installed")
    with pytest.raises(BackendMissingError, match=r"pip install 'nst\[tensorrt\]'"):
        load_builder("tensorrt")


def test_options_of_the_other_flavor_are_refused_here_too(rtx: EngineBuilder, model: bytes) -> None:
    with pytest.raises(UsageError, match="--portable"):
        build(rtx, model, BuildOptions(portable=True))


def engine(nodes: list[onnx.NodeProto], initializers: tuple[onnx.TensorProto, ...] = ()) -> bytes:
    shape = ["n", "h", "w", 3]
    values = [helper.make_tensor_value_info(name, TensorProto.UINT8, shape) for name in ("image", "styled")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], list(initializers))
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("elsewhere", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def convolution() -> bytes:
    """An engine whose only layer has weights, and needs room to work."""
    weights = np.random.default_rng(1).normal(size=(3, 3, 9, 9)).astype(np.float16)
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT16),
        helper.make_node("Transpose", ["x"], ["y"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["y", "w"], ["z"], pads=[4, 4, 4, 4]),
        helper.make_node("Transpose", ["z"], ["t"], perm=[0, 2, 3, 1]),
        helper.make_node("Cast", ["t"], ["styled"], to=TensorProto.UINT8),
    ]
    return engine(nodes, (onnx.numpy_helper.from_array(weights, "w"),))
