"""The benchmark of exported graphs: which rows run where, when rounds end, and what is counted."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

ROOT = Path(__file__).parents[2]


@pytest.fixture
def export() -> ModuleType:
    """benchmarks/export.py."""
    import export

    return export


def test_at_4k_only_nsts_rows_of_the_whole_net_run(export: ModuleType) -> None:
    from export_models import LANES

    (all_of_them,) = export._fitting([LANES], (1080, 1920))
    assert tuple(all_of_them) == LANES
    (large,) = export._fitting([LANES], (2160, 3840))
    assert [lane.name for lane in large] == [
        "nst onnxruntime f32",
        "nst openvino f32",
        "nst openvino bf16",
        "nst int8 openvino f32",
    ]
    assert export._fitting([LANES[:3], LANES[6:7]], (2160, 3840)) == [[LANES[6]]]
    assert (2160, 3840) in export.DEFAULT_SIZES


def test_the_page_knows_every_row_by_its_name() -> None:
    import targets
    from export_models import LANES
    from export_plot import GROUPS
    from figures import ROWS

    names = {lane.name for lane in LANES}
    assert set(ROWS.values()) <= names
    assert {name.rsplit(" ", 2)[0] for name in names} == set(GROUPS)
    asked = {
        targets.EAGER,
        *(f"{targets.NST} {row}" for row in (targets.ORT, targets.OV, targets.OV_BF16, targets.INT8)),
    }
    asked |= {f"{targets.NAIVE} {row}" for row in (targets.ORT, targets.OV, targets.OV_BF16)}
    asked |= {f"{targets.HALF} {row}" for row in (targets.OV_BF16, targets.INT8)}
    assert asked <= names


class FakeProcess:
    """A lane that takes no time but says that it does."""

    def __init__(self, lane: Any, clock: list[float]) -> None:
        self.lane, self._clock = lane, clock

    def __enter__(self) -> "FakeProcess":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def prepare(self, image: np.ndarray) -> tuple[np.ndarray, float]:
        return image + np.uint8(self.lane.precision == "bf16"), 12.0

    def seconds(self) -> float:
        self._clock[0] += 10.0
        return 1.0


@pytest.mark.parametrize(("runs", "limit", "rounds"), [(7, 1e9, 7), (7, 0.0, 3), (7, 90.0, 5), (2, 0.0, 2)])
def test_rounds_end_in_time_but_not_before_there_is_a_median(
    export: ModuleType, monkeypatch: pytest.MonkeyPatch, runs: int, limit: float, rounds: int
) -> None:
    clock = [0.0]
    lanes = [export.Lane("openvino", "f32", "nst.onnx"), export.Lane("openvino", "bf16", "nst.onnx")]
    turns = export.Turns(Path(), 1, lambda: 0.0, runs, limit)
    monkeypatch.setattr(export, "LaneProcess", lambda lane, *_: FakeProcess(lane, clock))
    monkeypatch.setattr(export.time, "perf_counter", lambda: clock[0])
    image = np.full((1, 8, 8, 3), 100, np.uint8)
    rows = turns.measure(lanes, image, {False: image})
    assert [row["runs"] for row in rows.values()] == [rounds, rounds]
    assert rows["nst openvino f32"]["psnr_db"] is None
    assert rows["nst openvino bf16"]["psnr_db"] == pytest.approx(20 * np.log10(255))


def test_the_floor_is_what_the_formula_says_and_int8_has_none(export: ModuleType) -> None:
    names = ("pytorch eager f32", "nst openvino bf16", "nst half openvino bf16", "nst int8 openvino f32")
    rows = {name: {"seconds": 2.0 / (i + 1), "precision": name[-4:].strip()} for i, name in enumerate(names)}
    peak = {"f32": {"gflops": 100.0}, "bf16": {"gflops": 400.0}}
    export._add_ratios(rows, 1_000_000, peak)
    assert rows["nst openvino bf16"]["over_floor"] == pytest.approx(1.0 / (2 * 133_000 * 1e6 / 400e9))
    assert rows["nst half openvino bf16"]["over_floor"] == pytest.approx((2 / 3) / (2 * 37_800 * 1e6 / 400e9))
    assert rows["nst int8 openvino f32"]["over_floor"] is None
    assert [row["speedup"] for row in rows.values()] == pytest.approx([1, 2, 3, 4])


def test_pytorchs_net_is_there_to_compare_the_rewrites_with(
    export: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import export_models

    monkeypatch.setattr(export_models, "_save_plain", lambda net, path: path.touch())
    groups = export_models.save_rewrites(ROOT / "engines" / "la_muse_half.pth", tmp_path)
    for lane in (export.EAGER[False], *(lane for group in groups for lane in group)):
        assert (tmp_path / lane.file).exists()
