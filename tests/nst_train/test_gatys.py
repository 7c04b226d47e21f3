import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nst_train.cli import main
from nst_train.gatys import GatysConfig, starting_picture, stylize
from nst_train.objective import ObjectiveConfig, PerceptualObjective
from nst_train.pixel_descent import DescentConfig

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
