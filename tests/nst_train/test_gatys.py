import csv
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nst_train.cli import main
from nst_train.errors import DescentDivergedError
from nst_train.gatys import GatysConfig, starting_picture, stylize
from nst_train.objective import ObjectiveConfig, PerceptualObjective
from nst_train.pixel_descent import DescentConfig, StepReport
from tests.nst_train.full_disk import files_up_to

ROOT = Path(__file__).parents[2]

SMALL = ("--content-layers", "relu2_1", "--style-layers", "relu1_1", "relu2_2")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for name, height, width in (("content", 24, 36), ("style", 40, 30)):
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return tmp_path


def command(pictures: Path, vgg: Path, *more: str) -> list[str]:
    names = ("--style", str(pictures / "style.png"), "--content", str(pictures / "content.png"))
    return ["gatys", *names, "--vgg-weights", str(vgg), "--out", str(pictures / "out.png"), *SMALL, *more]


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_writes_pictures_and_the_trace(
    suffix: str, pictures: Path, small_vgg: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = pictures / f"trace.{suffix}"
    options = ("--iterations", "10", "--every", "5", "--trace", str(trace), "--size", "24", "--style-size", "30,20")
    assert main(command(pictures, small_vgg, *options)) == 0
    written = sorted(path.name for path in pictures.iterdir())
    assert written == sorted(
        ["content.png", "style.png", "out.png", "out_00.png", "out_05.png", "out_10.png", trace.name]
    )
    assert capsys.readouterr().out == f"{pictures / 'out.png'}\n"
    assert Image.open(pictures / "out.png").size == (24, 16)
    assert (pictures / "out.png").read_bytes() == (pictures / "out_10.png").read_bytes()
    with trace.open() as file:
        rows = json.load(file) if suffix == "json" else list(csv.DictReader(file))
    assert [int(row["iteration"]) for row in rows] == list(range(11))
    totals = [float(row["total"]) for row in rows]
    assert totals[-1] < 0.5 * totals[0]
    last = rows[-1]
    weighted = float(last["content"]) + 4.0 * float(last["style"]) + 2e-6 * float(last["total_variation"])
    weighted += 1e-2 * float(last["grid"])
    assert weighted == pytest.approx(totals[-1], rel=1e-5)


def test_trace_is_trainings_objective(pictures: Path, small_vgg: Path) -> None:
    objective_config = ObjectiveConfig(content_layers=("relu2_1",), style_layers=("relu1_1",))
    config = GatysConfig(
        style=pictures / "style.png",
        content=pictures / "content.png",
        style_size=(40,),
        vgg_weights=small_vgg,
        objective=objective_config,
        descent=DescentConfig(iterations=3),
    )
    read = {name: torch.from_numpy(np.array(Image.open(pictures / f"{name}.png"))) for name in ("content", "style")}
    content, style = (picture.permute(2, 0, 1)[None].float() for picture in read.values())
    objective = PerceptualObjective(objective_config, [style], vgg_weights=small_vgg)
    for report in stylize(config):
        wanted = objective(report.image, objective.targets(content))
        assert report.total == pytest.approx(float(wanted.total), rel=1e-4)
        if report.iteration == 0:
            assert report.content == 0
            assert torch.equal(report.image, content)


def test_starting_pictures() -> None:
    content, style = torch.rand(1, 3, 8, 12) * 255, torch.rand(1, 3, 20, 10) * 255
    assert torch.equal(starting_picture("content", content, style, 0), content)
    stretched = starting_picture("style", content, style, 0)
    assert stretched.shape == content.shape
    assert float(stretched.mean()) == pytest.approx(float(style.mean()), rel=0.05)
    noise = starting_picture("noise", content, style, 3)
    assert torch.equal(noise, starting_picture("noise", content, style, 3))
    assert not torch.equal(noise, starting_picture("noise", content, style, 4))


@pytest.mark.parametrize("start", ["style", "noise"])
def test_other_starts_and_adam(start: str, pictures: Path, small_vgg: Path) -> None:
    options = ("--start", start, "--optimizer", "adam", "--iterations", "15", "--trace", str(pictures / "t.csv"))
    assert main(command(pictures, small_vgg, *options)) == 0
    with (pictures / "t.csv").open() as file:
        totals = [float(row["total"]) for row in csv.DictReader(file)]
    assert totals[-1] < totals[0]
    assert Image.open(pictures / "out.png").size == (36, 24)


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (("--style", "nowhere.jpg"), 1, "nowhere.jpg"),
        (("--content", "nowhere.jpg"), 1, "--content: nowhere.jpg does not exist"),
        (("--content", "FOLDER"), 1, "is a folder, expected a picture"),
        (("--content", "BROKEN"), 1, "cannot read"),
        (("--vgg-weights", "nowhere.pth"), 1, "No VGG weights at nowhere.pth"),
        (("--content-layers", "relu3_1"), 1, "stops at relu2_2, but layer relu3_1 was asked for"),
        (("--content-layers", "conv1_1"), 2, "no layer 'conv1_1'"),
        (("--style-size", "1"), 1, "needs at least 2x2"),
        (("--style-size",), 2, "--style-size: no size given"),
        (("--size", "0"), 2, "--size: 0 given, expected at least 1"),
        (("--iterations", "many"), 2, "--iterations"),
        (("--start", "nothing"), 2, "--start"),
        (("--out", "picture.xyz"), 2, "--out: picture.xyz has no known suffix"),
        (("--trace", "trace.xml"), 2, "--trace: trace.xml has no known suffix"),
        (("--out", "/nowhere/at/all.png"), 1, "Cannot write /nowhere/at/all.png"),
    ],
)
def test_bad_input_is_one_line(
    change: tuple[str, ...],
    code: int,
    message: str,
    pictures: Path,
    small_vgg: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (pictures / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    named = {"FOLDER": str(pictures), "BROKEN": str(pictures / "broken.jpg")}
    before = sorted(pictures.iterdir())
    try:
        result = main(command(pictures, small_vgg, "--iterations", "1", *(named.get(word, word) for word in change)))
    except SystemExit as error:  # argparse's own complaints
        result = int(error.code or 0)
    assert result == code
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1
    assert message in complaint
    assert sorted(pictures.iterdir()) == before


def test_real_painting_and_photograph(shared_data: Path, real_vgg: Path, tmp_path: Path) -> None:
    config = GatysConfig(
        style=shared_data / "styles" / "la_muse.jpg",
        content=shared_data / "photos" / "chicago.jpg",
        size=64,
        style_size=(96,),
        vgg_weights=real_vgg,
        descent=DescentConfig(iterations=15),
    )
    reports = list(stylize(config))
    assert reports[-1].total < 0.5 * reports[0].total
    assert reports[-1].content < 0.6  # the photograph is still there


# --- what is there already -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"), [("out.png", ()), ("t.csv", ("--trace", "TRACE")), ("out_2.png", ("--every", "2"))]
)
def test_replaces_only_with_overwrite(
    name: str, options: tuple[str, ...], pictures: Path, small_vgg: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = pictures / name
    there.write_bytes(b"dear to someone")
    more = ("--iterations", "2", *(str(pictures / "t.csv") if word == "TRACE" else word for word in options))
    before = sorted(pictures.iterdir())
    assert main(command(pictures, small_vgg, *more)) == 2
    complaint = f"nst-train: error: {there} exists already. Replace it with --overwrite, or choose another name\n"
    assert capsys.readouterr().err == complaint
    assert there.read_bytes() == b"dear to someone"
    assert sorted(pictures.iterdir()) == before
    assert main(command(pictures, small_vgg, *more, "--overwrite")) == 0
    assert there.read_bytes() != b"dear to someone"


def test_pictures_of_other_iterations_are_not_in_the_way(pictures: Path, small_vgg: Path) -> None:
    for name in ("out_1.png", "out_4.png", "out_02.png", "out_x.png"):
        (pictures / name).touch()
    assert main(command(pictures, small_vgg, "--iterations", "3", "--every", "2")) == 0


def test_a_file_that_appears_meanwhile_stays(pictures: Path, small_vgg: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = pictures / "out.png"

    def meanwhile(config: GatysConfig) -> Iterator[StepReport]:
        out.write_bytes(b"dear to someone")
        yield from stylize(config)

    monkeypatch.setattr("nst_train.gatys.stylize", meanwhile)
    assert main(command(pictures, small_vgg, "--iterations", "1")) == 1
    assert out.read_bytes() == b"dear to someone"


def test_the_photograph_is_never_written_onto(pictures: Path, small_vgg: Path) -> None:
    photograph = pictures / "content.png"
    before = photograph.read_bytes()
    assert main(command(pictures, small_vgg, "--out", str(photograph), "--overwrite")) == 2
    assert photograph.read_bytes() == before


# --- an early end ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_the_picture_and_the_trace(number: int, code: int, pictures: Path, small_vgg: Path) -> None:
    trace = pictures / "t.csv"
    options = ("--iterations", "1000000", "--every", "1", "--trace", str(trace), "--optimizer", "adam")
    # A suite that a shell started in the background would pass on a SIGINT that is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", "nst_train", *command(pictures, small_vgg, *options)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 120
    while not (pictures / "out_0000003.png").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    shown = process.communicate(timeout=60)[1]
    assert process.returncode == code, shown
    told = re.search(r"Stopped; \S*out\.png is the picture after iteration (\d+)\n", shown)
    assert told, shown
    assert int(told[1]) >= 3
    kept = np.asarray(Image.open(pictures / "out.png"))
    last, before_it = (pictures / f"out_{int(told[1]) - back:07d}.png" for back in (0, 1))
    if last.exists():  # the signal may come before it does
        assert np.array_equal(kept, Image.open(last))
    else:
        assert not np.array_equal(kept, Image.open(before_it))
    with trace.open() as file:
        assert [int(row["iteration"]) for row in csv.DictReader(file)] == list(range(int(told[1]) + 1))
    assert "Traceback" not in shown
    assert not list(pictures.glob(".*"))


def ends_badly_after(count: int, error: BaseException) -> Callable[[GatysConfig], Iterator[StepReport]]:
    def few(config: GatysConfig) -> Iterator[StepReport]:
        yield from itertools.islice(stylize(config), count)
        raise error

    return few


def test_a_divergence_keeps_the_last_good_picture(
    pictures: Path, small_vgg: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nst_train.gatys.stylize", ends_badly_after(3, DescentDivergedError(3, float("nan"))))
    assert main(command(pictures, small_vgg, "--trace", str(pictures / "t.csv"))) == 1
    shown = capsys.readouterr()
    assert shown.err == (
        "nst-train: error: The optimisation diverged at iteration 3: the objective is nan; "
        f"{pictures / 'out.png'} is the picture after iteration 2. "
        "Lower the weights of the objective, or with --optimizer adam lower --adam-lr\n"
    )
    assert shown.out == ""
    assert Image.open(pictures / "out.png").size == (36, 24)
    with (pictures / "t.csv").open() as file:
        assert [row["iteration"] for row in csv.DictReader(file)] == ["0", "1", "2"]


def test_a_divergence_at_once_leaves_nothing(
    pictures: Path, small_vgg: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(pictures.iterdir())
    options = ("--style-weight", "1e300", "--trace", str(pictures / "t.csv"))
    assert main(command(pictures, small_vgg, *options)) == 1
    assert "diverged at iteration 0" in capsys.readouterr().err
    assert sorted(pictures.iterdir()) == before


def test_a_full_disk_is_one_line(pictures: Path, small_vgg: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(pictures.iterdir())
    with files_up_to(100):
        assert main(command(pictures, small_vgg, "--iterations", "2", "--every", "1")) == 1
    complaint = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(r"nst-train: error: Cannot write \S*out_0\.png: File too large\. .*", complaint)
    assert sorted(pictures.iterdir()) == before
