import json
import math

import pytest

from nst_deploy.bench.measure import Absence, Measurement
from nst_deploy.bench.report import advice, as_json, recommend, table
from nst_deploy.runtime.backend import Device, LowerPrecision
from tests.nst_deploy.bench.rows import FP16, PLAN, row, way

BIG = (400, 300)


def test_median_p95_and_rate() -> None:
    measured = row("cpu", 0.1, 0.2, 0.3, 0.4, 9.0)
    assert measured.median == pytest.approx(0.3)
    assert measured.p95 == pytest.approx(0.4 + 0.8 * (9.0 - 0.4))  # 95 % of the way from the first to the fifth
    assert measured.megapixels_per_second == pytest.approx(0.02 / 0.3)


def test_the_fastest_at_the_engines_precision_is_recommended_then_a_faster_lower_one() -> None:
    rows = [
        row("cpu", 0.2),
        row("cpu", 0.9, size=BIG),
        row("openvino", 0.1),
        row("openvino", 0.6, size=BIG),
        row("openvino", 0.05, precision="bf16", psnr=54.0, levels=2),
        row("openvino", 0.2, precision="bf16", psnr=52.5, levels=3, size=BIG),
    ]
    recommendation = recommend(rows, "fp32")
    best, lower = recommendation.choices
    assert best.flags == "--device openvino"
    assert best.speedup == pytest.approx(math.sqrt((0.2 / 0.1) * (0.9 / 0.6)))
    assert lower.flags == "--device openvino --precision bf16"
    assert lower.speedup == pytest.approx(math.sqrt((0.2 / 0.05) * (0.9 / 0.2)))
    assert (lower.max_levels, lower.min_psnr_db) == (3, 52.5)
    shown = advice(recommendation, "openvino")
    assert "what auto takes" in shown
    assert "52.5 dB" in shown
    assert "auto takes cpu, so name it" in advice(recommendation, "cpu")


def test_every_faster_lower_precision_is_recommended_the_fastest_last() -> None:
    rows = [
        row("openvino", 0.04, precision="int8", psnr=42.0, levels=30),
        row("openvino", 0.2),
        row("openvino", 0.1, precision="bf16", psnr=54.0, levels=2),
    ]
    recommendation = recommend(rows, "fp32")
    best, *lower = recommendation.choices
    assert best.flags == "--device openvino"
    assert [(choice.way.precision, choice.speedup) for choice in lower] == [
        ("bf16", pytest.approx(2.0)),
        ("int8", pytest.approx(5.0)),
    ]
    assert advice(recommendation, "openvino").endswith(
        "5.00 times as fast, with up to 30 of 255 levels difference, 42.0 dB"
    )


def test_a_lower_precision_that_gains_nothing_is_not_recommended() -> None:
    rows = [row("cpu", 0.1), row("openvino", 0.2, precision="bf16"), row("openvino", 0.3)]
    (best,) = recommend(rows, "fp32").choices
    assert (best.way, best.speedup) == (way("cpu"), pytest.approx(3.0))


def test_what_failed_at_one_size_is_not_compared() -> None:
    rows = [row("cpu", 0.2), row("cpu", 0.9, size=BIG), row("openvino", 0.01)]
    assert [choice.way.device for choice in recommend(rows, "fp32").choices] == ["cpu"]
    nothing = recommend(rows[1:], "fp32")
    assert nothing.choices == ()
    assert "Nothing ran" in advice(nothing, "cpu")


def test_the_table() -> None:
    rows = (
        row("cpu", 0.2, 0.2, size=BIG),
        row("openvino", 0.1, 0.1, size=BIG, psnr=91.04, levels=1, peak=None),
        row("cpu", 0.5),
    )
    absences = (Absence(way("openvino", "bf16"), 0, 0, "no."), Absence(way("openvino"), 100, 200, "killed"))
    lines = [" ".join(line.split()) for line in table(Measurement(rows, absences)).splitlines()]
    assert lines == [
        "size device precision median p95 MP/s memory open max diff PSNR",
        "200x100 cpu fp32 500.0 ms 500.0 ms 0.04 3 MiB 0.25 s reference",
        "300x400 openvino fp32 100.0 ms 100.0 ms 1.20 ? 0.25 s 1 91.0 dB",
        "300x400 cpu fp32 200.0 ms 200.0 ms 0.60 3 MiB 0.25 s reference",
        "openvino bf16 was not run: no.",
        "openvino at 200x100 was not run: killed",
    ]


def test_json_has_what_the_table_has_and_the_raw_seconds() -> None:
    rows = (row("cpu", 0.2, 0.4), row("openvino", 0.1, precision="bf16", psnr=54.0, levels=2))
    measurement = Measurement(rows, (Absence(way("openvino"), 0, 0, "no"),))
    content = json.loads(json.dumps(as_json(measurement, recommend(rows, "fp32"), {"style": "negative"})))
    assert content["style"] == "negative"
    assert content["rows"][0]["seconds"] == [0.2, 0.4]
    assert content["rows"][0]["median_ms"] == pytest.approx(300)
    assert content["rows"][1]["parity"]["psnr_db"] == 54.0
    assert (content["not_run"][0]["device"], content["not_run"][0]["reason"]) == ("openvino", "no")
    assert (content["rows"][1]["device"], content["rows"][1]["precision"]) == ("openvino", "bf16")
    assert content["rows"][1]["engine"] == "negative.onnx"
    assert [choice["flags"] for choice in content["recommended"]] == [
        "--device cpu",
        "--device openvino --precision bf16",
    ]


