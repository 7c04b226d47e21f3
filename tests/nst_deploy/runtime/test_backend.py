import importlib.util
from pathlib import Path

import pytest

from nst_deploy.errors import (
    BackendMissingError,
    EngineNotFoundError,
    Int8EngineForeignError,
    Int8EngineMissingError,
    PrecisionUnknownError,
)
from nst_deploy.runtime import backend
from nst_deploy.runtime.backend import choose_device, open_backend
from nst_deploy.runtime.int8_engine import int8_engine
from tests.engines import write_engine


def install(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """Makes it look as if of the vendors' packages only these were there."""
    monkeypatch.setattr(
        backend, "find_spec", lambda name: importlib.util.find_spec("sys") if name in packages else None
    )


@pytest.mark.parametrize(
    ("installed", "chosen"),
    [
        (("openvino", "onnxruntime"), "openvino"),
        (("openvino",), "openvino"),
        (("onnxruntime",), "cpu"),
        ((), "cpu"),  # so that the smaller package is the one that is named as missing
    ],
)
def test_auto_takes_the_fastest_installed(
    monkeypatch: pytest.MonkeyPatch, installed: tuple[str, ...], chosen: str
) -> None:
    install(monkeypatch, *installed)
    assert choose_device("auto") == chosen
    assert choose_device("cpu") == "cpu"
    assert choose_device("openvino") == "openvino"


def test_a_lower_precision_takes_what_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "onnxruntime")
    assert choose_device("auto", "bf16") == "openvino"
    with pytest.raises(
        PrecisionUnknownError, match=r"--device cpu does not compute in bf16\. Choose --device openvino"
    ):
        choose_device("cpu", "bf16")


def test_int8_opens_the_engine_beside(tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "a.onnx")
    beside = write_engine(tmp_path / "a.int8.onnx", precision="int8")
    assert int8_engine(engine) == beside
    assert int8_engine(beside) == beside


def test_without_an_int8_engine_the_command_that_makes_it_is_named(tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "a.onnx")
    with pytest.raises(Int8EngineMissingError, match=r"there is no .*a\.int8\.onnx.*nst-export --precision int8"):
        open_backend(engine, precision="int8")
    with pytest.raises(EngineNotFoundError):
        open_backend(tmp_path / "b.onnx", precision="int8")


def test_an_int8_engine_of_another_checkpoint_is_refused(tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "a.onnx")
    write_engine(tmp_path / "a.int8.onnx", precision="int8", checkpoint_sha256="1" * 64)
    with pytest.raises(Int8EngineForeignError, match=r"a\.int8\.onnx was not made from the checkpoint of"):
        open_backend(engine, precision="int8")


def test_onnx_runtime_is_not_for_int8() -> None:
    with pytest.raises(
        PrecisionUnknownError, match=r"--device cpu does not compute in int8\. Choose --device openvino"
    ):
        choose_device("cpu", "int8")


def test_nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(BackendMissingError, match=r"pip install 'nst\[cpu\]'"):
        open_backend(write_engine(tmp_path / "a.onnx"))
