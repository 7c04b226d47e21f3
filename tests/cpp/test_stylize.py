"""``stylize``: picture files in, picture files out."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nst_deploy import Stylizer
from tests.cpp import build
from tests.cpp.conftest import Built
from tests.engines import negative, write_engine
from tests.pictures import names_in, png_claiming

Array = np.ndarray
PHOTO = build.ROOT / "nst_deploy" / "export" / "photographs" / "rocket.jpg"


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_engine(tmp_path / "negative.onnx")


def noise(height: int = 13, width: int = 22, channels: int = 3) -> Array:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def stylize(built: Built, *arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout, and stderr, which is one line where it fails."""
    done = built.run(built.stylize, *arguments)
    error = done.stderr.decode()
    if done.returncode:
        assert error.startswith("stylize: error: ")
        assert error.count("\n") == 1
    return done.returncode, done.stdout.decode(), error


@pytest.mark.parametrize("device", ["openvino", "cpu"])
@pytest.mark.parametrize("suffix", ["png", "ppm"])
def test_pixels_without_loss(built: Built, engine: Path, device: str, suffix: str) -> None:
    pixels = noise()
    Image.fromarray(pixels).save(f"a.{suffix}")
    code, out, _ = stylize(built, "--engine", engine, "--device", device, f"a.{suffix}")
    assert (code, out.split(" in ")[0]) == (0, f"a.negative.{suffix}: 22x13 px")
    np.testing.assert_array_equal(np.asarray(Image.open(f"a.negative.{suffix}")), negative(pixels))


def test_alpha_stays(built: Built, engine: Path) -> None:
    pixels = noise(channels=4)
    Image.fromarray(pixels).save("a.png")
    assert stylize(built, "--engine", engine, "a.png", "--out", "b.png")[0] == 0
    styled = np.asarray(Image.open("b.png"))
    np.testing.assert_array_equal(styled[..., 3], pixels[..., 3])
    np.testing.assert_array_equal(styled[..., :3], negative(pixels[..., :3]))


@pytest.mark.parametrize("mode", ["L", "P", "1", "I;16"])
def test_other_kinds_of_png(built: Built, engine: Path, mode: str) -> None:
    values = noise(16, 16)[..., 0]
    wide = Image.fromarray(values.astype(np.uint16) * 257)
    (wide if mode == "I;16" else Image.fromarray(values).convert(mode)).save("a.png")
    assert stylize(built, "--engine", engine, "a.png", "--out", "b.ppm")[0] == 0
    shown = Image.fromarray(values).convert("L" if mode == "I;16" else mode).convert("RGB")
    np.testing.assert_array_equal(np.asarray(Image.open("b.ppm")), negative(np.asarray(shown)))


def test_pnm_of_one_and_two_bytes_with_comments(built: Built, engine: Path) -> None:
    values = noise(8, 9)[..., 0]
    gray = np.repeat(values[..., None], 3, axis=2)
    Path("a.pgm").write_bytes(b"P5 # gray\n# two\n9\n8 255\n" + values.tobytes())
    Path("b.pgm").write_bytes(b"P5\n9 8\n65535\n" + (values.astype(">u2") * 257).tobytes())
    Path("c.ppm").write_bytes(b"P6\n9 8\n51\n" + (gray // 5).tobytes())
    for name, expected in (("a.pgm", gray), ("b.pgm", gray), ("c.ppm", gray // 5 * 5)):
        assert stylize(built, "--engine", engine, name, "--out", "o.png", "--overwrite")[0] == 0
        np.testing.assert_array_equal(np.asarray(Image.open("o.png")), negative(expected))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpegs_come_out_upright(built: Built, engine: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    smooth = np.linspace(0, 255, 16 * 24 * 3).reshape(16, 24, 3).astype(np.uint8)
    Image.fromarray(smooth).save("a.jpg", quality=95, subsampling=0, exif=exif)
    assert stylize(built, "--engine", engine, "a.jpg", "--out", "b.png")[0] == 0
    upright = Stylizer(engine)(Image.open("a.jpg"))
    assert np.abs(np.asarray(upright).astype(int) - np.asarray(Image.open("b.png"))).max() <= 1


def test_a_photograph_as_python_styles_it(built: Built, tmp_path: Path) -> None:
    engine = build.STYLES / "la_muse_half.onnx"
    Image.open(PHOTO).resize((150, 101)).save(tmp_path / "a.png")
    assert stylize(built, "--engine", engine, tmp_path / "a.png", "--out", tmp_path / "b.png")[0] == 0
    assert stylize(built, "--engine", engine, tmp_path / "a.png", "--out", tmp_path / "b.jpg")[0] == 0
    expected = np.asarray(Stylizer(engine, device="openvino")(Image.open(tmp_path / "a.png"))).astype(int)
    assert np.abs(expected - np.asarray(Image.open(tmp_path / "b.png"))).max() <= 1
    assert np.square(expected - np.asarray(Image.open(tmp_path / "b.jpg"))).mean() < 20  # JPEG's own loss


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        ([], 2, "0 pictures given, expected one"),
        (["a.png", "b.png"], 2, "2 pictures given, expected one"),
        (["a.png", "--engine"], 2, "--engine needs a value"),
        (["a.png", "--engin", "x"], 2, "unknown option --engin"),
        (["a.png", "--engine="], 2, "--engine is missing or empty"),
        (["a.png", "--overwrite=1"], 2, "--overwrite takes no value"),
        (["a.png", "--out", "b.gif"], 2, "no picture format with suffix '.gif' is in this build, use one of .ppm"),
        (["a.png", "--out", "b"], 2, "no picture format without a suffix"),
        (["a.png", "--out", "a.png"], 2, "a.png exists already: replace it with --overwrite"),
        (["a.png", "--device", "gpu"], 2, "--device: 'gpu' given, expected auto, openvino, cpu, cuda or tensorrt"),
        (["a.png", "--device", "tensorrt"], 2, "--device tensorrt is not in this build: build it where CMake finds"),
        (["a.png", "--device", "cpu", "--precision", "bf16"], 2, "--device cpu does not compute in bf16"),
        (["a.png", "--precision", "fp16"], 2, "--precision: 'fp16' given, expected bf16"),
        (["a.png", "--threads", "0"], 2, "--threads: '0' given, expected a whole number, 1..256"),
        (["a.png", "--threads", "two"], 2, "--threads: 'two' given"),
        (["none.png"], 1, "No picture at none.png. Check the path"),
        (["."], 1, "No picture at ."),
        (["empty.png"], 1, "Cannot read empty.png as a picture: the file is empty"),
        (["text.png"], 1, "Cannot read text.png as a picture: it is damaged or of a kind that this build does not"),
        (["cut.png"], 1, "Cannot read cut.png as a picture: "),
        (["cut.jpg"], 1, "Cannot read cut.jpg as a picture: "),
        (["cut.ppm"], 1, "Cannot read cut.ppm as a picture: it is cut short"),
        (["bomb.png"], 1, "bomb.png claims more than 178956970 pixels, as decompression bombs do"),
        (["bomb.ppm"], 1, "bomb.ppm claims more than 178956970 pixels, as decompression bombs do"),
        (["print.jpg"], 1, "Cannot read print.jpg as a picture: its colours are those of print (CMYK)"),
        (["tiny.png"], 1, "The picture is 7x9 px (width x height), expected at least 8x8 px"),
        (["a.png", "--engine", "none.onnx"], 1, "No engine at none.onnx. Check the path"),
        (["a.png", "--out", "nowhere/b.png"], 1, "Cannot write nowhere/b.png: No such file or directory"),
    ],
)  # fmt: skip
def test_one_line_says_what_is_wrong(built: Built, engine: Path, arguments: list[str], code: int, reason: str) -> None:
    Image.fromarray(noise()).save("a.png")
    Image.fromarray(noise()).save("b.jpg")
    Image.fromarray(noise(9, 7)).save("tiny.png")
    Image.fromarray(noise(9, 8, 4), mode="CMYK").save("print.jpg")
    Path("empty.png").touch()
    Path("text.png").write_text("no picture")
    Path("cut.png").write_bytes(Path("a.png").read_bytes()[:200])
    Path("cut.jpg").write_bytes(Path("b.jpg").read_bytes()[:-200])
    Path("cut.ppm").write_bytes(b"P6\n9 8\n255\n" + bytes(9 * 8 * 3 - 1))
    Path("bomb.png").write_bytes(png_claiming(60000, 60000))
    Path("bomb.ppm").write_bytes(b"P6\n60000 60000\n255\n")
    before = names_in(Path())
    given = arguments if any(a.startswith("--engine") for a in arguments) else ["--engine", str(engine), *arguments]
    found, _, error = stylize(built, *given)
    assert reason in error
    assert found == code
    assert names_in(Path()) == before  # nothing half-written


def test_every_cut_of_a_picture_is_refused(built: Built, engine: Path) -> None:
    for suffix in ("png", "jpg"):
        Image.fromarray(noise()).save(f"whole.{suffix}")
        whole = Path(f"whole.{suffix}").read_bytes()
        for length in range(0, len(whole) - 12, len(whole) // 9):
            Path(f"cut.{suffix}").write_bytes(whole[:length])
            code, _, error = stylize(built, "--engine", engine, f"cut.{suffix}", "--out", "o.png")
            assert code == 1
            assert f"Cannot read cut.{suffix} as a picture" in error


def test_help(built: Built) -> None:
    code, out, _ = stylize(built, "--help")
    assert code == 0
    assert out.startswith("usage: stylize --engine FILE")
