"""A plan's sidecar, as Python writes it and the headers read it."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cpp.conftest import Built
from tests.engines import CONTRACT, write_engine

PLAN = b"fake plan"
SIDECAR: dict[str, Any] = {
    **CONTRACT.to_metadata(),
    "plan_sha256": hashlib.sha256(PLAN).hexdigest(),
    "flavor": "tensorrt",
    "library_version": "10.13.3.9",
    "gpu_name": "NVIDIA L4",
    "compute_capabilities": ["8.9", "12.0"],
    "profile_min": [1, 8, 8],
    "profile_opt": [1, 512, 512],
    "profile_max": [4, 1080, 1920],
    "portable": False,
    "weights_stripped": False,
    "build_seconds": 12.5,
}


def write_plan(path: Path, content: bytes = PLAN, **changes: object) -> Path:
    """A plan and its sidecar; a change to None leaves that entry out."""
    path.write_bytes(content)
    entries = {**SIDECAR, "plan_sha256": hashlib.sha256(content).hexdigest(), **changes}
    kept = {key: value for key, value in entries.items() if value is not None or key == "gpu_name"}
    beside(path).write_text(json.dumps(kept, indent=2))
    return path


def beside(plan: Path) -> Path:
    return plan.with_name(plan.name + ".json")


def read(built: Built, path: Path) -> str:
    return built.drive("plans", stdin=f"{path}\n").rstrip("\n")


def test_a_sidecar_is_read(built: Built, tmp_path: Path) -> None:
    line = read(built, write_plan(tmp_path / "a.plan", gpu_name=None))
    assert line.startswith("style 'negative' precision fp32 ")
    digest = SIDECAR["plan_sha256"]
    assert line.endswith(f" | {digest} tensorrt 10.13.3.9 '' 8.9 12.0 1,8,8 1,512,512 4,1080,1920 0 0")


@pytest.mark.parametrize("length", [0, 1, 55, 56, 57, 63, 64, 65, 119, 120, 1000, 100_000])
def test_the_digest_is_sha256(built: Built, tmp_path: Path, length: int) -> None:
    plan = write_plan(tmp_path / "a.plan", bytes(i * 7 % 251 for i in range(length)))
    assert read(built, plan).startswith("style")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (Path.unlink, "No engine at {plan}. Check the path"),
        (lambda plan: beside(plan).unlink(), "{plan} has no a.plan.json beside it"),
        (write_engine, "{plan} is an ONNX model named as a plan. Name it .onnx"),
        (lambda plan: plan.write_bytes(PLAN[:-1]), "{plan} is not the file that a.plan.json describes"),
        (lambda plan: beside(plan).write_text("{"), "{wrong}it is not JSON"),
        (lambda plan: beside(plan).write_text("[1]"), "{wrong}"),
        (lambda plan: write_plan(plan, flavor="vulkan"), "{wrong}flavor is 'vulkan', expected one of tensorrt, rtx"),
        (lambda plan: write_plan(plan, portable=None), "{wrong}it lacks portable"),
        (lambda plan: write_plan(plan, portable=1), "{wrong}portable is"),
        (lambda plan: write_plan(plan, profile_max=[1, 8]), "{wrong}profile_max is"),
        (lambda plan: write_plan(plan, profile_max=[1, 8, 8.5]), "{wrong}profile_max is"),
        (lambda plan: write_plan(plan, profile_min=[1, 600, 8]), "{wrong}"),
        (lambda plan: write_plan(plan, **{"nst.style": None}), "{wrong}its metadata lacks nst.style"),
        (lambda plan: write_plan(plan, **{"nst.static_size": "9x9"}), "{wrong}nst.static_size is 9x9, its profile has"),
    ],
)
def test_a_wrong_sidecar(built: Built, tmp_path: Path, change: Callable[[Path], object], reason: str) -> None:
    plan = write_plan(tmp_path / "a.plan")
    change(plan)
    expected = reason.format(plan=plan, wrong=f"{plan}.json does not describe a plan: ")
    assert read(built, plan).startswith(expected)
    python = pytest.importorskip("nst_deploy.plan_sidecar")
    if "ONNX model" in reason:
        return  # Python looks at that before it reads the sidecar
    with pytest.raises(Exception, match=r".") as caught:
        python.read_plan(plan)
    assert str(caught.value).startswith(expected)


def test_what_python_writes_is_read(built: Built, tmp_path: Path) -> None:
    python = pytest.importorskip("nst_deploy.plan_sidecar")
    plan = tmp_path / "a.plan"
    plan.write_bytes(PLAN)
    contract = dataclasses.replace(CONTRACT, style="wave")
    sidecar = python.PlanSidecar.from_json(json.dumps({**SIDECAR, **contract.to_metadata()}))
    python.write_sidecar(plan, sidecar)
    assert read(built, plan).startswith("style 'wave'")
