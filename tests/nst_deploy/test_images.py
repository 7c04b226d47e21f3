import errno
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, TiffImagePlugin

from nst_common.atomic_file import CannotWriteError
from nst_deploy.errors import (
    CannotEncodeError,
    PictureNotFoundError,
    PictureTooLargeError,
    PictureUnreadableError,
    UnknownFormatError,
)
from nst_deploy.images import FORMATS, Picture, load_picture, measure_picture, output_format, save_picture
from tests import icc_profiles
from tests.pictures import names_in, png_claiming

LOSSLESS = [suffix for suffix, name in FORMATS.items() if name not in {"JPEG", "WEBP", "AVIF", "GIF"}]
WRITABLE = [suffix for suffix, name in FORMATS.items() if (Image.init(), name in Image.SAVE)[1]]


def smooth(height: int, width: int) -> np.ndarray:
    """A picture that lossy formats keep well: uint8 [H, W, 3]."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    waves = np.stack([np.sin(6 * x + 2), np.cos(5 * y), np.sin(4 * x * y + 1)], axis=-1)
    return np.rint(127.5 + 120 * waves).astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a.astype(float) - b.astype(float)) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


# --- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [suffix for suffix in LOSSLESS if suffix in WRITABLE])
def test_lossless_formats(tmp_path: Path, suffix: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)
    path = tmp_path / f"a{suffix}"
    save_picture(path, Picture(pixels), quality=1)
    with Image.open(path) as image:
        assert image.format == output_format(path)
    np.testing.assert_array_equal(load_picture(path).rgb, pixels)
    assert names_in(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", [s for s in (".jpg", ".JPEG", ".webp", ".avif", ".gif") if s.lower() in WRITABLE])
def test_lossy_formats_stay_close(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    save_picture(path, Picture(smooth(40, 50)))
    assert psnr(load_picture(path).rgb, smooth(40, 50)) > (25 if suffix == ".gif" else 36)


@pytest.mark.parametrize("suffix", [s for s in (".jpg", ".webp", ".avif") if s in WRITABLE])
def test_quality_is_size(tmp_path: Path, suffix: str) -> None:
    picture = Picture(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    sizes = []
    for quality in (20, 60, 95):
        save_picture(tmp_path / f"a{suffix}", picture, quality=quality)
        sizes.append((tmp_path / f"a{suffix}").stat().st_size)
    assert sizes[0] * 1.4 < sizes[1] < sizes[2] / 1.4


def test_jpeg_keeps_full_color_resolution_at_high_quality(tmp_path: Path) -> None:
    for quality, sampling in ((95, [(1, 1)] * 3), (89, [(2, 2), (1, 1), (1, 1)])):
        save_picture(tmp_path / "a.jpg", Picture(smooth(32, 32)), quality=quality)
        with Image.open(tmp_path / "a.jpg") as image:
            assert [layer[1:3] for layer in image.layer] == sampling  # type: ignore[attr-defined]


ALPHA_SUFFIXES = [
    s for s in (".png", ".webp", ".avif", ".tif", ".jp2", ".tga", ".qoi", ".sgi", ".dds") if s in WRITABLE
]


@pytest.mark.parametrize("suffix", ALPHA_SUFFIXES)
def test_alpha_is_kept_where_the_format_has_it(tmp_path: Path, suffix: str) -> None:
    alpha = np.repeat(np.arange(0, 240, 15, dtype=np.uint8)[:, None], 16, axis=1)
    save_picture(tmp_path / f"a{suffix}", Picture(smooth(16, 16), alpha), quality=100)
    kept = load_picture(tmp_path / f"a{suffix}").alpha
    assert kept is not None
    assert np.abs(kept.astype(int) - alpha).max() <= 2  # AVIF's is lossy, hardly


@pytest.mark.parametrize("suffix", [".jpg", ".bmp", ".ppm", ".pcx"])
def test_alpha_is_laid_on_white_elsewhere(tmp_path: Path, suffix: str) -> None:
    rgb = np.full((16, 16, 3), (200, 100, 0), np.uint8)
    save_picture(tmp_path / f"a{suffix}", Picture(rgb, np.full((16, 16), 51, np.uint8)))
    loaded = load_picture(tmp_path / f"a{suffix}")
    assert loaded.alpha is None
    assert np.abs(loaded.rgb[0, 0] - np.array([244, 224, 204])).max() <= 2  # 0.2 * color + 0.8 * 255


@pytest.mark.parametrize("suffix", [s for s in (".jpg", ".png", ".webp", ".avif", ".tif") if s in WRITABLE])
def test_an_rgb_profile_is_carried(tmp_path: Path, suffix: str) -> None:
    profile = icc_profiles.linear_rgb()
    save_picture(tmp_path / f"a{suffix}", Picture(smooth(16, 16), icc_profile=profile), quality=100)
    loaded = load_picture(tmp_path / f"a{suffix}")
    assert loaded.icc_profile == profile
    assert psnr(loaded.rgb, smooth(16, 16)) > 30


@pytest.mark.parametrize("suffix", [".bmp", ".ppm", ".tga"])
def test_a_format_without_profiles_gets_srgb(tmp_path: Path, suffix: str) -> None:
    rgb = np.full((8, 8, 3), 128, np.uint8)
    save_picture(tmp_path / f"a{suffix}", Picture(rgb, icc_profile=icc_profiles.linear_rgb()))
    loaded = load_picture(tmp_path / f"a{suffix}").rgb
    assert np.abs(loaded - icc_profiles.srgb_from_light(128 / 255)).max() <= 1


@pytest.mark.parametrize("name", ["a", "a.", "a.txt", "a.docx", "a.xbm"])
def test_an_unknown_suffix_names_known_ones(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnknownFormatError, match=r"\.jpg .*\.png .*\.webp") as caught:
        save_picture(tmp_path / name, Picture(smooth(8, 8)))
    assert caught.value.exit_code == 2
    assert not names_in(tmp_path)


def test_a_picture_that_the_format_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(CannotEncodeError, match="20000x8 px"):
        save_picture(tmp_path / "a.webp", Picture(np.zeros((8, 20000, 3), np.uint8)))
    assert not names_in(tmp_path)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def half(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(CannotWriteError, match=r"No space left on device\. Free some space") as caught:
        save_picture(path, Picture(smooth(8, 8)))
    assert caught.value.disk_full
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["a.png"]


# --- reading ---------------------------------------------------------------------------------------------------------

# What each EXIF orientation asks for, as the specification words it: the stored row 0 and column 0 are which sides?
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    stored, path = smooth(10, 16), tmp_path / f"a{suffix}"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(stored).save(path, exif=exif)
    loaded = load_picture(path)
    np.testing.assert_array_equal(loaded.rgb, UPRIGHT[orientation](stored))
    size = measure_picture(path)
    assert (size.height, size.width) == loaded.rgb.shape[:2]
    save_picture(path, loaded)
    np.testing.assert_array_equal(load_picture(path).rgb, UPRIGHT[orientation](stored))  # and not turned once more


def photo_with_exif(path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Model] = "Box camera"
    exif[ExifTags.Base.DateTime] = "1999:12:31 23:59:59"
    exif[ExifTags.Base.Copyright] = "Someone"
    details = exif.get_ifd(ExifTags.IFD.Exif)
    details[ExifTags.Base.DateTimeOriginal] = "1999:12:31 23:59:58"
    details[ExifTags.Base.ExposureTime] = TiffImagePlugin.IFDRational(1, 60)
    details[ExifTags.Base.ExifImageWidth] = 4000
    details[ExifTags.Base.MakerNote] = b"secret"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    Image.fromarray(smooth(16, 24)).save(path, exif=exif)


@pytest.mark.parametrize("suffix", [s for s in (".jpg", ".png", ".webp", ".avif", ".tif") if s in WRITABLE])
def test_exif_is_carried_as_far_as_it_holds(tmp_path: Path, suffix: str) -> None:
    photo_with_exif(tmp_path / "in.jpg")
    save_picture(tmp_path / f"out{suffix}", load_picture(tmp_path / "in.jpg"))
    with Image.open(tmp_path / f"out{suffix}") as image:
        exif = image.getexif()
        details = exif.get_ifd(ExifTags.IFD.Exif)
        assert exif[ExifTags.Base.Model] == "Box camera"
        assert exif[ExifTags.Base.DateTime] == "1999:12:31 23:59:59"
        assert details[ExifTags.Base.DateTimeOriginal] == "1999:12:31 23:59:58"
        assert float(details[ExifTags.Base.ExposureTime]) == pytest.approx(1 / 60)
        assert exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == "N"
        assert exif.get(ExifTags.Base.Orientation, 1) == 1
        assert ExifTags.Base.ExifImageWidth not in details
        assert ExifTags.Base.MakerNote not in details


def test_a_tiffs_own_tags_are_not_taken_for_exif(tmp_path: Path) -> None:
    Image.fromarray(smooth(16, 24)).save(tmp_path / "in.tif", compression="tiff_lzw")
    assert load_picture(tmp_path / "in.tif").exif is None


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01", b"Exif\0\0MM\0*"])
def test_damaged_exif_does_not_matter(tmp_path: Path, exif: bytes) -> None:
    Image.fromarray(smooth(16, 24)).save(tmp_path / "a.jpg", exif=exif)
    assert load_picture(tmp_path / "a.jpg").rgb.shape == (16, 24, 3)


def test_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (9, 9), color) for color in ("red", "lime", "blue")]
    for name in ("a.gif", "a.webp", "a.png", "a.tif"):
        frames[0].save(
            tmp_path / name, save_all=True, append_images=frames[1:], **({"lossless": True} if "webp" in name else {})
        )
        np.testing.assert_array_equal(load_picture(tmp_path / name).rgb[4, 4], [255, 0, 0])


@pytest.mark.parametrize(
    ("height", "width", "longest", "expected"),
    [
        (100, 200, 50, (25, 50)),
        (200, 100, 50, (50, 25)),
        (100, 101, 100, (99, 100)),
        (30, 40, 40, (30, 40)),
        (30, 40, 999, (30, 40)),
        (1000, 9, 50, (50, 1)),
        (3, 1000, 8, (1, 8)),
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_sizes(tmp_path: Path, height: int, width: int, longest: int, expected: tuple[int, int], suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    save_picture(path, Picture(smooth(height, width)))
    assert load_picture(path, longest).rgb.shape[:2] == expected
    size = measure_picture(path, longest)
    assert (size.height, size.width) == expected


def test_reducing_a_huge_jpeg_is_cheap_and_good(tmp_path: Path) -> None:
    path, pixels = tmp_path / "a.jpg", smooth(1200, 1600)
    save_picture(path, Picture(pixels))
    size = measure_picture(path, 160)
    assert size.decoded_pixels == 300 * 400  # a quarter of each side: the least that is twice what is asked for
    exact = pixels.astype(float).reshape(120, 10, 160, 10, 3).mean(axis=(1, 3))
    assert psnr(load_picture(path, 160).rgb, exact) > 40


def test_reducing_averages(tmp_path: Path) -> None:
    """Stripes too fine for the smaller picture become their mean; leaving out pixels would give one or the other."""
    stripes = np.zeros((40, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    save_picture(tmp_path / "a.png", Picture(stripes))
    assert np.abs(load_picture(tmp_path / "a.png", 32).rgb[4:-4, 4:-4] - 100.0).max() <= 3


def test_reduced_transparency_does_not_bleed(tmp_path: Path) -> None:
    """Hidden red beside opaque green stays out of what is seen."""
    rgb = np.zeros((64, 64, 3), np.uint8)
    rgb[:, :31], rgb[:, 31:] = (255, 0, 0), (0, 255, 0)
    alpha = np.zeros((64, 64), np.uint8)
    alpha[:, 31:] = 255
    save_picture(tmp_path / "a.png", Picture(rgb, alpha))
    reduced = load_picture(tmp_path / "a.png", 16)
    assert reduced.alpha is not None
    assert reduced.rgb[reduced.alpha > 0][:, 0].max() == 0


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.fromarray(smooth(64, 64)).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize("read", [load_picture, measure_picture])
@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jpg", b"", "the file is empty"),
        ("a.jpg", b"hello, I am a text\n" * 9, "no kind that Pillow knows"),
        ("a.png", png_claiming(0, 5), "has no pixels"),
        ("a.png", png_claiming(5, 0), "has no pixels"),
        ("a.ppm", b"P6 0 5 255\n", "has no pixels"),
        ("a.jpg", jpeg()[:100], "damaged"),
    ],
)
def test_what_cannot_be_identified(tmp_path: Path, read: object, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PictureUnreadableError, match=reason) as caught:
        read(tmp_path / name)  # type: ignore[operator]
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("kept", [0.5, 0.9])
@pytest.mark.parametrize("longest", [None, 16])
def test_a_truncated_jpeg(tmp_path: Path, kept: float, longest: int | None) -> None:
    whole = jpeg()
    (tmp_path / "a.jpg").write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(PictureUnreadableError, match="cut short or damaged"):
        load_picture(tmp_path / "a.jpg", longest)


@pytest.mark.parametrize(
    "suffix", [s for s in (".png", ".webp", ".avif", ".tif", ".gif", ".jp2", ".bmp", ".qoi") if s in WRITABLE]
)
def test_other_formats_cut_short(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    save_picture(path, Picture(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(PictureUnreadableError):
        load_picture(path)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(PictureNotFoundError, match=r"no\.jpg"):
        load_picture(tmp_path / "no.jpg")
    with pytest.raises(PictureUnreadableError, match="Is a directory"):
        load_picture(tmp_path)


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_claiming(60000, 60000))
    for read in (load_picture, measure_picture):
        with pytest.raises(PictureTooLargeError, match=r"a\.png claims more than 178956970 pixels"):
            read(tmp_path / "a.png")


@pytest.mark.filterwarnings("error")
def test_large_but_not_a_bomb_is_measured_without_a_warning(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_claiming(12000, 10000))
    assert measure_picture(tmp_path / "a.png").decoded_pixels == 120_000_000
