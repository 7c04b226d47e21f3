from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nst_deploy.color import deep_to_8_bit, to_rgb, to_srgb
from tests import icc_profiles


def color_of(image: Image.Image) -> list[int]:
    """Of the first pixel, RGB or RGBA."""
    return list(image.getpixel((0, 0)))  # type: ignore[arg-type]


def test_rgb_pixels_and_their_profile_are_never_changed() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    image.info["icc_profile"] = icc_profiles.linear_rgb()
    rgb, profile = to_rgb(image)
    np.testing.assert_array_equal(np.asarray(rgb), pixels)
    assert profile == icc_profiles.linear_rgb()


def test_grey_goes_through_its_profile() -> None:
    for mode, value in (("L", 128), ("LA", (128, 77))):
        image = Image.new(mode, (8, 8), value)
        image.info["icc_profile"] = icc_profiles.linear_grey()
        rgb, profile = to_rgb(image)
        expected = icc_profiles.srgb_from_light(128 / 255)  # 188: half the light is far from half the value
        assert np.abs(np.array(color_of(rgb)[:3]) - expected).max() <= 1
        assert profile is None
        assert color_of(rgb)[3:] == ([77] if mode == "LA" else [])


def test_cmyk_goes_through_its_profile() -> None:
    lab = (153, 168, 158)  # L 60, a 40, b 30
    image = Image.new("CMYK", (8, 8), (10, 20, 30, 0))
    image.info["icc_profile"] = icc_profiles.cmyk_of_one_color(lab)
    rgb, profile = to_rgb(image)
    expected = icc_profiles.srgb_from_lab(60, 40, 30)
    assert np.abs(np.array(color_of(rgb)) - expected).max() <= 3
    assert profile is None


@pytest.mark.parametrize("profile", [b"", b"garbage" * 40, icc_profiles.cmyk_of_one_color((1, 2, 3))[:200]])
def test_cmyk_without_a_sound_profile(profile: bytes) -> None:
    image = Image.new("CMYK", (8, 8), (255, 0, 0, 51))
    image.info["icc_profile"] = profile
    rgb, kept = to_rgb(image)
    assert color_of(rgb) == [0, 204, 204]  # (1 - ink) * (1 - black)
    assert kept is None


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P"])
@pytest.mark.parametrize("make", [icc_profiles.linear_grey, lambda: icc_profiles.cmyk_of_one_color((1, 2, 3))])
def test_only_profiles_for_rgb_go_with_rgb_pixels(mode: str, make: object) -> None:
    image = Image.new(mode, (8, 8))
    image.info["icc_profile"] = make()  # type: ignore[operator]
    assert to_rgb(image)[1] is None


def test_an_rgb_profile_on_grey_pixels_is_dropped() -> None:
    image = Image.new("L", (8, 8), 100)
    image.info["icc_profile"] = icc_profiles.linear_rgb()
    rgb, profile = to_rgb(image)
    assert (color_of(rgb), profile) == ([100, 100, 100], None)


def test_lab() -> None:
    image = Image.frombytes("LAB", (1, 1), bytes([153, 40, 30]))  # L 60, a and b signed
    expected = icc_profiles.srgb_from_lab(60, 40, 30)
    assert np.abs(np.array(color_of(to_rgb(image)[0])) - expected).max() <= 3


def test_premultiplied_colors_are_divided_again() -> None:
    assert color_of(to_rgb(Image.new("RGBa", (8, 8), (50, 25, 0, 128)))[0]) == [99, 49, 0, 128]
    assert color_of(to_rgb(Image.new("La", (8, 8), (50, 128)))[0]) == [99, 99, 99, 128]


def test_transparency_of_palettes_and_color_keys(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    for transparency, alpha in ((1, 0), (0, 255), (bytes([255, 60]), 60)):
        palette.save(path, transparency=transparency)
        with Image.open(path) as image:
            assert color_of(to_rgb(image)[0]) == [0, 255, 0, alpha]
    for mode, value, key in (("L", 9, 9), ("RGB", (1, 2, 3), (1, 2, 3)), ("1", 1, 1)):
        picture = Image.new(mode, (8, 8), value)
        picture.putpixel((7, 7), 0)
        picture.save(path, transparency=key)
        with Image.open(path) as image:
            rgb, _ = to_rgb(image)
        assert rgb.mode == "RGBA"
        assert rgb.getpixel((0, 0))[3] == 0
        assert rgb.getpixel((7, 7)) == (0, 0, 0, 255)


def test_transparency_of_16_bit_grey(tmp_path: Path) -> None:
    values = np.full((8, 8), 700, np.uint16)
    values[0, 0] = 65535
    Image.fromarray(values).save(tmp_path / "a.png", transparency=700)
    with Image.open(tmp_path / "a.png") as image:
        rgb, _ = to_rgb(image)
    assert color_of(rgb) == [255, 255, 255, 255]
    assert rgb.getpixel((5, 5)) == (3, 3, 3, 0)


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B"])
def test_16_bit_is_rounded_to_8(mode: str) -> None:
    values = np.arange(65536, dtype=np.uint32).reshape(256, 256)
    raw = values.astype(">u2" if mode.endswith("B") else "<u2").tobytes()
    rgb, _ = to_rgb(Image.frombuffer(mode, (256, 256), raw, "raw", mode, 0, 1))
    np.testing.assert_array_equal(np.asarray(rgb)[..., 0], np.rint(values / 257))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm", "a.jp2"])
def test_16_bit_files(tmp_path: Path, name: str) -> None:
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / name)
    with Image.open(tmp_path / name) as image:
        rgb, _ = to_rgb(image)
    np.testing.assert_array_equal(np.asarray(rgb)[..., 2], np.rint(values / 257))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([0, 128, 65535], np.int32), [0, 0, 255]),
        (np.array([-100, 0, 100], np.int32), [0, 128, 255]),
        (np.array([0, 10**6], np.int32), [0, 255]),
        (np.array([0, 0.5, 1], np.float32), [0, 128, 255]),
        (np.array([0, 100.4, 255], np.float32), [0, 100, 255]),
        (np.array([-1, 0, 1], np.float32), [0, 128, 255]),
        (np.array([0, np.nan, np.inf, -np.inf, 1], np.float32), [0, 0, 255, 0, 255]),
        (np.array([7e3, 7e3], np.float32), [0, 0]),
        (np.array([np.nan], np.float32), [0]),
        (np.zeros((0,), np.float32), []),
        (np.zeros((0,), np.uint16), []),
    ],
)
def test_deep_values(values: np.ndarray, expected: list[int]) -> None:
    assert deep_to_8_bit(values).tolist() == expected


def test_to_srgb() -> None:
    image = to_srgb(Image.new("RGB", (8, 8), (128, 0, 255)), icc_profiles.linear_rgb())
    assert image is not None
    expected = [icc_profiles.srgb_from_light(128 / 255), 0, 255]
    assert np.abs(np.array(color_of(image)) - expected).max() <= 2
    assert to_srgb(Image.new("RGB", (8, 8)), b"no profile") is None
