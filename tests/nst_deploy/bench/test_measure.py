import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nst_deploy.bench import measure as module
from nst_deploy.bench.measure import compare, count_runs, measure
from nst_deploy.bench.ways import find_ways
from nst_deploy.bench.worker import Assignment, peak_memory
from nst_deploy.bench.worker_process import Worker, WorkerFailedError
from tests.engines import CONTRACT, negative, write_engine


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    picture = np.random.default_rng(0).integers(0, 256, (1, 9, 14, 3), dtype=np.uint8)
    np.save(tmp_path / "picture.npy", picture)
    engine = str(write_engine(tmp_path / "a.onnx"))
    assignment = Assignment(engine, "cpu", None, 1, str(tmp_path / "picture.npy"), str(tmp_path / "styled.npy"))
    with Worker(assignment) as worker:
        yield worker


def test_a_worker_runs_on_demand_and_leaves_its_picture(worker: Worker, tmp_path: Path) -> None:
    worker.start()
    worker.run()
    worker.run()
    np.testing.assert_array_equal(np.load(tmp_path / "styled.npy"), negative(np.load(tmp_path / "picture.npy")))
    assert worker.started["backend"] == "onnxruntime-cpu"
    assert 0 < worker.started["first_seconds"] < worker.started["open_seconds"] < 60
    assert [0 < sample["seconds"] < 10 for sample in worker.samples] == [True, True]
    assert worker.samples[0]["peak_bytes"] is None or 2**24 < worker.samples[0]["peak_bytes"] < 2**31


def test_a_killed_worker_says_so(worker: Worker) -> None:
    worker.start()
    worker._process.send_signal(signal.SIGINT)  # Ctrl-C is the business of the process that asked
    worker.run()
    worker._process.kill()
    worker._process.wait()
    with pytest.raises(WorkerFailedError, match="killed"):
        worker.run()


def test_a_worker_whose_engine_is_refused(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").unlink()
    with pytest.raises(WorkerFailedError, match=r"No engine at .*a\.onnx"):
        worker.start()


def test_a_worker_that_breaks(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "picture.npy").write_bytes(b"not an array")
    with pytest.raises(WorkerFailedError, match=r"ended with code 1: .*Error"):
        worker.start()


def test_peak_memory_is_the_systems_high_water_mark(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tpython\nVmPeak:\t   99 kB\nVmHWM:\t    2048 kB\nVmRSS:\t 1024 kB\n")
    assert peak_memory(tmp_path / "status") == 2 * 2**20


def test_compare() -> None:
    reference = np.array([0, 10, 255, 7], np.uint8)
    styled = np.array([2, 10, 254, 7], np.uint8)
    parity = compare(reference, styled, "x")
    assert (parity.max_levels, parity.identical) == (2, 0.5)
    assert parity.psnr_db == pytest.approx(10 * np.log10(255**2 / (5 / 4)))
    assert compare(reference, reference, "x").psnr_db is None


def test_what_does_not_fit_is_not_begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "free_memory", lambda: 2**30)
    done: list[int] = []
    ways = find_ways(tmp_path / "never opened.onnx", CONTRACT)
    measurement = measure(
        ways,
        CONTRACT,
        Image.new("RGB", (8, 8)),
        [(5000, 5000), (9000, 9000)],
        runs=4,
        threads=1,
        advance=lambda count, _: done.append(count),
    )
    assert measurement.rows == ()
    assert len(measurement.absences) == 2 * len(ways.ways)
    assert measurement.absences[0].reason == "all of them together need about 9.3 GiB, 1.0 GiB are free"
    assert sum(done) == count_runs(2, len(ways.ways), 4)
