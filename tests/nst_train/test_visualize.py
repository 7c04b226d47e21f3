from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nst_train.cli import main
from nst_train.contact_sheet import MARGIN, PAPER, Row, Tile, draw_sheet
from nst_train.errors import ConfigError, LayerNotInWeightsError
from nst_train.loss_network import LossNetwork
from nst_train.pixel_descent import DescentConfig
from nst_train.visualize import (
    VisualizeConfig,
    feature_sheet,
    layers_to_see,
    reconstruction_sheet,
    reconstructions,
    strongest_channels,
)


@pytest.fixture
def painting(tmp_path: Path) -> Path:
    """Broad stripes: something that noise is not."""
    levels = np.zeros((24, 36, 3), dtype=np.uint8)
    levels[:, :18] = (200, 60, 30)
    levels[:, 18:] = (20, 120, 220)
    Image.fromarray(levels).save(tmp_path / "stripes.png")
    return tmp_path / "stripes.png"


def as_tensor(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None].float()


def config(painting: Path, vgg: Path, iterations: int = 3) -> VisualizeConfig:
    return VisualizeConfig(
        content=painting, style=painting, vgg_weights=vgg, maps=4, descent=DescentConfig(iterations=iterations)
    )


def test_layers_to_see(painting: Path, small_vgg: Path, real_vgg: Path) -> None:
    assert layers_to_see(config(painting, small_vgg)) == ("relu1_1", "relu2_1")
    assert layers_to_see(config(painting, real_vgg)) == ("relu1_1", "relu2_1", "relu3_1")
    chosen = VisualizeConfig(content=painting, layers=("relu2_2", "relu1_2"), vgg_weights=small_vgg)
    assert layers_to_see(chosen) == ("relu1_2", "relu2_2")


def test_reconstructions_are_single_layers_and_nested_sets(painting: Path, small_vgg: Path) -> None:
    content = dict(reconstructions(config(painting, small_vgg), "content"))
    assert [(o.content_layers, o.style_layers) for o in content.values()] == [(("relu1_1",), ()), (("relu2_1",), ())]
    assert list(content) == ["relu1_1", "relu2_1"]
    style = dict(reconstructions(config(painting, small_vgg), "style"))
    assert [(o.content_layers, o.style_layers) for o in style.values()] == [
        ((), ("relu1_1",)),
        ((), ("relu1_1", "relu2_1")),
    ]
    assert list(style) == ["relu1_1", "+ relu2_1"]


def test_content_reconstruction_finds_the_picture_again(painting: Path, small_vgg: Path) -> None:
    """The first layer keeps everything, so its reconstruction has to be the original."""
    picture = as_tensor(painting)
    first = VisualizeConfig(
        content=painting,
        vgg_weights=small_vgg,
        layers=("relu1_1",),
        smoothness=0.0,
        descent=DescentConfig(iterations=60),
    )
    sheet = np.array(reconstruction_sheet(first, "content", picture, "stripes")).astype(float)
    tiles = find_tiles(sheet, 24, 36)
    assert len(tiles) == 2
    original, found = tiles
    assert np.array_equal(original, picture[0].permute(1, 2, 0).numpy())
    assert np.abs(found - original).mean() < 3


