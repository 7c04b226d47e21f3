"""Plans on a simulated GPU, for the tests of all that they do."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nst_deploy.runtime import plan as plan_module
from nst_deploy.runtime.plan import PlanBackend
from tests.nst_deploy.runtime.cuda_simulator import FakeRuntime, Simulator, install_bindings
from tests.nst_deploy.runtime.fake_tensorrt import FakeLibrary, install_library, write_plan

NOTHING = {"device": 0, "pinned": 0, "streams": 0, "events": 0, "graphs": 0, "contexts": 0}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Simulator:
    return Simulator()


@pytest.fixture(autouse=True)
def cuda(gpu: Simulator, monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    return install_bindings(monkeypatch, gpu)


@pytest.fixture(autouse=True)
def trt(gpu: Simulator, monkeypatch: pytest.MonkeyPatch) -> FakeLibrary:
    return install_library(monkeypatch, gpu)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(plan_module, "user_cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    return write_plan(tmp_path / "negative.plan")


@pytest.fixture
def backend(plan: Path, gpu: Simulator) -> Iterator[PlanBackend]:
    backend = PlanBackend(plan)
    yield backend
    backend.close()
    assert gpu.alive() == NOTHING


def random_batch(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
