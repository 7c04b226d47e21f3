"""One interface over three vendors: OpenVINO and ONNX Runtime for real, TensorRT over a fake that is stricter."""

from pathlib import Path

import numpy as np
import pytest

from nst_deploy.errors import PictureSizeError
from nst_deploy.runtime.backend import Backend
from nst_deploy.runtime.ort import OrtBackend
from nst_deploy.runtime.ov import OvBackend
from nst_deploy.stylizer import Stylizer
from tests.cpp import build
from tests.cpp.conftest import Built
from tests.cpp.test_plans import write_plan
from tests.engines import CONTRACT, negative, write_engine

Array = np.ndarray
VENDORS = ("openvino", "ort", "tensorrt")
UNTOUCHED = 0xA5
SIZES = [(1, 8, 8), (3, 9, 17), (2, 33, 8)]  # N, H, W


@pytest.fixture
def engines(tmp_path: Path) -> dict[str, Path]:
    onnx, plan = write_engine(tmp_path / "negative.onnx"), write_plan(tmp_path / "negative.plan")
    return {"openvino": onnx, "openvino-bf16": onnx, "ort": onnx, "tensorrt": plan}


def noise(count: int, height: int, width: int) -> Array:
    return np.random.default_rng(height * width).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def strided(images: Array, stride: int) -> Array:
    """uint8 ``[N, H, |stride|]``: rows with a gap behind each, bottom to top where the stride is negative."""
    count, height, width, _ = images.shape
    memory = np.full((count, height, abs(stride)), UNTOUCHED, np.uint8)
    memory[:, :, : 3 * width] = images.reshape(count, height, 3 * width)
    return memory[:, ::-1] if stride < 0 else memory


class Frames:
    """The driver's ``style`` on frames in files."""

    def __init__(self, built: Built, folder: Path) -> None:
        self._built, self._folder = built, folder
        self.said = ""

    def style(
        self, vendor: str, engine: Path, images: Array, *, mode: str = "host", strides: tuple[int, int] | None = None
    ) -> Array:
        """The memory of the styled frames, gaps included: uint8 ``[N, H, |stride|]``."""
        count, height, width, _ = images.shape
        into, out_of = strides or (3 * width, 3 * width)
        source, target = self._folder / "in.raw", self._folder / "out.raw"
        source.write_bytes(np.ascontiguousarray(strided(images, into)).tobytes())
        shape = map(str, (count, height, width, into, out_of))
        self.said = self._built.drive("style", vendor, engine, source, target, mode, *shape)
        return np.fromfile(target, np.uint8).reshape(count, height, abs(out_of))


@pytest.fixture
def frames(built: Built, tmp_path: Path) -> Frames:
    return Frames(built, tmp_path)


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("gaps", [(0, 0), (1, 0), (0, 64), (-7, 5), (4, -4)])
def test_any_size_batch_and_stride(
    frames: Frames, engines: dict[str, Path], vendor: str, shape: tuple[int, int, int], gaps: tuple[int, int]
) -> None:
    images, row = noise(*shape), 3 * shape[2]
    strides = tuple(row + gap if gap >= 0 else -row + gap for gap in gaps)
    styled = frames.style(vendor, engines[vendor], images, strides=(strides[0], strides[1]))
    assert frames.said == "0 \n"
    np.testing.assert_array_equal(styled, strided(negative(images), strides[1]))  # what lies in gaps is as it was


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("gap", [0, 5])
def test_in_place(frames: Frames, engines: dict[str, Path], vendor: str, gap: int) -> None:
    images = noise(2, 16, 24)
    stride = 3 * 24 + gap
    styled = frames.style(vendor, engines[vendor], images, mode="in_place", strides=(stride, stride))
    np.testing.assert_array_equal(styled, strided(negative(images), stride))


@pytest.mark.parametrize("mode", ["device", "device_odd", "device_in_place"])
@pytest.mark.parametrize("gap", [0, 5])
@pytest.mark.parametrize("count", [1, 3])
def test_device_frames_on_the_callers_stream(
    frames: Frames, engines: dict[str, Path], mode: str, gap: int, count: int
) -> None:
    images = noise(count, 9, 24)
    stride = 3 * 24 + gap
    styled = frames.style("tensorrt", engines["tensorrt"], images, mode=mode, strides=(stride, stride))
    assert frames.said == "0 \n"
    np.testing.assert_array_equal(styled, strided(negative(images), stride))


