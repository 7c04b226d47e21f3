from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nst_common.errors import UsageError
from nst_deploy import Stylizer
from nst_deploy.errors import EngineNotFoundError, NotAPictureError, PictureSizeError, UnknownStyleError
from tests.engines import negative, write_engine
from tests.icc_profiles import linear_rgb

Array = np.ndarray


@pytest.fixture(scope="module")
def stylize(tmp_path_factory: pytest.TempPathFactory) -> Stylizer:
    return Stylizer(write_engine(tmp_path_factory.mktemp("engine") / "negative.onnx"), threads=1)


def photo(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def test_an_array(stylize: Stylizer) -> None:
    picture = photo(9, 14)
    np.testing.assert_array_equal(stylize(picture), negative(picture))


def test_a_batch(stylize: Stylizer) -> None:
    batch = photo(3, 9, 14)
    np.testing.assert_array_equal(stylize(batch), negative(batch))
    assert stylize(batch[:0]).shape == (0, 9, 14, 3)


def test_views_in_any_memory_order(stylize: Stylizer) -> None:
    picture = photo(20, 30)
    for view in (picture[::2], picture[:, ::-1], picture.transpose(1, 0, 2), np.asfortranarray(picture)):
        np.testing.assert_array_equal(stylize(view), negative(view))


def test_a_list_keeps_order_kind_and_size(stylize: Stylizer) -> None:
    pictures = [photo(9, 14), photo(8, 8, seed=1), photo(9, 14, seed=2)]
    styled = stylize([pictures[0], Image.fromarray(pictures[1]), pictures[2]])
    assert isinstance(styled[1], Image.Image)
    for given, got in zip(pictures, styled, strict=True):
        np.testing.assert_array_equal(np.asarray(got), negative(given))


def test_a_pil_picture_keeps_alpha_and_profile(stylize: Stylizer) -> None:
    pixels = np.dstack([photo(9, 14), np.arange(9 * 14, dtype=np.uint8).reshape(9, 14)])
    picture = Image.fromarray(pixels)
    picture.info["icc_profile"] = linear_rgb()
    styled = stylize(picture)
    assert styled.mode == "RGBA"
    assert styled.info["icc_profile"] == linear_rgb()
    np.testing.assert_array_equal(np.asarray(styled), np.dstack([negative(pixels[..., :3]), pixels[..., 3]]))


def test_a_deep_pil_picture_is_scaled_not_clipped(stylize: Stylizer) -> None:
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    expected = 255 - np.rint(values / 257).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(stylize(Image.fromarray(values)))[..., 1], expected)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV", "I", "F"]
)
def test_every_mode_of_pillow(stylize: Stylizer, mode: str) -> None:
    assert stylize(Image.new(mode, (8, 9))).size == (8, 9)


def test_strength_is_a_straight_line_between_the_two(stylize: Stylizer) -> None:
    picture = photo(16, 16)
    exact = picture + 0.3 * (negative(picture).astype(np.float64) - picture)
    mixed = stylize(picture, strength=0.3)
    assert np.abs(mixed - exact).max() <= 0.5 + 1e-4
    np.testing.assert_array_equal(stylize(picture, strength=0.0), picture)
    np.testing.assert_array_equal(stylize(picture, strength=1.0), negative(picture))


def ycbcr(rgb: Array) -> Array:
    """ITU-R BT.601, full range, in float64."""
    luma = rgb @ np.array([0.299, 0.587, 0.114])
    return np.stack([luma, (rgb[..., 2] - luma) / 1.772, (rgb[..., 0] - luma) / 1.402], axis=-1)


def test_keep_color_takes_luminance_from_the_style_and_chroma_from_the_photograph(stylize: Stylizer) -> None:
    picture = (96 + photo(16, 16) // 4).astype(np.uint8)  # mid tones, so that nothing is clipped
    result = ycbcr(stylize(picture, keep_color=True).astype(np.float64))
    assert np.abs(result[..., 0] - ycbcr(negative(picture).astype(np.float64))[..., 0]).max() <= 1.0
    assert np.abs(result[..., 1:] - ycbcr(picture.astype(np.float64))[..., 1:]).max() <= 1.0


def test_keep_color_clamps(stylize: Stylizer) -> None:
    blue = np.zeros((8, 8, 3), np.uint8)
    blue[..., 2] = 255
    # the negative's luminance is (255 - blue reversed): R = 0, G = 255, B = 255 -> Y rises by 255 * (0.701 - 0.114)
    np.testing.assert_array_equal(stylize(blue, keep_color=True)[0, 0], [150, 150, 255])


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_strength_out_of_range(stylize: Stylizer, strength: float) -> None:
    with pytest.raises(UsageError, match=r"expected 0\.\.1"):
        stylize(photo(8, 8), strength=strength)


@pytest.mark.parametrize(
    "given",
    [
        "photo.jpg",
        b"photo",
        None,
        3,
        Path("photo.jpg"),
        ["photo.jpg"],
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((1, 8, 8, 1), np.uint8),
        [np.zeros((1, 8, 8, 3), np.uint8)],
    ],
    ids=repr,
)
def test_what_is_no_picture(stylize: Stylizer, given: object) -> None:
    with pytest.raises(NotAPictureError, match=r"Expected a PIL\.Image, a uint8 array"):
        stylize(given)  # type: ignore[call-overload]


@pytest.mark.parametrize(("height", "width"), [(7, 7), (8, 7), (7, 100), (0, 9), (9, 0)])
def test_too_small(stylize: Stylizer, height: int, width: int) -> None:
    with pytest.raises(PictureSizeError, match=f"{width}x{height} px .* expected at least 8x8 px"):
        stylize(photo(height, width))
    with pytest.raises(PictureSizeError):
        stylize(Image.new("RGB", (width, height)))


def test_a_static_engine_takes_one_size(tmp_path: Path) -> None:
    stylize = Stylizer(write_engine(tmp_path / "a.onnx", static_size=(16, 24)))
    assert stylize(photo(16, 24)).shape == (16, 24, 3)
    with pytest.raises(PictureSizeError, match="24x16 px, the one size"):
        stylize(photo(24, 16))


def test_engines_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnknownStyleError, match="'no_such_style'"):
        Stylizer("no_such_style")
    for path in ("no/such", "no.onnx", tmp_path / "no"):
        with pytest.raises(EngineNotFoundError):
            Stylizer(path)


def test_one_for_all_threads(stylize: Stylizer) -> None:
    pictures = [photo(8 + i % 5, 8 + i % 7, seed=i) for i in range(200)]
    with ThreadPoolExecutor(8) as pool:
        styled = list(pool.map(stylize, pictures))
    for given, got in zip(pictures, styled, strict=True):
        np.testing.assert_array_equal(got, negative(given))


def test_context_manager_closes(tmp_path: Path) -> None:
    with Stylizer(write_engine(tmp_path / "negative.onnx")) as stylize:
        stylize(photo(8, 8))
    with pytest.raises(Exception, match="failed"):
        stylize(photo(8, 8))


def test_a_pil_picture_on_its_side_comes_back_upright(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)
    sideways = Image.fromarray(pixels)
    sideways.getexif()[0x0112] = 6  # orientation: turn clockwise to see it upright
    sideways.save(tmp_path / "a.png", exif=sideways.getexif())
    with Stylizer(write_engine(tmp_path / "engine.onnx")) as stylize, Image.open(tmp_path / "a.png") as picture:
        styled = stylize(picture)
    assert styled.size == (12, 17)
    np.testing.assert_array_equal(np.asarray(styled), negative(np.rot90(pixels, -1)))


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"threads": 10**5}, {"device": "abacus"}])
def test_wrong_arguments_are_named(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=str(next(iter(wrong.values())))):
        Stylizer(write_engine(tmp_path / "engine.onnx"), **wrong)
