"""nst-export --format plan, and what is left behind when it cannot go on."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nst_deploy.errors import BuilderMissingError, GpuUnavailableError, ParityError
from nst_deploy.export import export, exporter, plan_export, trt_library, verify_engine
from nst_deploy.export.build_options import BuildOptions
from nst_deploy.export.cli import main
from nst_deploy.export.engine import TIMING_CACHE
from nst_deploy.plan_sidecar import Profile, read_plan, read_sidecar
from nst_deploy.runtime.ort import OrtBackend
from tests.nst_deploy.export.fake_builder import FakeTensorRT, install


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    return install(monkeypatch)


@pytest.fixture
def half_engine(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("half")
    return export(small_checkpoint, folder, precisions=("fp16",), verify=False).files[0].path


class OrtPlan(OrtBackend):
    """What runs a plan, where the GPU is played by ONNX Runtime running the FP16 engine that it was built from."""

    name = "tensorrt"

    def __init__(self, plan: Path, engine: Path, off: int = 0) -> None:
        super().__init__(engine)
        self.contract = read_sidecar(plan).contract
        self.off = off
        self.sizes: list[tuple[int, ...]] = []

    def run(self, images: np.ndarray) -> np.ndarray:
        self.sizes.append(images.shape[1:3])
        return super().run(images) ^ np.uint8(self.off)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, half_engine: Path) -> list[OrtPlan]:
    """Plans can be run here; they come with what has been opened."""
    opened: list[OrtPlan] = []

    def open_plan(plan: Path) -> OrtPlan:
        opened.append(OrtPlan(plan, half_engine))
        return opened[-1]

    monkeypatch.setattr(exporter, "open_plan", open_plan)
    monkeypatch.setattr(plan_export, "open_plan", open_plan)
    return opened


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_nothing_else_said_writes_the_onnx_file_and_the_plan(
    small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_gpu: None
) -> None:
    pytest.importorskip("tensorrt_rtx")
    if trt_library.installed_flavors()[0] != "rtx":
        pytest.skip("tensorrt is installed, and needs a GPU to build")
    assert main(["--ckpt", str(small_checkpoint), "--out", str(tmp_path)]) == 0
    assert names(tmp_path) == ["small.onnx", "small.rtx.plan", "small.rtx.plan.json"]
    content, sidecar = read_plan(tmp_path / "small.rtx.plan")
    assert content[:4] == b"vtrt"
    assert (sidecar.contract.style, sidecar.contract.precision, sidecar.contract.parity) == ("small", "fp16", None)
    assert sidecar.contract.norm_scales
    shown = capsys.readouterr()
    warnings = [line for line in shown.err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert "small.rtx.plan was not run and has no parity figures: No CUDA GPU" in warnings[0]
    assert f"nst-export --verify {tmp_path / 'small.rtx.plan'} --ckpt {small_checkpoint}" in warnings[0]
    assert "8x8 to 2160x3840 px (HxW), fastest at 512x512, built in " in shown.out
    # What the warning says to do says here that no GPU is there.
    assert main(["--ckpt", str(small_checkpoint), "--verify", str(tmp_path / "small.rtx.plan")]) == 1
    assert "No CUDA GPU can be used here" in capsys.readouterr().err


def test_without_a_builder_the_onnx_file_is_written_and_it_says_what_to_install(
    small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trt_library, "find_spec", lambda _: None)
    assert main(["--ckpt", str(small_checkpoint), "--out", str(tmp_path), "--no-verify"]) == 0
    assert names(tmp_path) == ["small.onnx"]
    hints = [line for line in capsys.readouterr().err.splitlines() if line.startswith("no plan: ")]
    assert len(hints) == 1
    assert "pip install 'nst[rtx]'" in hints[0]
    for asking in (["--format", "plan"], ["--max-batch", "2"]):
        assert main(["--ckpt", str(small_checkpoint), "--out", str(tmp_path / "none"), *asking]) == 1
        assert "Nothing that builds plans is installed" in capsys.readouterr().err
        assert not (tmp_path / "none").exists()
    with pytest.raises(BuilderMissingError):
        export(small_checkpoint, tmp_path, formats=("plan",))


def test_a_builder_that_needs_a_gpu_is_an_error_only_when_the_plan_was_asked_for(
    small_checkpoint: Path, tmp_path: Path, tensorrt: FakeTensorRT, capsys: pytest.CaptureFixture[str], no_gpu: None
) -> None:
    tensorrt.no_gpu = "CUDA initialization failure with error: 100"
    command = ["--ckpt", str(small_checkpoint), "--out", str(tmp_path), "--no-verify"]
    assert main(command) == 0
    assert "no plan: TensorRT needs a GPU" in capsys.readouterr().err
    assert main([*command, "--format", "plan"]) == 1
    assert names(tmp_path) == ["small.onnx"]


def test_a_plan_is_measured_where_it_can_run(
    small_checkpoint: Path, tmp_path: Path, tensorrt: FakeTensorRT, gpu: list[OrtPlan]
) -> None:
    options = BuildOptions(min_size=(210, 16), max_size=(300, 260), max_batch=2)
    file = export(small_checkpoint, tmp_path, formats=("plan",), build=options).files[0]
    assert names(tmp_path) == ["small.plan", "small.plan.json", TIMING_CACHE]
    sidecar = read_sidecar(tmp_path / "small.plan")
    assert sidecar == file.plan
    assert sidecar.contract.parity is not None
    assert sidecar.contract.parity.backend == "tensorrt"
    assert sidecar.contract.parity == file.report.parity
    assert sidecar.profile == Profile((1, 210, 16), (2, 300, 260), (2, 300, 260))
    assert set(gpu[0].sizes) == {(300, 260), (210, 260)}  # the photographs', brought into the profile
    assert tensorrt.built[0]["profiles"] == [((1, 210, 16, 3), (2, 300, 260, 3), (2, 300, 260, 3))]


def test_a_plan_that_differs_is_not_written(
    small_checkpoint: Path,
    tmp_path: Path,
    tensorrt: FakeTensorRT,
    half_engine: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan_export, "open_plan", lambda plan: OrtPlan(plan, half_engine, off=8))
    with pytest.raises(ParityError):
        export(small_checkpoint, tmp_path, formats=("plan",))
    assert names(tmp_path) == [TIMING_CACHE]


def test_a_plan_that_cannot_run_here_is_kept_only_if_its_graph_is_right(
    small_checkpoint: Path, tmp_path: Path, tensorrt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_gpu(plan: Path) -> OrtPlan:
        raise GpuUnavailableError(f"none for {plan}")

    monkeypatch.setattr(plan_export, "open_plan", no_gpu)
    wrong = exporter.emulated_run
    monkeypatch.setattr(exporter, "emulated_run", lambda half: lambda images: wrong(half)(images) ^ np.uint8(8))
    with pytest.raises(ParityError):
        export(small_checkpoint, tmp_path, formats=("plan",))
    assert names(tmp_path) == [TIMING_CACHE]
    monkeypatch.setattr(exporter, "emulated_run", wrong)
    file = export(small_checkpoint, tmp_path, formats=("plan",), verify_images=[_photo(tmp_path)]).files[0]
    assert file.report is None
    assert file.not_run is not None
    assert ".unproven" not in file.not_run
    assert read_sidecar(file.path).contract.parity is None


def _photo(folder: Path) -> Path:
    from PIL import Image

    path = folder / "photo.png"
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (40, 48, 3), np.uint8)).save(path)
    return path


def test_a_plan_is_measured_later(
    small_checkpoint: Path, tmp_path: Path, tensorrt: FakeTensorRT, gpu: list[OrtPlan]
) -> None:
    plan = export(small_checkpoint, tmp_path, formats=("plan",), verify=False).files[0].path
    before, content = read_sidecar(plan), plan.read_bytes()
    assert before.contract.parity is None
    file = verify_engine(plan, small_checkpoint)
    after = read_sidecar(plan)
    assert after.contract.parity == file.report.parity
    assert replace(after, contract=before.contract) == before
    assert plan.read_bytes() == content
    assert main(["--ckpt", str(small_checkpoint), "--verify", str(plan)]) == 0


def test_a_stripped_plan_brings_its_weights_along(
    small_checkpoint: Path, tmp_path: Path, tensorrt: FakeTensorRT, gpu: list[OrtPlan]
) -> None:
    options = BuildOptions(strip_weights=True)
    report = export(small_checkpoint, tmp_path, formats=("plan",), build=options, verify=False)
    assert [file.path.name for file in report.files] == ["small.fp16.onnx", "small.plan"]
    assert read_sidecar(tmp_path / "small.plan").weights_stripped
    # While it is measured, the weights lie beside it under its temporary name as well.
    seen: list[list[str]] = []
    opened = plan_export.open_plan
    plan_export.open_plan = lambda plan: (seen.append(names(plan.parent)), opened(plan))[1]
    export(small_checkpoint, tmp_path, formats=("plan",), build=options, verify_images=[_photo(tmp_path)])
    assert seen == [["small.plan", "small.plan.json", "weights.onnx"]]


def test_a_plan_that_cannot_be_written_leaves_nothing(
    small_checkpoint: Path, tmp_path: Path, tensorrt: FakeTensorRT, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--ckpt", str(small_checkpoint), "--out", str(tmp_path), "--format", "plan", "--no-verify"]
    (tmp_path / "small.plan.json").mkdir()
    assert main(command) == 1
    assert "Cannot write" in capsys.readouterr().err
    assert names(tmp_path) == ["small.plan.json", TIMING_CACHE]
    (tmp_path / "small.plan.json").rmdir()
    (tmp_path / "small.plan").mkdir()
    assert main(command) == 1
    assert names(tmp_path) == ["small.plan", TIMING_CACHE]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--format", "onnx", "--max-batch", "2"], 2, "--max-batch is for plans, and --format is onnx"),
        (["--format", "onnx", "--trt-flavor", "rtx"], 2, "--trt-flavor is for plans"),
        (["--format", "onnx", "--opt-level", "0"], 2, "--opt-level is for plans"),
        (["--format", "plan", "--precision", "fp32"], 2, "a plan is always fp16"),
        (["--format", "plan", "--max-batch", "0"], 2, "--max-batch is 0"),
        (
            ["--format", "plan", "--min-size", "64x64", "--max-size", "32x32"],
            2,
            "--min-size is 64x64, --max-size 32x32",
        ),
        (["--format", "plan", "--max-size", "4x4"], 2, "--max-size is 4x4"),
        (["--format", "plan", "--opt-size", "big"], 2, "not a size"),
        (["--format", "plan", "--workspace", "much"], 2, "not a number of bytes"),
        (["--format", "plan", "--static", "64x64", "--max-size", "64x64"], 2, "--static 64x64 leaves no choice"),
        (["--trt-flavor", "rtx", "--portable"], 2, "--portable is for TensorRT"),
        (["--trt-flavor", "rtx", "--opt-level", "0"], 2, "--opt-level is for TensorRT"),
        (["--trt-flavor", "tensorrt", "--compute-capability", "8.9"], 2, "--compute-capability is for TensorRT-RTX"),
        (["--compute-capability", "9.9"], 2, "--compute-capability 9.9 is unknown"),
        (["--verify", "a.plan", "--max-batch", "2"], 2, "--max-batch says how to export"),
        (["--verify", "none.plan"], 1, "No engine at none.plan"),
    ],
)
def test_bad_input_is_one_line(
    small_checkpoint: Path,
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        returned: Any = main(["--ckpt", str(small_checkpoint), *arguments])
    except SystemExit as stop:  # argparse's own way out
        returned = stop.code
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("reading ")]
    assert returned == code
    assert len(lines) == 1
    assert message in lines[0]
    assert not list(tmp_path.iterdir())


def test_a_workspace_may_have_a_unit(small_checkpoint: Path, tmp_path: Path, tensorrt: FakeTensorRT) -> None:
    command = ["--ckpt", str(small_checkpoint), "--out", str(tmp_path), "--format", "plan", "--no-verify"]
    for text in ("1073741824", "1G", "1024MiB"):
        assert main([*command, "--workspace", text]) == 0
    assert [asked["pools"] for asked in tensorrt.built] == [{"WORKSPACE": 2**30}] * 3
    assert json.loads((tmp_path / "small.plan.json").read_text())["flavor"] == "tensorrt"