# --- what there is only with a GPU ------------------------------------------------------------------------------------


def test_companions_of_the_engine_are_named_with_their_flags() -> None:
    rows = [
        row("cpu", 0.4),
        row("cuda", 0.04),
        row(way("cuda", engine=FP16), 0.02, psnr=61.0, levels=2),
        row(way("tensorrt", engine=PLAN), 0.012, psnr=60.5, levels=3),
        row(way("tensorrt", engine=PLAN, graph=True), 0.01, psnr=60.5, levels=3),
    ]
    recommendation = recommend(rows, "fp32")
    assert [choice.flags for choice in recommendation.choices] == [
        "--device cuda",
        "--engine negative.fp16.onnx --device cuda",
        "--engine negative.plan --device tensorrt",
        "--engine negative.plan --device tensorrt --cuda-graph",
    ]
    shown = advice(recommendation, "cuda").splitlines()
    assert (
        shown[0]
        == "Recommended: --device cuda, 10.00 times as fast as the slowest at this precision; it is what auto takes"
    )
    assert shown[-1].startswith(
        "Faster still: --engine negative.plan --device tensorrt --cuda-graph, 40.00 times as fast"
    )
    lines = [" ".join(line.split()) for line in table(Measurement(tuple(rows), ())).splitlines()]
    assert lines[1].startswith("200x100 tensorrt negative.plan cuda-graph fp16 10.0 ms")
    assert lines[3].startswith("200x100 cuda negative.fp16.onnx fp16 20.0 ms")


def test_the_precision_that_is_asked_for_is_recommended_first() -> None:
    rows = [
        row("cpu", 0.4),
        row("cuda", 0.04),
        row(way("cuda", engine=FP16), 0.02, psnr=61.0, levels=2),
        row("openvino", 0.01, precision="int8", psnr=40.0, levels=30),
    ]
    first = {least: recommend(rows, least).choices[0].flags for least in ("fp32", "fp16", "bf16", "int8")}
    assert first == {
        "fp32": "--device cuda",
        "fp16": "--engine negative.fp16.onnx --device cuda",
        "bf16": "--engine negative.fp16.onnx --device cuda",
        "int8": "--device openvino --precision int8",
    }
    assert [len(recommend(rows, least).choices) for least in ("fp32", "fp16", "int8")] == [3, 2, 1]
    assert "auto" not in advice(recommend(rows, "fp16"), "cuda")  # auto knows nothing of companions


@pytest.mark.parametrize(
    ("device", "precision", "levels", "psnr", "is_kept"),
    [
        ("cuda", None, 2, 90.0, True),  # each of the two may be a level from PyTorch
        ("cuda", None, 3, 90.0, False),
        ("openvino", "bf16", 40, 50.1, True),
        ("openvino", "bf16", 2, 49.9, False),
        ("openvino", "int8", 90, 34.1, True),
        ("openvino", "int8", 90, 33.9, False),
    ],
)
def test_what_spoils_the_picture_is_not_recommended_however_fast(
    device: Device, precision: LowerPrecision | None, levels: int, psnr: float, is_kept: bool
) -> None:
    rows = [row("cpu", 0.4), row(device, 0.01, precision=precision, levels=levels, psnr=psnr)]
    for least in ("fp32", "int8"):
        recommendation = recommend(rows, least)
        assert (rows[1].way in [choice.way for choice in recommendation.choices]) == is_kept
        assert ("Not recommended: --device" in advice(recommendation, "cpu")) != is_kept
    assert is_kept or "levels difference" in advice(recommendation, "cpu")


def test_one_bad_size_is_enough() -> None:
    rows = [
        row("cpu", 0.4),
        row("cpu", 0.9, size=BIG),
        row("cuda", 0.01),
        row("cuda", 0.02, size=BIG, levels=90, psnr=20),
    ]
    recommendation = recommend(rows, "fp32")
    assert [choice.flags for choice in recommendation.choices] == ["--device cpu"]
    assert advice(recommendation, "cpu").splitlines()[1] == (
        "Not recommended: --device cuda, 42.43 times as fast, with up to 90 of 255 levels difference, 20.0 dB; "
        "allowed is 1 level"
    )


def test_nothing_that_was_compared_with_nothing_is_called_faster() -> None:
    rows = [row("cuda", 0.04, is_compared=False), row(way("cuda", engine=FP16), 0.02, is_compared=False)]
    recommendation = recommend(rows, "fp32")
    assert [choice.flags for choice in recommendation.choices] == ["--device cuda"]
    shown = advice(recommendation, "cuda").splitlines()
    assert shown[0].endswith("; its pixels were compared with nothing, since no float32 engine beside it ran here")
    assert shown[1].startswith(
        "Not recommended: --engine negative.fp16.onnx --device cuda, 2.00 times as fast; its pixels"
    )