def find_tiles(sheet: np.ndarray, height: int, width: int) -> list[np.ndarray]:
    """Pictures of ``height`` rows: the first run of as many rows that are not paper at the left margin."""
    inked = (sheet[:, MARGIN + width // 2] != PAPER).any(axis=1)
    top = next(y for y in range(len(inked)) if inked[y : y + height].all() and inked[y : y + height].size == height)
    row = sheet[top : top + height]
    columns = (row != PAPER).any(axis=2).all(axis=0)
    starts = [x for x in range(1, len(columns)) if columns[x] and not columns[x - 1]]
    return [row[:, x : x + width] for x in starts]


def test_style_reconstruction_watches_every_iteration(painting: Path, small_vgg: Path) -> None:
    seen: list[tuple[int, float]] = []
    reconstruction_sheet(
        config(painting, small_vgg, 8),
        "style",
        as_tensor(painting),
        "stripes",
        lambda report: seen.append((report.iteration, report.style)),
    )
    assert [iteration for iteration, _ in seen] == [*range(9), *range(9)]
    assert seen[8][1] < 0.2 * seen[0][1]


def test_strongest_channels_vary_most_inside(painting: Path, small_vgg: Path) -> None:
    maps = torch.zeros(4, 16, 16)
    maps[1, 4:12, 4:8] = 3.0
    maps[2, 4:12, 4:8] = 5.0
    maps[3, 0, :] = 100.0  # only at the border, where the padding is seen
    maps[0] += 50.0  # bright, but the same everywhere
    assert strongest_channels(maps, 2) == [2, 1]
    activations = LossNetwork("vgg19", ["relu1_1"], weights=small_vgg)(as_tensor(painting))["relu1_1"][0]
    assert len(strongest_channels(activations, 1000)) == 64


def test_feature_sheet_shows_a_row_per_layer(painting: Path, small_vgg: Path) -> None:
    few, many = (
        feature_sheet(
            VisualizeConfig(content=painting, vgg_weights=small_vgg, layers=layers, maps=4),
            as_tensor(painting),
            "stripes",
        )
        for layers in (("relu1_1",), ("relu1_1", "relu1_2", "relu2_2"))
    )
    assert many.height > few.height + 2 * 128
    assert many.width == few.width


def test_sheet_of_any_tiles() -> None:
    red, tall = Image.new("RGB", (30, 20), (255, 0, 0)), Image.new("L", (10, 60), 0)
    sheet = draw_sheet("Title", [Row("heading", [Tile(red, "a long label", "note"), Tile(tall)]), Row("", [Tile(red)])])
    pixels = np.array(sheet)
    assert (pixels == (255, 0, 0)).all(axis=2).sum() == 2 * 30 * 20
    assert (pixels[:MARGIN] == PAPER).all()
    assert (pixels[:, -MARGIN:] == PAPER).all()
    scaled = np.array(draw_sheet("Title", [Row("", [Tile(red)])], tile_size=(60, 40)))
    assert (scaled == (255, 0, 0)).all(axis=2).sum() == 60 * 40


def test_command(painting: Path, small_vgg: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "sheets"
    options = ["--vgg-weights", str(small_vgg), "--out", str(out), "--iterations", "2", "--maps", "3"]
    assert main(["visualize", "--content", str(painting), "--style", str(painting), *options]) == 0
    names = [f"stripes_{sheet}.png" for sheet in ("features", "content", "style")]
    assert capsys.readouterr().out.split() == [str(out / name) for name in names]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    assert all(Image.open(out / name).width > 100 for name in names)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ((), 2, "--content: no picture given"),
        (("--content", "nowhere.jpg"), 1, "nowhere.jpg does not exist"),
        (("--style", "PAINTING", "--sheets", "features"), 2, "the features sheet needs --content"),
        (("--style", "PAINTING", "--sheets", "gradients"), 2, "--sheets: no sheet 'gradients'"),
        (("--style", "PAINTING", "--layers", "relu4_1"), 1, "stops at relu2_2, but layer relu4_1"),
        (("--style", "PAINTING", "--layers", "relu9_1"), 2, "no layer 'relu9_1'"),
        (("--style", "PAINTING", "--out", "PAINTING"), 1, "stripes.png: Not a directory"),
        (("--style", "PAINTING", "--size", "1"), 1, "needs at least 2x2"),
    ],
)
def test_bad_input_is_one_line(
    options: tuple[str, ...],
    code: int,
    message: str,
    painting: Path,
    small_vgg: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [str(painting) if word == "PAINTING" else word for word in options]
    out = [] if "--out" in given else ["--out", str(tmp_path)]
    assert main(["visualize", *given, *out, "--vgg-weights", str(small_vgg), "--iterations", "1"]) == code
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1
    assert message in complaint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stripes.png"]


@pytest.mark.parametrize("there", ["stripes_features.png", "stripes_style.png"])
def test_replaces_only_with_overwrite(
    there: str, painting: Path, small_vgg: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / there).write_bytes(b"dear to someone")
    options = ["--style", str(painting), "--content", str(painting), "--out", str(tmp_path), "--iterations", "1"]
    command = ["visualize", *options, "--vgg-weights", str(small_vgg)]
    before = sorted(tmp_path.iterdir())
    assert main(command) == 2
    complaint = f"nst-train: error: {tmp_path / there} exists already. Replace it with --overwrite, or choose another"
    assert capsys.readouterr().err == f"{complaint} name\n"
    assert sorted(tmp_path.iterdir()) == before
    assert main([*command, "--overwrite"]) == 0
    assert Image.open(tmp_path / there).width > 100


def test_python_gets_the_same_errors(painting: Path, small_vgg: Path) -> None:
    with pytest.raises(ConfigError):
        VisualizeConfig()
    with pytest.raises(LayerNotInWeightsError):
        feature_sheet(
            VisualizeConfig(content=painting, layers=("relu5_1",), vgg_weights=small_vgg), as_tensor(painting), "x"
        )