@pytest.mark.parametrize(("vendor", "python"), [("openvino", OvBackend), ("ort", OrtBackend)])
@pytest.mark.parametrize("style", ["la_muse_half", "starry_night"])
@pytest.mark.parametrize("shape", [(1, 33, 47), (2, 24, 31), (1, 128, 96)])
def test_the_bundled_engines_as_python_runs_them(
    frames: Frames, vendor: str, python: type[OvBackend] | type[OrtBackend], style: str, shape: tuple[int, int, int]
) -> None:
    engine = build.STYLES / f"{style}.onnx"
    backend: Backend = python(engine, threads=1)
    images = noise(*shape)
    styled = frames.style(vendor, engine, images).reshape(images.shape)
    difference = np.abs(styled.astype(int) - backend.run(images))
    assert difference.max() <= 1
    assert (difference == 0).mean() >= 0.9999


@pytest.mark.parametrize("vendor", VENDORS)
def test_threads_share_one(built: Built, engines: dict[str, Path], vendor: str) -> None:
    built.drive("share", vendor, engines[vendor], "24", "31")


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vendor", VENDORS)
def test_sizes_are_refused_in_pythons_words(built: Built, frames: Frames, tmp_path: Path, vendor: str) -> None:
    fixed = write_engine(tmp_path / "fixed.onnx", static_size=(16, 24))
    profile = {f"profile_{name}": [1, 16, 24] for name in ("min", "opt", "max")}
    plan = write_plan(tmp_path / "a.plan", **profile, **{"nst.static_size": "16x24"})
    engine = plan if vendor == "tensorrt" else fixed
    frames.style(vendor, engine, noise(1, 16, 25))
    with pytest.raises(PictureSizeError) as caught:
        Stylizer(fixed)(noise(1, 16, 25))
    assert frames.said.split(" ", 1)[1] == f"{caught.value}\n"
    small = write_plan(tmp_path / "b.plan") if vendor == "tensorrt" else write_engine(tmp_path / "any.onnx")
    frames.style(vendor, small, noise(1, 9, 7))
    with pytest.raises(PictureSizeError) as caught:
        Stylizer(write_engine(tmp_path / "any.onnx"))(noise(1, 9, 7))
    assert frames.said.split(" ", 1)[1] == f"{caught.value}\n"


def test_frames_that_contradict_themselves(frames: Frames, engines: dict[str, Path]) -> None:
    frames.style("openvino", engines["openvino"], noise(1, 8, 8), strides=(24, 23))
    assert "rows are 23 bytes apart, expected at least 24 for 8 px" in frames.said


def test_a_size_outside_the_profile(frames: Frames, engines: dict[str, Path], tmp_path: Path) -> None:
    frames.style("tensorrt", engines["tensorrt"], noise(1, 1081, 8))
    assert "8x1081 px (width x height), expected 8x8 to 1920x1080 px, for which the plan was built" in frames.said
    assert "Resize it, or build the plan for it: nst-export --format plan --max-size 1081x8" in frames.said
    pairs = write_plan(tmp_path / "pairs.plan", profile_min=[2, 8, 8], profile_opt=[4, 8, 8])
    frames.style("tensorrt", pairs, noise(1, 8, 8))
    assert "at least 2 at once, got 1. Give more pictures at once" in frames.said


@pytest.mark.parametrize("mode", ["host", "device"])
def test_more_at_once_than_the_plan_takes_run_in_turns(frames: Frames, engines: dict[str, Path], mode: str) -> None:
    images = noise(10, 8, 16)
    styled = frames.style("tensorrt", engines["tensorrt"], images, mode=mode)
    np.testing.assert_array_equal(styled.reshape(images.shape), negative(images))


def test_tensorrts_own_words_are_told(frames: Frames, engines: dict[str, Path]) -> None:
    frames.style("tensorrt", engines["tensorrt"], noise(1, 500, 801))
    assert "tensorrt failed: no room for activations. Try a smaller picture" in frames.said


def test_out_of_the_gpus_memory(frames: Frames, engines: dict[str, Path]) -> None:
    frames.style("tensorrt", engines["tensorrt"], noise(1, 1080, 1920))
    assert frames.said.split(" ", 1)[1].startswith(
        "Out of GPU memory: 0.01 GiB needed, 0.00 GiB of 24.00 GiB were free"
    )


def opened(built: Built, vendor: str, engine: Path, threads: int = 0) -> str:
    return built.drive("open", vendor, engine, str(threads)).split(" ", 1)[1].strip()


