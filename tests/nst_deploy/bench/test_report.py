import json
import math

import pytest

from nst_deploy.bench.measure import Absence, Measurement
from nst_deploy.bench.report import advice, as_json, recommend, table
from tests.engines import CONTRACT
from tests.nst_deploy.bench.rows import row

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
    best, lower = recommend(rows)
    assert best.flags == "--device openvino"
    assert best.speedup == pytest.approx(math.sqrt((0.2 / 0.1) * (0.9 / 0.6)))
    assert lower.flags == "--device openvino --precision bf16"
    assert lower.speedup == pytest.approx(math.sqrt((0.2 / 0.05) * (0.9 / 0.2)))
    assert (lower.max_levels, lower.min_psnr_db) == (3, 52.5)
    shown = advice([best, lower], "openvino")
    assert "what auto takes" in shown
    assert "52.5 dB" in shown
    assert "auto takes cpu, so name it" in advice([best], "cpu")


def test_every_faster_lower_precision_is_recommended_the_fastest_last() -> None:
    rows = [
        row("openvino", 0.04, precision="int8", psnr=42.0, levels=30),
        row("openvino", 0.2),
        row("openvino", 0.1, precision="bf16", psnr=54.0, levels=2),
    ]
    best, *lower = recommend(rows)
    assert best.flags == "--device openvino"
    assert [(choice.precision, choice.speedup) for choice in lower] == [
        ("bf16", pytest.approx(2.0)),
        ("int8", pytest.approx(5.0)),
    ]
    assert advice([best, *lower], "openvino").endswith(
        "5.00 times as fast, with up to 30 of 255 levels difference, 42.0 dB"
    )


def test_a_lower_precision_that_gains_nothing_is_not_recommended() -> None:
    (best,) = recommend([row("cpu", 0.1), row("openvino", 0.2, precision="bf16"), row("openvino", 0.3)])
    assert (best.device, best.precision, best.speedup) == ("cpu", None, pytest.approx(3.0))


def test_what_failed_at_one_size_is_not_compared() -> None:
    rows = [row("cpu", 0.2), row("cpu", 0.9, size=BIG), row("openvino", 0.01)]
    assert [choice.device for choice in recommend(rows)] == ["cpu"]
    assert recommend(rows[1:]) == []
    assert "Nothing ran" in advice([], "cpu")


def test_the_table() -> None:
    rows = (
        row("cpu", 0.2, 0.2, size=BIG),
        row("openvino", 0.1, 0.1, size=BIG, psnr=91.04, levels=1, peak=None),
        row("cpu", 0.5),
    )
    absences = (Absence("openvino", "bf16", 0, 0, "no."), Absence("openvino", None, 100, 200, "killed"))
    lines = [" ".join(line.split()) for line in table(Measurement(rows, absences), CONTRACT).splitlines()]
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
    measurement = Measurement(rows, (Absence("openvino", None, 0, 0, "no"),))
    content = json.loads(json.dumps(as_json(measurement, recommend(rows), {"style": "negative"})))
    assert content["style"] == "negative"
    assert content["rows"][0]["seconds"] == [0.2, 0.4]
    assert content["rows"][0]["median_ms"] == pytest.approx(300)
    assert content["rows"][1]["parity"]["psnr_db"] == 54.0
    assert content["not_run"][0]["reason"] == "no"
    assert [choice["flags"] for choice in content["recommended"]] == [
        "--device cpu",
        "--device openvino --precision bf16",
    ]
