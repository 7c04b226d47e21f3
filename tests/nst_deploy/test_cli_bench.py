import json
import os
import subprocess
import sys
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nst_deploy import cli_bench
from nst_deploy.cli_bench import main
from tests.engines import write_engine

Run = subprocess.CompletedProcess[str]
TINY = ("--engine", "engine.onnx", "--size", "16x12,9x30", "--runs", "2", "--threads", "1")


def command(*arguments: str, hidden: tuple[str, ...] = (), code: str = "") -> Run:
    """nst-bench in a process of its own, in which the packages ``hidden`` do not load; ``code`` runs afterwards."""
    for package in hidden:
        Path("hidden").mkdir(exist_ok=True)
        (Path("hidden") / f"{package}.py").write_text("raise ImportError('made so by a test')")
    program = f"import sys; from nst_deploy.cli_bench import main; code = main({list(arguments)!r}); {code}\nexit(code)"
    paths = [str(Path("hidden").resolve()), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)


def bench(*arguments: str) -> int:
    try:
        return main(arguments)
    except SystemExit as end:  # argparse's own way out
        return int(end.code or 0)


@pytest.mark.usefixtures("here")
def test_every_variant_at_every_size() -> None:
    modules = "print(sorted({name.split('.')[0] for name in sys.modules}))"
    done = command(*TINY, "--json", "new/folder/a.json", "--plot", "a.png", code=modules)
    assert done.returncode == 0, done.stderr
    content = json.loads(Path("new/folder/a.json").read_text())
    ran = [(row["device"], row["precision"], row["width"], row["height"]) for row in content["rows"]]
    assert {("cpu", None, 16, 12), ("cpu", None, 9, 30)} <= set(ran)
    assert len(ran) + sum(1 if absent["width"] else 2 for absent in content["not_run"]) == 8
    for row in content["rows"]:
        assert len(row["seconds"]) == 2
        assert row["median_ms"] == pytest.approx(1e3 * np.mean(row["seconds"]))
        assert row["parity"]["max_levels"] <= (0 if row["precision"] is None else 2)  # a negative is exact in float32
    assert content["style"] == "negative"
    assert content["command"].startswith("nst-bench --engine engine.onnx")
    assert content["machine"]["numpy"] == np.__version__
    best = content["recommended"][0]
    assert f"Recommended: {best['flags']}" in done.stdout
    assert "16x12" in done.stdout
    assert "24/24 runs" in done.stderr
    with Image.open("a.png") as plot:
        assert plot.format == "PNG"
    for package in ("torch", "onnx", "onnxruntime", "openvino"):
        assert f"'{package}'" not in done.stdout.splitlines()[-1]


@pytest.mark.usefixtures("here")
def test_what_is_not_installed_is_named_once_and_the_rest_measured() -> None:
    done = command(*TINY, hidden=("openvino",))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("openvino was not run: openvino is installed but cannot be loaded: made so by a test") == 1
    assert done.stdout.count("reference") == 2
    assert "Recommended: --device cpu; auto takes openvino, so name it" in done.stdout


@pytest.mark.usefixtures("here")
def test_no_back_end_at_all() -> None:
    done = command(*TINY, hidden=("openvino", "onnxruntime"))
    assert done.returncode == 1
    assert "cpu was not run" in done.stdout
    assert done.stderr.splitlines()[-1].startswith("nst-bench: error: no back end could run this engine")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--engine", "no.onnx"), 1, "No engine at no.onnx"),
        (("--engine", "no_such_style"), 2, "no_such_style"),
        (("--engine", "text.onnx"), 1, "not an ONNX model"),
        (("--engine", "static.onnx", "--size", "16x16"), 2, "exported for 20x12 px only"),
        (("--engine", "engine.onnx", "--size", "512"), 2, "'512' given, expected width x height from 8 px"),
        (("--engine", "engine.onnx", "--size", "16x16,7x16"), 2, "'7x16' given"),
        (("--engine", "engine.onnx", "--runs", "0"), 2, "'0' given, expected a whole number, 1.."),
        (("--engine", "engine.onnx", "--threads", "many"), 2, "'many' given"),
        (("--engine", "engine.onnx", "--precision", "fp8"), 2, "invalid choice: 'fp8'"),
        (("--engine", "engine.onnx", "--ckpt", "a.pth"), 2, "not allowed with"),
        (("--engine", "engine.onnx", "--picture", "no.jpg"), 1, "No picture at no.jpg"),
        (("--engine", "engine.onnx", "--json", "text.onnx/a.json"), 1, "Cannot write text.onnx"),
        (("--engine", "engine.onnx", "--plot", "text.onnx/a.png"), 1, "Cannot write text.onnx"),
    ],
)
def test_bad_input_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, message: str
) -> None:
    (here / "text.onnx").write_text("no model")
    write_engine(here / "static.onnx", static_size=(12, 20))
    before = sorted(here.iterdir())
    assert bench(*arguments) == code
    error = capsys.readouterr().err
    assert error.startswith("nst-bench: error: ")
    assert error.count("\n") == 1
    assert message in error
    assert sorted(here.iterdir()) == before


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
@pytest.mark.usefixtures("here")
def test_a_checkpoint_that_cannot_be_exported(capfd: pytest.CaptureFixture[str]) -> None:
    assert bench("--ckpt", "no.pth") == 1
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("nst-export: error: ")
    assert "no.pth" in last


@pytest.mark.parametrize("has_gpu", [False, True])
def test_a_checkpoint_is_exported_for_what_there_is(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, has_gpu: bool
) -> None:
    asked: list[tuple[str, ...]] = []

    def export(ckpt: Path, folder: Path, *options: str) -> Run:
        asked.append(options)
        if "fp32,int8" in options:
            write_engine(folder / f"{ckpt.stem}.onnx")
            write_engine(folder / f"{ckpt.stem}.int8.onnx", precision="int8")
        return subprocess.CompletedProcess([], int("rtx" in options), "", "reading\nnst-export: error: no room\n")

    monkeypatch.setattr(cli_bench, "why_no_gpu", lambda: None if has_gpu else "there is none")
    monkeypatch.setattr(cli_bench, "find_spec", lambda name: object() if name == "tensorrt_rtx" else None)
    monkeypatch.setattr(cli_bench, "_run_export", export)
    with ExitStack() as stack:
        assert cli_bench._export(here / "a.pth", stack).name == "a.onnx"
    plan = ("--format", "plan", "--trt-flavor", "rtx")
    onnx = ("--format", "onnx", "--precision")
    assert asked == ([(*onnx, "fp32,int8"), (*onnx, "fp16"), plan] if has_gpu else [(*onnx, "fp32,int8")])
    failure = "nst-export --format plan --trt-flavor rtx: nst-export: error: no room\n"
    assert capsys.readouterr().err.removeprefix(f"exporting {here / 'a.pth'}\n") == (failure if has_gpu else "")


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(flag) == 0
    assert "nst-bench" in capsys.readouterr().out
