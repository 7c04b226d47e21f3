import importlib.util
from pathlib import Path

import pytest

from nst_deploy.errors import BackendMissingError, PrecisionUnknownError
from nst_deploy.runtime import backend
from nst_deploy.runtime.backend import choose_device, open_backend
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


def test_nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(BackendMissingError, match=r"pip install 'nst\[cpu\]'"):
        open_backend(write_engine(tmp_path / "a.onnx"))
