import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from nst_common.errors import UserError
from nst_deploy.contract import ModelContract, Parity
from nst_deploy.errors import (
    BackendBrokenError,
    BackendFailedError,
    BackendMissingError,
    EngineNotFoundError,
    EngineUnreadableError,
    NotAnEngineError,
)
from nst_deploy.runtime import ort
from nst_deploy.runtime.backend import open_backend
from nst_deploy.runtime.ort import OrtBackend
from tests.engines import CONTRACT, negative, write_engine


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return write_engine(tmp_path / "negative.onnx")


def random_batch(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 17), (2, 33, 8)])
def test_runs_batches_of_any_size(engine: Path, shape: tuple[int, int, int]) -> None:
    backend = open_backend(engine, "cpu", threads=1)
    batch = random_batch(*shape)
    styled = backend.run(batch)
    np.testing.assert_array_equal(styled, negative(batch))
    assert styled.dtype == np.uint8
    assert styled.flags.c_contiguous
    assert styled.flags.writeable


def test_results_stay_the_callers(engine: Path) -> None:
    backend = OrtBackend(engine, threads=1)
    first, second = random_batch(1, 16, 16), np.zeros((1, 16, 16, 3), np.uint8)
    styled = backend.run(first)
    backend.run(second)
    backend.close()
    np.testing.assert_array_equal(styled, negative(first))


def test_the_contract_is_what_the_file_says(tmp_path: Path) -> None:
    parity = Parity(max_levels=1, identical=0.9999, psnr_db=None, backend="onnxruntime-cpu")
    engine = write_engine(tmp_path / "a.onnx", style="wave", static_size=(480, 640), parity=parity)
    contract = OrtBackend(engine).contract
    assert contract == ModelContract("wave", "fp32", "0" * 64, "0.0.test", 100, (480, 640), parity)


def test_no_engine(tmp_path: Path) -> None:
    for path in (tmp_path / "no.onnx", tmp_path):
        with pytest.raises(EngineNotFoundError, match=str(path)):
            OrtBackend(path)


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").touch()
    with pytest.raises(EngineUnreadableError, match="empty"):
        OrtBackend(tmp_path / "a.onnx")


def test_text(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(EngineUnreadableError, match="not an ONNX model"):
        OrtBackend(tmp_path / "a.onnx")


@pytest.mark.parametrize("kept", [0.05, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_truncated_engine(engine: Path, tmp_path: Path, kept: float) -> None:
    whole = engine.read_bytes()
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(UserError, match=r"cut\.onnx"):  # one of two kinds: a cut between two entries is valid protobuf
        OrtBackend(cut)


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({}, "no nst"),
        ({"author": "someone"}, "no nst"),
        ({**CONTRACT.to_metadata(), "nst.format_version": "99"}, "format version is 99"),
        ({key: value for key, value in CONTRACT.to_metadata().items() if key != "nst.style"}, "lacks nst.style"),
        ({**CONTRACT.to_metadata(), "nst.working_bytes_per_pixel": "much"}, "malformed"),
        ({**CONTRACT.to_metadata(), "nst.static_size": "4"}, "malformed"),
        ({**CONTRACT.to_metadata(), "nst.parity": "{"}, "malformed"),
    ],
)
def test_a_model_that_is_not_ours(tmp_path: Path, metadata: dict[str, str], reason: str) -> None:
    with pytest.raises(NotAnEngineError, match=reason):
        OrtBackend(write_engine(tmp_path / "a.onnx", metadata=metadata))


def test_a_model_with_our_metadata_but_other_tensors(tmp_path: Path) -> None:
    with pytest.raises(NotAnEngineError, match="uint8"):
        OrtBackend(write_engine(tmp_path / "a.onnx", element=TensorProto.FLOAT))


def test_a_run_that_fails_is_one_line(engine: Path) -> None:
    with pytest.raises(BackendFailedError, match="onnxruntime-cpu failed") as caught:
        OrtBackend(engine).run(np.zeros((1, 8, 8, 4), np.uint8))
    assert "\n" not in str(caught.value)


def test_without_onnxruntime_the_extra_is_named(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendMissingError, match=r"pip install 'nst\[cpu\]'"):
        OrtBackend(engine)


@pytest.mark.parametrize("cause", [KeyboardInterrupt(), SystemExit(143), None])
def test_an_import_that_fails(monkeypatch: pytest.MonkeyPatch, cause: BaseException | None) -> None:
    def broken(*_: object) -> None:
        raise ImportError("initialization failed\nmore") from cause

    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr("builtins.__import__", broken)
    expected = type(cause) if cause else BackendBrokenError
    with pytest.raises(expected, match=None if cause else r"cannot be loaded: initialization failed\. Install"):
        ort.import_onnxruntime()


def test_nothing_heavy_is_imported(engine: Path) -> None:
    code = (
        "import sys, numpy as np, nst_deploy, nst_deploy.cli_infer\n"
        f"stylize = nst_deploy.Stylizer({str(engine)!r}, device='cpu')\n"
        "stylize(np.zeros((8, 8, 3), np.uint8))\n"
        "assert 'onnxruntime' in sys.modules\n"
        "print(sorted({name.split('.')[0] for name in sys.modules}))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "numpy" in shown
    for name in ("torch", "torchvision", "nst_train", "onnx", "onnxscript", "tqdm", "openvino"):
        assert f"'{name}'" not in shown