@pytest.mark.parametrize("vendor", ["openvino", "ort"])
@pytest.mark.parametrize("change", ["missing", "empty", "not ours", "float", "damaged"])
def test_engines_are_refused_in_pythons_words(built: Built, tmp_path: Path, vendor: str, change: str) -> None:
    engine = write_engine(tmp_path / "a.onnx")
    if change == "missing":
        engine = tmp_path / "none.onnx"
    elif change == "empty":
        engine.write_bytes(b"")
    elif change == "not ours":
        write_engine(engine, metadata={})
    elif change == "float":
        write_engine(engine, element=1)
    else:
        engine.write_bytes(engine.read_bytes().replace(b"MatMul", b"MutMal"))
    line = opened(built, vendor, engine)
    with pytest.raises(Exception, match=r".") as caught:
        (OvBackend if vendor == "openvino" else OrtBackend)(engine, threads=1)
    if vendor == "ort" and change == "float":  # the C interface does not name types as Python's does
        assert line.startswith(f"{engine} is not an nst engine: its input is ['image'] of another type")
    else:
        assert line == str(caught.value)


def test_openvino_opens_in_the_engines_precision_or_says_so(
    built: Built, engines: dict[str, Path], tmp_path: Path
) -> None:
    assert opened(built, "openvino", engines["openvino"]) == "openvino-cpu"
    quantised = write_engine(tmp_path / "int8.onnx", metadata={**CONTRACT.to_metadata(), "nst.precision": "int8"})
    assert opened(built, "openvino", quantised) == "openvino-cpu-int8"
    said = opened(built, "openvino-bf16", engines["openvino"])
    assert said == "openvino-cpu-bf16" or said.startswith("This CPU does not compute in bf16. Leave --precision away")


@pytest.mark.parametrize("vendor", ["openvino", "ort"])
def test_threads_below_zero(built: Built, engines: dict[str, Path], vendor: str) -> None:
    assert opened(built, vendor, engines[vendor], -1) == "threads is -1, expected 0 or more. 0 takes every core"


def test_a_cpu_build_of_onnx_runtime_has_no_gpu(
    built: Built, engines: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = write_engine(tmp_path / "half.onnx", precision="fp16")
    for vendor, name in (("ort-cuda", "CUDAExecutionProvider"), ("ort-tensorrt", "TensorrtExecutionProvider")):
        said = opened(built, vendor, half)
        assert said.startswith(f"ONNX Runtime's {name} cannot be used: ")
        assert "not enabled in this build. Use its package for GPUs" in said
    assert "would compute this float32 engine in TF32" in opened(built, "ort-tensorrt", engines["ort"])
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert "not enabled in this build" in opened(built, "ort-tensorrt", engines["ort"])


def test_further_providers_of_onnx_runtime(built: Built, engines: dict[str, Path]) -> None:
    assert opened(built, "ort-configured", engines["ort"]) == "onnxruntime-cpu"
    said = opened(built, "ort-misconfigured", engines["ort"])
    assert said.startswith("ONNX Runtime's additional provider cannot be used: ")


@pytest.mark.parametrize("vendor", ["openvino", "ort"])
def test_a_plan_where_an_onnx_engine_is_needed(built: Built, tmp_path: Path, vendor: str) -> None:
    plan, named = write_plan(tmp_path / "a.plan"), tmp_path / "a.onnx"
    named.write_bytes(b"ftrt and more")
    assert opened(built, vendor, plan).startswith(f"{plan} is a plan, and this runs ONNX engines. Give the .onnx")
    assert opened(built, vendor, named).startswith(f"{named} is a plan named as an ONNX model. Name it .plan")


CAPABILITIES = (
    "was built for GPUs of compute capability 7.5, 8.0 on NVIDIA L4, here is NVIDIA L4 (compute capability 8.9). Build"
)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"flavor": "rtx"}, "was built for TensorRT-RTX 10.13.3.9, here is TensorRT 10.13.3.9. Build it here"),
        ({"library_version": "10.3.0.26"}, "was built for TensorRT 10.3.0.26, here is TensorRT 10.13.3.9"),
        ({"library_version": "10.14.0.1", "portable": True}, "was built for TensorRT 10.14.0.1, here is TensorRT"),
        ({"library_version": "10.3.0.26", "portable": True}, ""),
        ({"compute_capabilities": ["7.5", "8.0"]}, CAPABILITIES),
        ({"compute_capabilities": [], "gpu_name": "NVIDIA H100"}, "was built for NVIDIA H100, here is NVIDIA L4 (comp"),
        ({"compute_capabilities": [], "gpu_name": "NVIDIA H100", "portable": True}, ""),
        ({"weights_stripped": True}, "holds no weights"),
        ({"content": b"fake plan float"}, "is not an nst engine"),
        ({"content": b"other"}, "as an engine: the magic tag does not match"),
    ],
)  # fmt: skip
def test_plans_are_refused(built: Built, tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    said = opened(built, "tensorrt", write_plan(tmp_path / "a.plan", **changes))
    assert reason in said
    assert (said == "tensorrt") == (reason == "")
