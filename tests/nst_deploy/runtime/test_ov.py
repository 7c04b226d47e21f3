import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto
from PIL import Image

from nst_common.errors import UserError
from nst_deploy.errors import (
    BackendFailedError,
    BackendMissingError,
    EngineNotFoundError,
    EngineUnreadableError,
    NotAnEngineError,
    PrecisionUnavailableError,
)
from nst_deploy.runtime import ov
from nst_deploy.runtime.backend import Backend, open_backend
from nst_deploy.runtime.ort import OrtBackend
from nst_deploy.runtime.ov import OvBackend
from tests.engines import CONTRACT, negative, write_engine

pytestmark = pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
Array = np.ndarray


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return write_engine(tmp_path / "negative.onnx")


@pytest.fixture(scope="session")
def real_engine(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published network, exported: convolutions, norms, padding, everything that a style engine has."""
    export = pytest.importorskip("nst_deploy.export.exporter").export
    return export(shared_data / "lengstrom/wave.npz", tmp_path_factory.mktemp("wave"), verify=False).files[0].path


@pytest.fixture(scope="session")
def reference(real_engine: Path) -> OrtBackend:
    return OrtBackend(real_engine, threads=1)


def has_bf16() -> bool:
    return "BF16" in ov.shared_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def random_batch(*shape: int) -> Array:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def photographs(folder: Path, height: int, width: int, count: int) -> Array:
    files = sorted((folder / "content").glob("*.jpg"))[:count]
    return np.stack([np.asarray(Image.open(file).convert("RGB").resize((width, height))) for file in files])


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 17), (2, 33, 8)])
def test_runs_batches_of_any_size(engine: Path, shape: tuple[int, int, int]) -> None:
    backend = open_backend(engine, "openvino", threads=1)
    batch = random_batch(*shape)
    batch.flags.writeable = False  # as arrays made from a picture are
    styled = backend.run(batch)
    np.testing.assert_array_equal(styled, negative(batch))
    assert backend.name == "openvino-cpu"
    assert styled.dtype == np.uint8
    assert styled.flags.c_contiguous
    assert styled.flags.writeable


def test_results_stay_the_callers(engine: Path) -> None:
    backend = OvBackend(engine, threads=1)
    first, second = random_batch(1, 16, 16), np.zeros((1, 16, 16, 3), np.uint8)
    styled = backend.run(first)
    backend.run(second)
    backend.close()
    np.testing.assert_array_equal(styled, negative(first))


@pytest.mark.parametrize(("count", "height", "width"), [(1, 8, 8), (2, 61, 97), (1, 128, 90), (3, 45, 44)])
def test_the_same_pictures_as_onnx_runtime(
    shared_data: Path, real_engine: Path, reference: Backend, count: int, height: int, width: int
) -> None:
    batch = photographs(shared_data, height, width, count)
    difference = np.abs(reference.run(batch).astype(int) - OvBackend(real_engine, threads=1).run(batch))
    assert difference.max() <= 1
    assert (difference == 0).mean() >= 0.999


def test_bf16_is_near_and_is_not_float32(shared_data: Path, real_engine: Path, reference: Backend) -> None:
    if not has_bf16():
        pytest.skip("this CPU has no bf16")
    batch = photographs(shared_data, 160, 239, 3)
    backend = open_backend(real_engine, precision="bf16", threads=1)
    difference = reference.run(batch).astype(int) - backend.run(batch)
    assert backend.name == "openvino-cpu-bf16"
    assert 50 <= 10 * np.log10(255**2 / np.square(difference).mean()) < 70


@pytest.mark.parametrize(
    ("arguments", "name"),
    [({"precision": "int8"}, "openvino-cpu-int8"), ({}, "openvino-cpu"), ({"precision": "bf16"}, "openvino-cpu-bf16")],
)
def test_an_int8_engine_runs_only_when_asked_for(engine: Path, arguments: dict[str, str], name: str) -> None:
    if arguments.get("precision") == "bf16" and not has_bf16():
        pytest.skip("this CPU has no bf16")
    write_engine(engine.with_suffix(".int8.onnx"), precision="int8")
    backend = open_backend(engine, "openvino", threads=1, cache=False, **arguments)
    assert backend.name == name
    assert backend.contract.precision == ("int8" if arguments.get("precision") == "int8" else "fp32")


def test_what_an_int8_engine_leaves_open_is_float32(tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "a.int8.onnx", precision="int8")
    backend = open_backend(engine, "openvino", threads=1, cache=False)
    assert backend.name == "openvino-cpu-int8"
    batch = random_batch(2, 9, 17)
    np.testing.assert_array_equal(backend.run(batch), negative(batch))  # 255 - 254 and the like are not bf16's
    if has_bf16():
        assert OvBackend(engine, bf16=True, cache=False).name == "openvino-cpu-int8-bf16"


def test_threads_share_one(real_engine: Path) -> None:
    backend = OvBackend(real_engine, threads=1)
    batches = [random_batch(1, 24 + 4 * (i % 3), 31) for i in range(6)]
    expected = [backend.run(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for styled, alone in zip(pool.map(backend.run, batches), expected, strict=True):
                np.testing.assert_array_equal(styled, alone)


# --- errors ----------------------------------------------------------------------------------------------------------


def test_no_engine(tmp_path: Path) -> None:
    for path in (tmp_path / "no.onnx", tmp_path):
        with pytest.raises(EngineNotFoundError, match=str(path)):
            OvBackend(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"version https://git-lfs.github.com/spec/v1\n", "not an ONNX"), (b"\x00" * 9, "not an ONNX")],
)
def test_not_a_model(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(EngineUnreadableError, match=reason):
        OvBackend(tmp_path / "a.onnx")


def test_a_truncated_engine(engine: Path, tmp_path: Path) -> None:
    whole = engine.read_bytes()
    cut = tmp_path / "cut.onnx"
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut\.onnx"):  # a cut between two entries is valid protobuf
            OvBackend(cut)


def test_a_damaged_graph(engine: Path) -> None:
    engine.write_bytes(engine.read_bytes().replace(b"MatMul", b"MutMal"))
    with pytest.raises(EngineUnreadableError, match="damaged"):
        OvBackend(engine)


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [({}, "no nst"), ({**CONTRACT.to_metadata(), "nst.format_version": "99"}, "format version is 99")],
)
def test_a_model_that_is_not_ours(tmp_path: Path, metadata: dict[str, str], reason: str) -> None:
    with pytest.raises(NotAnEngineError, match=reason):
        OvBackend(write_engine(tmp_path / "a.onnx", metadata=metadata))


def test_a_model_with_our_metadata_but_other_tensors(tmp_path: Path) -> None:
    with pytest.raises(NotAnEngineError, match="uint8"):
        OvBackend(write_engine(tmp_path / "a.onnx", element=TensorProto.FLOAT))


def test_a_run_that_fails_is_one_telling_line(engine: Path) -> None:
    with pytest.raises(BackendFailedError, match=r"openvino-cpu failed: .*8\.8\.4.*incompatible") as caught:
        OvBackend(engine).run(np.zeros((1, 8, 8, 4), np.uint8))
    assert "\n" not in str(caught.value)


def test_without_openvino_the_extra_is_named(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendMissingError, match=r"pip install 'nst\[openvino\]'"):
        OvBackend(engine)


def test_bf16_is_refused_where_the_cpu_lacks_it(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ov._import_openvino().Core, "get_property", lambda *_: ["FP32", "INT8"])
    with pytest.raises(PrecisionUnavailableError, match=r"This CPU does not compute in bf16\. Leave --precision away"):
        OvBackend(engine, bf16=True)


def test_another_precision_than_asked_for_is_refused(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openvino = ov._import_openvino()
    monkeypatch.setattr(openvino.CompiledModel, "get_property", lambda *_: openvino.Type.f16)
    with pytest.raises(PrecisionUnavailableError, match="f32"):
        OvBackend(engine)


# --- the cache -------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(ov, "user_cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def test_what_was_compiled_is_opened_again(engine: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    OvBackend(engine, threads=1)
    assert len(list(cache.iterdir())) == 1
    monkeypatch.delattr(ov._import_openvino().Core, "compile_model")
    batch = random_batch(2, 9, 17)
    np.testing.assert_array_equal(OvBackend(engine).run(batch), negative(batch))


def test_each_precision_has_its_own(engine: Path, cache: Path) -> None:
    if not has_bf16():
        pytest.skip("this CPU has no bf16")
    OvBackend(engine)
    OvBackend(engine, bf16=True)
    assert len(list(cache.iterdir())) == 2


def test_another_engine_of_the_same_path_size_and_time(engine: Path, cache: Path) -> None:
    OvBackend(engine)
    before = engine.stat()
    minus_one, minus_half = np.float32(-1).tobytes(), np.float32(-0.5).tobytes()
    engine.write_bytes(engine.read_bytes().replace(minus_one, minus_half))
    os.utime(engine, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert engine.stat().st_size == before.st_size
    batch = random_batch(1, 8, 9)
    np.testing.assert_array_equal(OvBackend(engine).run(batch), np.rint(255 - batch[..., ::-1] / 2))
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_a_damaged_blob_is_made_anew(engine: Path, cache: Path, kept: float) -> None:
    OvBackend(engine)
    (blob,) = cache.iterdir()
    whole = blob.read_bytes()
    blob.write_bytes(whole[: int(len(whole) * kept)])
    batch = random_batch(1, 8, 9)
    np.testing.assert_array_equal(OvBackend(engine).run(batch), negative(batch))
    assert abs(len(blob.read_bytes()) - len(whole)) < 0.001 * len(whole)  # two compilations differ in a few bytes


def test_no_place_for_a_cache(engine: Path, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    batch = random_batch(1, 8, 9)
    np.testing.assert_array_equal(OvBackend(engine).run(batch), negative(batch))


def test_the_cache_switched_off(engine: Path, cache: Path) -> None:
    open_backend(engine, "openvino", cache=False)
    assert not cache.exists()


# --- what is loaded --------------------------------------------------------------------------------------------------


def test_nothing_heavy_is_imported_and_nothing_reported(engine: Path) -> None:
    code = (
        "import sys, numpy as np, nst_deploy, nst_deploy.cli_infer\n"
        f"stylize = nst_deploy.Stylizer({str(engine)!r}, device='openvino')\n"
        "stylize(np.zeros((8, 8, 3), np.uint8))\n"
        "print(sorted({name.split('.')[0] for name in sys.modules}))\n"
        "import openvino.tools.ovc\n"  # still there for a program that wants it
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'openvino'" in shown
    for name in ("torch", "torchvision", "nst_train", "onnx", "tqdm", "onnxruntime", "openvino_telemetry"):
        assert f"'{name}'" not in shown


def test_ctrl_c_after_engines_have_come_and_gone(engine: Path) -> None:
    """With a core for each, OpenVINO leaves the thread with an unmapped signal stack, and the signal kills it."""
    program = f"""
import signal
from pathlib import Path
from nst_deploy.runtime.ov import OvBackend
first, second = (OvBackend(Path({str(engine)!r}), cache=False) for _ in range(2))
first.close()
second.close()
signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored where the suite runs
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr
