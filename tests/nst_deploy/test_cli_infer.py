from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nst_deploy import styles
from nst_deploy.cli_infer import main
from nst_deploy.images import load_picture
from tests.engines import negative, write_engine
from tests.infer import files, infer, one_line, photo


def test_one_picture_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = photo("a.png")
    assert infer("a.png") == 0
    np.testing.assert_array_equal(load_picture(here / "a.negative.png").rgb, negative(pixels))
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.startswith("a.negative.png: 17x12 px in ")
    assert shown.out.count("\n") == 1


def test_a_folder_keeps_its_shape(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = {name: photo(f"album/{name}", seed=i) for i, name in enumerate(("a.png", "sub/b.png", "sub/x/c.png"))}
    assert infer("album", "--out", "styled") == 0
    for name, expected in pixels.items():
        path = (here / "styled" / name).with_suffix(".negative.png")
        np.testing.assert_array_equal(load_picture(path).rgb, negative(expected))
    shown = capsys.readouterr()
    assert shown.out.startswith("3 pictures: 3 styled in ")
    assert "3/3 pictures" in shown.err


def test_alpha_profile_and_orientation_come_along(here: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored row 0 is the right side
    pixels = np.random.default_rng(0).integers(0, 256, (9, 14, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(here / "a.png", exif=exif)
    assert infer("a.png", "--out", "b.png") == 0
    with Image.open(here / "b.png") as image:
        upright = pixels.transpose(1, 0, 2)[:, ::-1]
        np.testing.assert_array_equal(np.asarray(image), np.dstack([negative(upright[..., :3]), upright[..., 3]]))


def test_strength_and_keep_color_reach_the_blend(here: Path) -> None:
    pixels = photo("a.png")
    assert infer("a.png", "--strength", "0", "--out", "b.png") == 0
    np.testing.assert_array_equal(load_picture(here / "b.png").rgb, pixels)
    assert infer("a.png", "--keep-color", "--out", "c.png") == 0
    luma = np.array([0.299, 0.587, 0.114])
    exact = np.clip(pixels + ((negative(pixels).astype(float) - pixels) @ luma)[..., None], 0, 255)
    assert np.abs(load_picture(here / "c.png").rgb - exact).max() <= 0.51


def test_size_and_quality(here: Path) -> None:
    photo("a.png", 60, 90)
    assert infer("a.png", "--size", "30", "--out", "b.png") == 0
    assert load_picture(here / "b.png").rgb.shape == (20, 30, 3)
    for quality in ("10", "90"):
        assert infer("a.png", "--quality", quality, "--out", f"{quality}.jpg") == 0
    assert (here / "10.jpg").stat().st_size * 2 < (here / "90.jpg").stat().st_size


def test_overwrite_and_skip_existing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo("album/a.png")
    photo("album/b.png")
    (here / "a.negative.png").write_text("mine")
    assert infer("album") == 2
    assert "--overwrite" in one_line(capsys)
    assert not (here / "b.negative.png").exists()
    assert infer("album", "--skip-existing") == 0
    assert (here / "a.negative.png").read_text() == "mine"
    assert (here / "b.negative.png").exists()
    assert "1 styled" in (out := capsys.readouterr().out)
    assert "1 skipped" in out
    assert infer("album", "--skip-existing") == 0
    assert "0 styled" in capsys.readouterr().out
    assert infer("album", "--overwrite") == 0
    assert load_picture(here / "a.negative.png").rgb.shape == (12, 17, 3)


def test_bundled_styles(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "bundled").mkdir()
    monkeypatch.setattr(styles, "_FOLDER", here / "bundled")
    photo("a.png")
    assert main(["--list"]) == 0
    assert "No style is bundled" in capsys.readouterr().out
    assert main(["a.png"]) == 2
    assert "nst-export --ckpt" in one_line(capsys)
    write_engine(here / "bundled/starry_night.onnx", style="starry_night")
    write_engine(here / "bundled/wave.onnx", style="wave")
    assert main(["--list"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.split(maxsplit=2) == ["starry_night", str(here / "bundled/starry_night.jpg"), "(the default)"]
    assert second.split() == ["wave", str(here / "bundled/wave.jpg")]
    assert main(["a.png"]) == 0
    assert main(["a.png", "--engine", "wave"]) == 0
    assert files(here) == ["a.png", "a.starry_night.png", "a.wave.png"]
    capsys.readouterr()
    assert main(["a.png", "--engine", "candy"]) == 2
    assert "bundled are starry_night, wave" in one_line(capsys)


@pytest.mark.usefixtures("here")
def test_verbose_says_what_runs(capsys: pytest.CaptureFixture[str]) -> None:
    photo("a.png")
    assert infer("a.png", "-v", "--device", "cpu") == 0
    error = capsys.readouterr().err
    for word in ("engine.onnx", "style negative", "fp32", "onnxruntime-cpu", "parity"):
        assert word in error
    assert infer("a.png", "-v", "--no-cache", "--overwrite") == 0  # auto
    fastest = "openvino-cpu" if find_spec("openvino") is not None else "onnxruntime-cpu"
    assert f"back end {fastest}, opened" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert infer(flag) == 0
    assert "nst-infer" in capsys.readouterr().out
