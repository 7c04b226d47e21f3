"""nst-infer and nst-bench with plans: on a simulated GPU, and on a machine without one."""

from pathlib import Path

import numpy as np
import pytest

from nst_deploy import cli_bench
from nst_deploy.images import load_picture
from nst_deploy.plan_sidecar import sidecar_path
from nst_deploy.runtime.gpu_probe import why_no_gpu
from tests.engines import negative
from tests.infer import files, infer, one_line, photo
from tests.nst_deploy.runtime.cuda_simulator import FakeRuntime, Simulator
from tests.nst_deploy.runtime.fake_tensorrt import FakeLibrary, write_plan
from tests.nst_deploy.runtime.simulated_plans import cache, cuda, gpu, trt

__all__ = ["cache", "cuda", "gpu", "trt"]  # fixtures, the simulated GPU is used by every test


@pytest.fixture
def plan(here: Path) -> Path:
    return write_plan(here / "negative.plan")


@pytest.mark.parametrize("flags", [(), ("--device", "tensorrt", "--cuda-graph")])
def test_pictures_with_a_plan(plan: Path, gpu: Simulator, flags: tuple[str, ...]) -> None:
    pictures = {name: photo(f"album/{name}.png", height, 17) for name, height in (("a", 12), ("b", 64), ("c", 12))}
    assert infer("--engine", plan.name, "album", "--out", "out", *flags) == 0
    for name, pixels in pictures.items():
        np.testing.assert_array_equal(load_picture(Path(f"out/{name}.negative.png")).rgb, negative(pixels))
    assert gpu.alive() == dict.fromkeys(gpu.alive(), 0)
    assert (gpu.calls["cudaGraphLaunch"] > 0) == bool(flags)


def test_a_picture_too_large_for_the_plan_does_not_stop_the_others(
    plan: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, height in (("a", 12), ("b", 65), ("c", 12)):
        photo(f"album/{name}.png", height, 17)
    assert infer("--engine", plan.name, "album", "--out", "out") == 1
    assert files(here / "out") == ["a.negative.png", "c.negative.png"]
    assert "album/b.png: The picture is 17x65 px" in capsys.readouterr().err


def cut_short(plan: Path) -> None:
    plan.write_bytes(plan.read_bytes()[:30])


@pytest.mark.parametrize(
    ("spoil", "flags", "code", "message"),
    [
        (lambda plan: sidecar_path(plan).unlink(), (), 1, "has no negative.plan.json beside it"),
        (cut_short, (), 1, "replaced or cut short"),
        (lambda _: None, ("--device", "cpu"), 2, "is a plan, and this runs ONNX engines"),
        (lambda _: None, ("--device", "cuda"), 2, "is a plan, and this runs ONNX engines"),
        (lambda _: None, ("--precision", "bf16"), 2, "--device tensorrt does not compute in bf16"),
        (lambda plan: write_plan(plan, library_version="10.1.0.1"), (), 1, "was built for TensorRT 10.1.0.1, here is"),
    ],
)
def test_bad_plans(
    plan: Path, capsys: pytest.CaptureFixture[str], spoil: object, flags: tuple[str, ...], code: int, message: str
) -> None:
    photo("a.png")
    spoil(plan)  # type: ignore[operator]
    assert infer("--engine", plan.name, "a.png", *flags) == code
    assert message in one_line(capsys)
    assert not Path("a.negative.png").exists()


def test_a_graph_without_a_gpu(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo("a.png")
    assert infer("a.png", "--device", "cpu", "--cuda-graph") == 2
    assert "--device cpu runs without CUDA graphs. Leave --cuda-graph away" in one_line(capsys)


def test_no_gpu(plan: Path, cuda: FakeRuntime, capsys: pytest.CaptureFixture[str]) -> None:
    cuda.simulator.fail["cudaGetDeviceCount"] = 100
    photo("a.png")
    assert infer("--engine", plan.name, "a.png") == 1
    assert "No CUDA GPU can be used here: the driver finds none. Look at" in one_line(capsys)


def test_memory_that_runs_out_on_the_gpu(plan: Path, gpu: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    gpu.size = 30_000
    photo("a.png", 64, 64)
    assert infer("--engine", plan.name, "a.png") == 1
    assert "a.png: Out of GPU memory: 0.00 GiB needed, 0.00 GiB of 0.00 GiB were free. Make" in one_line(capsys)
    assert infer("--engine", plan.name, "a.png", "--size", "32") == 0


def test_the_libraries_memory_message(plan: Path, trt: FakeLibrary, capsys: pytest.CaptureFixture[str]) -> None:
    trt.fail["execute_async_v3"] = "CUDA out of memory"
    photo("a.png")
    assert infer("--engine", plan.name, "a.png") == 1
    assert "Out of GPU memory: more needed" in one_line(capsys)


@pytest.mark.skipif(why_no_gpu() is None, reason="there is a GPU")
def test_nst_bench_of_a_plan_without_a_gpu(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli_bench.main(["--engine", plan.name, "--size", "16x16", "--runs", "1"]) == 1
    shown = capsys.readouterr()
    assert "tensorrt was not run: tensorrt is not installed" in shown.out
    assert shown.err.splitlines()[-1] == "nst-bench: error: no back end could run this engine. Above stands why"
