"""The CMake package, and the tool that describes plans built by trtexec."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cpp import build
from tests.cpp.conftest import Built
from tests.cpp.test_plans import PLAN, read
from tests.engines import write_engine

PROJECT = """
cmake_minimum_required(VERSION 3.21)
project(consumer LANGUAGES CXX)
find_package(nst {wanted})
foreach(vendor core openvino ort tensorrt tensorrt_rtx)
  if(TARGET nst::${{vendor}})
    message(STATUS "has ${{vendor}}")
  endif()
endforeach()
message(STATUS "found ${{nst_FOUND}} ${{nst_VERSION}}")
"""


def configure(folder: Path, wanted: str, *arguments: str) -> tuple[int, str]:
    (folder / "CMakeLists.txt").write_text(PROJECT.format(wanted=wanted))
    program = build.tool("cmake")
    assert program is not None
    command = [program, "-S", str(folder), "-B", str(folder / "build"), "-G", "Ninja", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=build.environment(), check=False)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def version() -> str:
    lines = (build.ROOT / "pyproject.toml").read_text().splitlines()
    return next(line.split('"')[1] for line in lines if line.startswith("version = "))


def test_every_vendor_that_is_found_has_a_target(built: Built, tmp_path: Path) -> None:
    code, said = configure(tmp_path, "REQUIRED", *built.find)
    assert code == 0
    assert f"found 1 {version()}" in said or f"found TRUE {version()}" in said
    for vendor in ("core", "openvino", "ort"):
        assert f"has {vendor}" in said


def test_a_component_that_is_not_found_is_named_with_what_to_set(built: Built, tmp_path: Path) -> None:
    code, said = configure(tmp_path, "REQUIRED COMPONENTS tensorrt", *built.find)
    assert code != 0
    assert "nst::tensorrt: TensorRT or CUDA was not found, set TensorRT_ROOT" in said


def test_a_component_that_there_is_not(built: Built, tmp_path: Path) -> None:
    code, said = configure(tmp_path, "REQUIRED COMPONENTS opencl", *built.find)
    assert code != 0
    assert "there is no such component, known are core openvino" in said


def test_an_optional_component_may_be_missing(built: Built, tmp_path: Path) -> None:
    code, said = configure(tmp_path, "REQUIRED COMPONENTS openvino OPTIONAL_COMPONENTS tensorrt", *built.find)
    assert code == 0
    assert "has openvino" in said
    assert "has tensorrt" not in said


def test_the_package_can_be_moved(built: Built, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    subprocess.run(["cp", "-r", str(built.prefix), str(moved)], check=True)
    for file in moved.rglob("*.cmake"):
        assert str(built.prefix) not in file.read_text()
        assert str(build.ROOT) not in file.read_text()
    vendors = [argument for argument in built.find if "CMAKE_PREFIX_PATH" not in argument]
    (tmp_path / "project").mkdir()
    code, said = configure(tmp_path / "project", "REQUIRED COMPONENTS ort", f"-DCMAKE_PREFIX_PATH={moved}", *vendors)
    assert code == 0
    assert "has ort" in said


def test_every_header_is_installed(built: Built) -> None:
    installed = {path.name for path in (built.prefix / "include" / "nst").iterdir()}
    assert installed == {path.name for path in (build.SOURCE / "include" / "nst").iterdir()}


# --- plan_sidecar.py -------------------------------------------------------------------------------------------------


def describe(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    tool = build.SOURCE / "tools" / "plan_sidecar.py"
    return subprocess.run([sys.executable, tool, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_a_plan_built_on_the_device_is_described(built: Built, tmp_path: Path) -> None:
    onnx, plan = write_engine(tmp_path / "a.fp16.onnx", precision="fp16"), tmp_path / "a.plan"
    plan.write_bytes(PLAN)
    done = describe(onnx, plan, "--library-version", "10.3.0.30", "--max-size", "1080x1920")
    assert done.stdout == f"{plan}.json\n"
    line = read(built, plan)
    assert line.startswith("style 'negative' precision fp16 ")
    assert line.endswith("tensorrt 10.3.0.30 '' 1,8,8 1,1080,1920 1,1080,1920 0 0")
    assert json.loads(Path(f"{plan}.json").read_text())["nst.parity"] == ""
    python = pytest.importorskip("nst_deploy.plan_sidecar")
    assert python.read_plan(plan)[1].profile.max == (1, 1080, 1920)


@pytest.mark.parametrize(
    ("onnx", "size", "reason"),
    [("text", "8x8", "is not an nst engine"), ("none", "8x8", "No file at"), ("text", "8", "expected HxW")],
)
def test_what_cannot_be_described(tmp_path: Path, onnx: str, size: str, reason: str) -> None:
    (tmp_path / "text").write_text("no model")
    (tmp_path / "a.plan").write_bytes(PLAN)
    done = describe(tmp_path / onnx, tmp_path / "a.plan", "--library-version", "10.3.0.30", "--max-size", size)
    assert done.returncode != 0
    assert reason in done.stderr
    assert not (tmp_path / "a.plan.json").exists()
