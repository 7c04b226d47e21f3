"""What nst-bench offers to run: on CPUs as ever, and with a GPU what lies beside the engine for it."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from nst_deploy.bench import measure as measure_module
from nst_deploy.bench import ways as module
from nst_deploy.bench.measure import count_runs, measure
from nst_deploy.bench.ways import Way, find_ways
from nst_deploy.bench.worker_process import WorkerFailedError
from nst_deploy.runtime.backend import VARIANTS, read_contract
from tests.engines import CONTRACT, write_engine
from tests.nst_deploy.runtime.fake_tensorrt import write_plan


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Everything that nst-export makes of a style; every engine is of the same checkpoint."""
    for suffix, precision in (("", "fp32"), (".fp16", "fp16"), (".int8", "int8")):
        write_engine(tmp_path / f"negative{suffix}.onnx", precision=precision)
    for suffix in (".plan", ".rtx.plan"):
        write_plan(tmp_path / f"negative{suffix}", contract=replace(CONTRACT, precision="fp16"))
    write_engine(tmp_path / "other.fp16.onnx", precision="fp16")  # of another style, by its name
    return tmp_path


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "why_no_gpu", lambda: None)


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "why_no_gpu", lambda: "the driver finds none")


def found(engine: Path) -> module.Ways:
    return find_ways(engine, read_contract(engine))


@pytest.mark.usefixtures("without_gpu")
def test_without_a_gpu_nothing_of_it_is_offered_or_said(folder: Path) -> None:
    ways = found(folder / "negative.onnx")
    assert [(way.device, way.precision) for way in ways.ways] == list(VARIANTS)
    assert [way.computes for way in ways.ways] == ["fp32", "fp32", "bf16", "int8"]
    assert ways.notes == ()
    assert {way.device for way in ways.reference} == {"cpu", "openvino"}


@pytest.mark.usefixtures("with_gpu")
def test_with_a_gpu_what_lies_beside_the_engine_runs_too(folder: Path) -> None:
    ways = found(folder / "negative.onnx")
    assert [way.flags for way in ways.ways if way.on_gpu] == [
        "--device cuda",
        "--device tensorrt",
        "--engine negative.fp16.onnx --device cuda",
        "--engine negative.fp16.onnx --device tensorrt",
        *(
            f"--engine negative{suffix} --device tensorrt{graph}"
            for suffix in (".plan", ".rtx.plan")
            for graph in ("", " --cuda-graph")
        ),
    ]
    assert len(ways.ways) == len(set(ways.ways)) == len(VARIANTS) + 8
    assert {way.computes for way in ways.ways if not way.is_asked} == {"fp16"}
    assert (ways.reference[0], ways.notes) == (Way(folder / "negative.onnx", "fp32", "cpu"), ())


@pytest.mark.usefixtures("with_gpu")
@pytest.mark.parametrize("name", ["negative.fp16.onnx", "negative.plan", "negative.rtx.plan"])
def test_whatever_is_asked_for_is_compared_with_the_float32_engine(folder: Path, name: str) -> None:
    ways = found(folder / name)
    reference = ways.reference[0]
    assert (reference.engine.name, reference.device, reference.computes) == ("negative.onnx", "cpu", "fp32")
    assert reference in ways.ways
    assert [way.engine.name for way in ways.ways if way.is_asked] == [name] * sum(way.is_asked for way in ways.ways)


@pytest.mark.usefixtures("with_gpu")
def test_what_is_missing_or_foreign_is_said(tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "negative.onnx")
    (note,) = found(engine).notes
    assert note == ("no FP16 engine or plan lies beside negative.onnx: nst-export --precision fp32,fp16 makes them")
    write_engine(tmp_path / "negative.fp16.onnx", precision="fp16", checkpoint_sha256="1" * 64)
    (tmp_path / "negative.plan").write_bytes(b"vtrt")
    foreign, unreadable, _ = found(engine).notes
    assert foreign == "negative.fp16.onnx is left out: it was made from another checkpoint"
    assert unreadable.startswith("negative.plan is left out: ")


@pytest.mark.usefixtures("with_gpu")
def test_graphs_of_onnx_engines_are_for_one_size(tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "negative.onnx", static_size=(12, 20))
    write_engine(tmp_path / "negative.fp16.onnx", precision="fp16", static_size=(99, 20))
    ways = found(engine)
    assert [way.device for way in ways.ways if way.cuda_graph] == ["cuda", "tensorrt"]
    assert ways.notes[0] == "negative.fp16.onnx is left out: it is for one size only"


@pytest.mark.usefixtures("with_gpu")
@pytest.mark.parametrize("free", [2**40, 1])
def test_on_a_gpu_one_after_the_other_and_pixels_against_float32(
    folder: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    """The GPU's workers run the float32 engine on the CPU here, but for those that fail.

    Without memory for the CPU's they run alone, and are compared with the float32 engine on the GPU.
    """
    monkeypatch.setattr(measure_module, "free_memory", lambda: free)
    engine = folder / "negative.onnx"
    opened: list[str] = []
    done: list[int] = []
    alive: set[str] = set()
    worker = measure_module.Worker

    class OnCpu(worker):  # type: ignore[misc, valid-type]
        def __init__(self, assignment: object) -> None:
            self.key = f"{assignment.device} {Path(assignment.engine).name} {assignment.cuda_graph}"
            opened.append(self.key)
            if assignment.device in ("cuda", "tensorrt"):
                assert not alive, "another one is open"
            as_if = replace(assignment, engine=str(engine), device="cpu", precision=None, cuda_graph=False)
            super().__init__(as_if)

        def start(self) -> None:
            if "rtx" in self.key:
                raise WorkerFailedError("the plan is for another GPU")
            alive.add(self.key)
            super().start()

        def __exit__(self, *arguments: object) -> None:
            alive.discard(self.key)
            super().__exit__(*arguments)

    monkeypatch.setattr(measure_module, "Worker", OnCpu)
    ways = found(engine)
    measurement = measure(
        ways,
        read_contract(engine),
        Image.new("RGB", (32, 24), (10, 200, 90)),
        [(12, 16)],
        runs=1,
        threads=1,
        advance=lambda runs, _: done.append(runs),
    )
    begun = [way for way in ways.ways if way.on_gpu or free > 1]
    assert len(opened) == len(begun)
    failed = {absence.way for absence in measurement.absences}
    assert failed == {way for way in ways.ways if "rtx" in way.engine.name or way not in begun}
    assert {row.way for row in measurement.rows} == set(begun) - failed
    assert all(row.parity is not None and row.parity.psnr_db is None for row in measurement.rows)
    reference = Way(engine, "fp32", "cpu" if free > 1 else "cuda")
    assert [row.way for row in measurement.rows if row.is_reference] == [reference]
    assert sum(done) == count_runs(1, len(ways.ways), 1)
