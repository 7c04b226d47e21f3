"""Every name of NVIDIA's and ONNX Runtime's Python packages that the runtime uses is there, as it is used."""

import ast
import re
from pathlib import Path

import pytest

from tests.nst_deploy.runtime.cuda_simulator import FakeRuntime, Simulator
from tests.nst_deploy.runtime.fake_tensorrt import FakeLibrary

RUNTIME = Path(__file__).parents[3] / "nst_deploy" / "runtime"


def chains(file: str, root: str) -> set[str]:
    """``a.b`` of every ``root.a.b`` in a file, the longest that is written."""
    found = set()
    for node in ast.walk(ast.parse((RUNTIME / file).read_text())):
        names: list[str] = []
        left: ast.AST = node
        while isinstance(left, ast.Attribute):
            names.insert(0, left.attr)
            left = left.value
        if isinstance(left, ast.Name) and names:
            found.add(".".join([left.id, *names]))
    return {name.removeprefix(root + ".") for name in found if name.startswith(root + ".")}


def has(module: object, dotted: str) -> bool:
    for name in dotted.split("."):
        if not hasattr(module, name):
            return False
        module = getattr(module, name)
    return True


def test_cuda_bindings() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    used = chains("cuda_bindings.py", "self._rt") | {
        f"{kind}.{name}"
        for local, kind in (("codes", "cudaError_t"), ("attributes", "cudaDeviceAttr"))
        for name in chains("cuda_bindings.py", local)
    }
    assert len(used) > 35
    assert {name for name in used if not has(runtime, name)} == set()


def test_cuda_bindings_take_as_many_arguments_as_they_are_given() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    checked = 0
    for node in ast.walk(ast.parse((RUNTIME / "cuda_bindings.py").read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr.startswith("cuda"):
            name = node.func.attr
            signature = getattr(runtime, name).__doc__.strip().split("\n")[0]
            parameters = re.search(r"\((.*)\)", signature)
            assert parameters, signature
            count = len([part for part in parameters[1].split(",") if part.strip()])
            assert count == len(node.args), f"{signature} given {len(node.args)}"
            checked += 1
    assert checked > 30


def test_the_simulated_gpu_answers_as_the_real_package_does() -> None:
    """Without a driver every real function answers its error and as many values as it would with one."""
    runtime = pytest.importorskip("cuda.bindings.runtime")
    simulator = Simulator()
    fake = FakeRuntime(simulator)
    for name in ("cudaGetDevice", "cudaGetDeviceCount", "cudaDriverGetVersion", "cudaMemGetInfo", "cudaEventCreate"):
        assert len(getattr(runtime, name)()) == len(getattr(fake, name)())
    assert len(runtime.cudaMalloc(8)) == len(fake.cudaMalloc(8))
    assert len(runtime.cudaMallocHost(8)) == len(fake.cudaMallocHost(8))


CLASSES = ("Runtime", "ICudaEngine", "IExecutionContext", "Refitter", "OnnxParserRefitter", "ParserError")
OBJECTS = {  # as trt.py, trt_context.py and plan_session.py call them
    "runtime": ("Runtime",),
    "engine": ("ICudaEngine",),
    "self._engine": ("ICudaEngine",),
    "context": ("IExecutionContext",),
    "prepared.context": ("IExecutionContext",),
    "refitter": ("Refitter",),
    "parser": ("OnnxParserRefitter",),
    "config": ("IRuntimeConfig",),
    "self._cache": ("IRuntimeCache",),
}


@pytest.mark.parametrize("file", ["trt.py", "trt_context.py", "plan_session.py"])
def test_tensorrt_rtx(file: str) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    used = {name for name in chains(file, "trt") if not name.startswith("ILogger")}
    for variable, classes in OBJECTS.items():
        used |= {f"{owner}.{name}" for owner in classes for name in chains(file, variable)}
    missing = {name for name in used if not has(trt, name)}
    assert missing <= {"__version__"}
    assert file == "plan_session.py" or used


def test_the_logger_is_one_of_the_librarys() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    from nst_deploy.runtime.trt import new_logger

    logger = new_logger(trt)
    assert isinstance(logger, trt.ILogger)
    logger.log(trt.ILogger.Severity.WARNING, "not serious")
    assert logger.last == ""
    trt.Runtime(logger).deserialize_cuda_engine(b"no plan")  # the real library complains, through our logger
    assert logger.last


def test_the_fake_library_has_no_names_of_its_own() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    fake = FakeLibrary(Simulator(), "rtx")
    ours = {"simulator", "flavor", "fail", "made", "strategies", "cache"}
    public = {name for name in dir(fake) if not name.startswith("_")} - ours
    assert {name for name in public if not hasattr(trt, name)} == set()
    from tests.nst_deploy.runtime import fake_tensorrt

    for name, real in (
        ("_Engine", trt.ICudaEngine),
        ("_Context", trt.IExecutionContext),
        ("_RuntimeConfig", trt.IRuntimeConfig),
        ("_RuntimeCache", trt.IRuntimeCache),
        ("_Runtime", trt.Runtime),
    ):
        methods = {n for n in vars(getattr(fake_tensorrt, name)) if not n.startswith("_")}
        assert {n for n in methods if not hasattr(real, n)} == set()
