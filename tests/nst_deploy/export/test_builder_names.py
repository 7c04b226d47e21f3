"""Every name of the builders' packages that building uses is there, and so is every name that the fake has."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from nst_deploy.export.build_options import RTX_CAPABILITIES
from nst_deploy.export.engine_builder import EngineBuilder
from tests.nst_deploy.export import fake_builder
from tests.nst_deploy.export.fake_builder import FakeTensorRT
from tests.nst_deploy.runtime.test_cuda_names import chains, has

EXPORT = Path(__file__).parents[3] / "nst_deploy" / "export"
OBJECTS = {  # as the files call them
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "self._config": "IBuilderConfig",
    "parser": "OnnxParser",
    "shapes": "IOptimizationProfile",
    "tensor": "ITensor",
    "cache": "ITimingCache",
    "error": "ParserError",
    "flags": "BuilderFlag",
    "severity": "ILogger.Severity",
}


@pytest.fixture
def rtx() -> Any:
    return pytest.importorskip("tensorrt_rtx")


def test_every_name_that_building_uses_is_in_the_bindings(rtx: Any) -> None:
    file = str(EXPORT / "engine_builder.py")
    used = chains(file, "self.trt") | chains(file, "trt") | chains(str(EXPORT / "build_progress.py"), "trt")
    for variable, owner in OBJECTS.items():
        found = chains(file, variable)
        assert found, f"nothing is called {variable} any more"
        used |= {f"{owner}.{name}" for name in found}
    assert len(used) > 40
    assert {name for name in used - {"__version__"} if not has(rtx, name)} == set()


def test_a_renamed_name_would_be_noticed(rtx: Any) -> None:
    assert not has(rtx, "BuilderFlag.STRIP")
    assert not has(rtx, "IBuilderConfig.set_memory_limit")
    assert has(rtx, "BuilderFlag.STRIP_PLAN")


def test_every_capability_that_can_be_asked_for_is_known(rtx: Any) -> None:
    assert EngineBuilder("rtx", rtx).known_capabilities(RTX_CAPABILITIES) == RTX_CAPABILITIES


def test_the_fake_has_no_names_of_its_own(rtx: Any) -> None:
    own = {"errors", "parser_errors", "no_gpu", "known_times", "built", "before_step"}
    fake = FakeTensorRT()
    assert {name for name in vars(fake) | vars(FakeTensorRT) if not name.startswith("_")} - own == {
        name for name in vars(fake) | vars(FakeTensorRT) if not name.startswith("_") and hasattr(rtx, name)
    }
    for enumeration in ("BuilderFlag", "MemoryPoolType", "HardwareCompatibilityLevel", "ComputeCapability", "DataType"):
        assert {m.name for m in getattr(fake, enumeration)} <= set(getattr(rtx, enumeration).__members__)
    records = {"shapes", "content", "pools", "profiles", "capabilities", "inputs", "outputs"}
    for name, kind in inspect.getmembers(fake_builder, inspect.isclass):
        if kind.__module__ != fake_builder.__name__ or name.startswith("_") or name == "FakeTensorRT":
            continue
        made = {n for n in _attributes(kind) if not n.startswith("_")} - records
        assert {n for n in made if not hasattr(getattr(rtx, name), n)} == set(), name


def test_the_fakes_methods_take_what_the_real_ones_take(rtx: Any) -> None:
    for name in ("IBuilderConfig.set_timing_cache", "IProgressMonitor.phase_start", "IProgressMonitor.step_complete"):
        owner, method = name.split(".")
        real = re.findall(r"(\w+):", getattr(getattr(rtx, owner), method).__doc__.split("->")[0])[1:]
        fake = {"IBuilderConfig": fake_builder.IBuilderConfig, "IProgressMonitor": FakeTensorRT.IProgressMonitor}[owner]
        assert list(inspect.signature(getattr(fake, method)).parameters)[1:] == real


def _attributes(kind: type) -> set[str]:
    return set(vars(kind)) | chains(str(Path(inspect.getfile(kind))), "self") & set(
        re.findall(r"self\.(\w+)\b.*=", inspect.getsource(kind))
    )
