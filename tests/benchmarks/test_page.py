"""The pages of figures: what the results say, no older and no newer, and readable where a result is missing."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = sorted(path.stem for path in (ROOT / "benchmarks" / "results").glob("*.json"))


@pytest.fixture
def page() -> ModuleType:
    """benchmarks/page.py."""
    import page

    return page


def altered(content: Any, numbers: Iterator[int]) -> Any:
    """A result with every float in it changed, each by another factor."""
    if isinstance(content, dict):
        return {key: altered(value, numbers) for key, value in content.items()}
    if isinstance(content, list):
        return [altered(value, numbers) for value in content]
    return content * (1.2 + next(numbers) / 50) if isinstance(content, float) else content


def test_the_pages_are_what_the_results_say(page: ModuleType) -> None:
    for path, text in page.pages(page.load()).items():
        assert (ROOT / path).read_text(encoding="utf-8") == text, f"{path}: run python benchmarks/page.py"


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_that_changes_changes_the_page(page: ModuleType, name: str) -> None:
    results = page.load()
    changed = {**results, name: altered(results[name], itertools.count())}
    assert page.pages(changed)[page.PAGE] != page.pages(results)[page.PAGE]


@pytest.mark.parametrize("name", RESULTS)
def test_what_is_missing_is_not_measured(page: ModuleType, name: str) -> None:
    results = page.load()
    del results[name]
    text = page.pages(results)[page.PAGE]
    assert "ot measured" in text
    assert "None" not in text


def test_a_page_without_any_result_names_every_command(page: ModuleType) -> None:
    made = page.pages({})
    text = made[page.PAGE]
    for step in ("cold_start", "export", "int8", "fp16", "gpu", "training", "quality", "cpp"):
        assert f"`python benchmarks/{step}.py" in text.replace("\n", " ")
    assert text.count("not measured") == 9  # every target
    assert not re.search(r"\d ms|dB \|", text)
    assert "not measured" in made[Path("README.md")]


def test_the_readme_says_what_was_measured_on_a_gpu(page: ModuleType) -> None:
    lane = {"ms_per_step": 2.0, "first_step_s": 9.0}
    machine = {"gpus": ["NVIDIA X, driver 1"], "torch": "9"}
    training = {
        "machine": machine,
        "note": "",
        "batch": 4,
        "crop": 256,
        "lanes": {"CUDA graph, `--compile`": lane},
        "whole": {"steps": 100, "seconds": {"a": 3.4, "b": 4.6}},
    }
    rates = [{"onnxruntime: nst over naive": 1.5, "onnxruntime: nst over eager fp32": rate} for rate in (2.5, 0.5)]
    sizes = {
        f"{side}x{side}": {"floor_ms": 1.0, "ratios": at, "rows": {}} for side, at in zip((8, 9), rates, strict=True)
    }
    made = page.pages({"training_gpu": training, "gpu": {"machine": machine, "sizes": sizes}})
    text = made[Path("README.md")].replace("\n", " ")
    assert "On one NVIDIA X 100 of them take 5 s with `--compile` (2.0 ms each), after 9 s" in text
    assert "On one NVIDIA X and ONNX Runtime" in text
    assert "1.50 times as fast as the plain export, and 0.50 to 2.50 times as fast as PyTorch eager" in text
    assert "100 steps of 4 crops of 256×256 take 3 to 5 s" in made[page.PAGE].replace("\n", " ")
    assert "not measured yet" in page.pages({})[Path("README.md")]


def test_no_line_of_text_is_wider_than_the_house_is(page: ModuleType) -> None:
    lines = page.pages(page.load())[page.PAGE].splitlines()
    assert not [line for line in lines if len(line) > 120 and not line.startswith("|") and " " in line.strip()]


def test_blocks_need_both_marks_once() -> None:
    from markdown import replace_block

    text = "a <!-- x -->old\nlines<!-- /x --> b"
    assert replace_block(text, "x", "new \\1") == "a <!-- x -->new \\1<!-- /x --> b"
    assert replace_block(replace_block(text, "x", "new"), "x", "old\nlines") == text
    for broken in ("a", "<!-- /x --><!-- x -->", text + text):
        with pytest.raises(ValueError, match="once each"):
            replace_block(broken, "x", "new")


# --- targets ---------------------------------------------------------------------------------------------------------


def rows(**seconds: float) -> dict[str, dict[str, Any]]:
    """Rows of one size by their names, with ``_`` for a space: 100 MiB, 60 dB, twice the floor."""
    row = {"peak_mib": 100.0, "psnr_db": 60.0, "over_floor": 2.0}
    return {name.replace("_", " "): {**row, "seconds": value} for name, value in seconds.items()}


def by_name(sizes: dict[str, Any]) -> dict[str, Any]:
    from targets import targets

    return {target.name: target for target in targets(sizes)}


def test_a_target_is_judged_by_its_worst_size() -> None:
    good, bad = rows(naive_openvino_f32=1.5, nst_openvino_f32=1.0), rows(naive_openvino_f32=1.2, nst_openvino_f32=1.0)
    name = "nst / plain export, OpenVINO f32"
    assert by_name({"512x512": good})[name].verdict == "reached, the aim too"
    target = by_name({"512x512": good, "680x1024": bad})[name]
    assert dict(target.values) == pytest.approx({"512x512": 1.5, "680x1024": 1.2})
    assert target.verdict == "**not reached**"
    assert by_name({"512x512": rows(naive_openvino_f32=1.33, nst_openvino_f32=1.0)})[name].verdict == "reached"
    assert by_name({"256x256": good})[name].verdict == "not measured"


def test_the_best_counts_only_where_it_keeps_the_picture() -> None:
    sizes = {
        "512x512": rows(pytorch_eager_f32=10.0, nst_openvino_f32=4.0, nst_openvino_bf16=2.0, nst_int8_openvino_f32=1.0)
    }
    name = "nst's best (bf16 from 50 dB, INT8 from 34 dB) / PyTorch eager f32"
    assert by_name(sizes)[name].values["512x512"] == pytest.approx(10.0)
    sizes["512x512"]["nst int8 openvino f32"]["psnr_db"] = 33.9
    assert by_name(sizes)[name].values["512x512"] == pytest.approx(5.0)
    sizes["512x512"]["nst openvino bf16"]["psnr_db"] = None
    assert by_name(sizes)[name].values["512x512"] == pytest.approx(2.5)
    assert by_name(sizes)["nst's best f32 / PyTorch eager f32"].values["512x512"] == pytest.approx(2.5)


def test_costs_are_the_less_the_better() -> None:
    sizes = {
        "512x512": rows(nst_openvino_f32=1.0, nst_openvino_bf16=0.5),
        "1024x1024": rows(nst_openvino_f32=4.4, nst_openvino_bf16=2.0),
        "1080x1920": rows(naive_onnxruntime_f32=9.0, nst_onnxruntime_f32=9.0),
    }
    sizes["1080x1920"]["nst onnxruntime f32"]["peak_mib"] = 60.0
    found = by_name(sizes)
    spread = found["a megapixel's cost between sizes"]
    assert dict(spread.values) == pytest.approx({"openvino f32": 0.1, "openvino bf16": 0.0}, abs=1e-9)
    assert spread.verdict == "reached"
    memory = found["peak memory at 1920×1080, f32, of plain ONNX Runtime's"]
    assert memory.values["onnxruntime f32"] == pytest.approx(0.6)
    assert memory.verdict == "reached"
    floor = found["nst's bf16, times its floor"]
    assert (floor.values["512x512"], floor.verdict) == (2.0, "**not reached**")


# --- what is not committed yet ---------------------------------------------------------------------------------------


def test_gpu_and_quality(page: ModuleType) -> None:
    row = {"ms": 1.5, "p95_ms": 1.6, "call_ms": 0.1, "with_copies_ms": 2.0, "best_ms": 1.4, "speedup": 5.0}
    gpu = {
        "command": "python benchmarks/gpu.py --ckpt engines/la_muse.pth",
        "machine": {"cpu": "a CPU", "gpus": ["NVIDIA X, 1.2.3"], "torch": "9.9"},
        "sizes": {
            "680x1024": {
                "floor_ms": 0.5,
                "ratios": {"rtx: nst over naive": 1.234},
                "rows": {
                    "rtx nst fp16": {**row, "over_floor": 3.0, "psnr_db": 61.25},
                    "tensorrt nst fp16": {"not_run": "no | tensorrt"},
                },
            }
        },
        "note": "Measured in the dark.",
    }
    quality = {
        "wave": {
            "lbfgs_iterations": 42.5,
            "is_lower_bound": True,
            "photographs": 12,
            "total": 1.23456,
            "content_picture_total": 9.0,
        }
    }
    text = page.pages({"gpu": gpu, "quality": quality})[page.PAGE]
    assert "| rtx: nst over naive | 1.23 |" in text
    assert "| rtx nst fp16 | 1.500 | 1.600 | 0.100 | 2.000 | 1.400 | 5.00 | 3.00 | 61.2 |" in text
    assert "- `tensorrt nst fp16`: no | tensorrt.\n" in text
    assert "Measured in the dark." in text
    assert "| `wave` | at least 42.5 | 12 | 1.235 | 9 |" in text
    gpu["sizes"] = {
        **gpu["sizes"],
        "512x512": {"floor_ms": 0.2, "ratios": {}, "rows": {"rtx nst fp16": {"not_run": "It broke."}}},
    }
    text = page.pages({"gpu": gpu})[page.PAGE]
    assert "- `tensorrt nst fp16` at 1024×680: no | tensorrt.\n- `rtx nst fp16` at 512×512: It broke.\n" in text
    assert "NVIDIA X, 1.2.3" in text.replace("\n", " ")
