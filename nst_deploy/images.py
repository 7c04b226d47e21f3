"""Picture files in and out."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from nst_common.atomic_file import atomic_write
from nst_deploy.color import to_rgb, to_srgb
from nst_deploy.errors import (
    CannotEncodeError,
    PictureNotFoundError,
    PictureTooLargeError,
    PictureUnreadableError,
    UnknownFormatError,
)

DEFAULT_QUALITY = 95  # of 1..100: brush strokes are all fine detail, and artefacts show early in them
FULL_CHROMA_QUALITY = 90  # from here on colour keeps its full resolution, in the formats that can
REDUCED_DECODING = {"JPEG", "MPO"}
DRAFT_GAP = 2  # a JPEG may be decoded at a fraction of its size, but at no less than this times the size asked for

FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".avif": "AVIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".jp2": "JPEG2000",
    ".j2k": "JPEG2000",
    ".jpx": "JPEG2000",
    ".ppm": "PPM",
    ".pnm": "PPM",
    ".tga": "TGA",
    ".qoi": "QOI",
    ".sgi": "SGI",
    ".pcx": "PCX",
    ".dds": "DDS",
}  # suffix -> Pillow's name, of what can hold a styled picture
ALWAYS_BUILT = {"JPEG", "PNG"}  # the rest depends on how Pillow was built, and asking it costs 25 ms
FEW_COLORS = {"GIF"}  # written when asked for by name, but never chosen because the input was one
WITH_ALPHA = {"PNG", "WEBP", "AVIF", "TIFF", "GIF", "JPEG2000", "TGA", "QOI", "SGI", "DDS"}
WITH_PROFILE = {"JPEG", "PNG", "WEBP", "AVIF", "TIFF"}
WITH_EXIF = WITH_PROFILE
LOSSY = {"JPEG", "WEBP", "AVIF"}  # those that --quality is for
CHROMA_OPTION = {"JPEG", "AVIF"}

EXIF_LIMIT = 65_000  # bytes: a JPEG segment holds 65 533
EXIF_TAGS = (
    ExifTags.Base.ImageDescription,
    ExifTags.Base.Make,
    ExifTags.Base.Model,
    ExifTags.Base.DateTime,
    ExifTags.Base.Artist,
    ExifTags.Base.Copyright,
)
# What is no longer true of a styled picture, or (the maker's note) breaks when it is moved.
STALE_EXIF_TAGS = (ExifTags.Base.MakerNote, ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight)


@dataclass(frozen=True)
class Picture:
    """A decoded picture, upright.

    Attributes:
        rgb: uint8 ``[H, W, 3]``, in the colour space of ``icc_profile``.
        alpha: uint8 ``[H, W]``, 255 is opaque; None where the file had no transparency.
        icc_profile: an RGB profile; None means sRGB.
        exif: who took it, when, where and how; neither orientation nor thumbnail, which no longer hold.
    """

    rgb: NDArray[np.uint8]
    alpha: NDArray[np.uint8] | None = None
    icc_profile: bytes | None = None
    exif: bytes | None = None


@dataclass(frozen=True)
class PictureSize:
    """What a file's header says of the work ahead.

    Attributes:
        height, width: px of the upright picture, after ``longest_side``.
        decoded_pixels: H * W that must be decoded for it.
        decodes_reduced: whether fewer are decoded where a smaller picture is asked for.
    """

    height: int
    width: int
    decoded_pixels: int
    decodes_reduced: bool


def measure_picture(path: Path, longest_side: int | None = None) -> PictureSize:
    """The size that ``load_picture`` would give, read from the header alone.

    Raises:
        PictureNotFoundError, PictureUnreadableError, PictureTooLargeError.
    """
    with _opened(path, longest_side) as image:
        width, height = image.size
        if _orientation(image) >= 5 and image.format != "TIFF":  # 5..8 lie on their side; TIFF's reader knows that
            width, height = height, width
        width, height = _fit((width, height), longest_side)
        return PictureSize(height, width, image.width * image.height, image.format in REDUCED_DECODING)


def load_picture(path: Path, longest_side: int | None = None) -> Picture:
    """Reads any file that Pillow reads; of an animation the first frame.

    Orientation is applied. Transparent pixels keep the colour they have in the file. See ``color.to_rgb`` for modes
    and profiles.

    Args:
        longest_side: px; a larger picture is reduced to it (Lanczos), a smaller one stays as it is.

    Raises:
        PictureNotFoundError, PictureUnreadableError, PictureTooLargeError.
    """
    with _opened(path, longest_side) as image:
        image.load()
        exif = _lasting_exif(image)
        if _orientation(image) != 1:
            ImageOps.exif_transpose(image, in_place=True)
        rgb, profile = to_rgb(image)
    size = _fit(rgb.size, longest_side)
    if size != rgb.size:
        rgb = rgb.resize(size, Image.Resampling.LANCZOS)
    alpha = np.asarray(rgb.getchannel("A")) if rgb.mode == "RGBA" else None
    return Picture(np.asarray(rgb.convert("RGB")), alpha, profile, exif)


def save_picture(path: Path, picture: Picture, *, quality: int = DEFAULT_QUALITY, overwrite: bool = True) -> None:
    """Writes ``path`` atomically, in the format of its suffix.

    Alpha is kept where the format has it, laid on white elsewhere. A profile is embedded where the format takes one;
    elsewhere the pixels are converted to sRGB, which is what a reader then assumes.

    Args:
        quality: 1..100, for JPEG, WebP and AVIF; the other formats are lossless (GIF: 256 colours).
        overwrite: without it a file at ``path`` is an error, also one that appeared a moment ago.

    Raises:
        UnknownFormatError: a suffix that is not in ``FORMATS``, or that this Pillow was built without.
        CannotEncodeError: the format cannot hold the picture, such as a WebP of more than 16383 px.
        CannotWriteError: an unwritable place or a full disk.
    """
    encoded = _encode(path, picture, output_format(path), quality)
    with atomic_write(path, overwrite=overwrite) as partial:
        partial.write_bytes(encoded)


def output_format(path: Path) -> str:
    """Pillow's name of the format that ``path`` would be written in.

    Raises:
        UnknownFormatError: none is known for its suffix.
    """
    name = FORMATS.get(path.suffix.lower())
    if name in ALWAYS_BUILT:
        return name
    Image.init()
    if name is None or name not in Image.SAVE:
        raise UnknownFormatError(path, path.suffix, [s for s, f in FORMATS.items() if f in Image.SAVE])
    return name


@contextmanager
def _opened(path: Path, longest_side: int | None) -> Iterator[Image.Image]:
    """An identified, not yet decoded picture; every failure of Pillow in the block becomes one of ours."""
    try:
        with warnings.catch_warnings():
            # Of odd metadata, and of sizes that look like a bomb: nst_deploy.memory judges those by what they cost.
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                if longest_side is not None:
                    width, height = _fit(image.size, longest_side)
                    image.draft(None, (width * DRAFT_GAP, height * DRAFT_GAP))
                yield image
    except FileNotFoundError as error:
        raise PictureNotFoundError(path) from error
    except Image.DecompressionBombError as error:
        raise PictureTooLargeError(path, 2 * (Image.MAX_IMAGE_PIXELS or 0)) from error
    except UnidentifiedImageError as error:
        empty = path.stat().st_size == 0
        reason = "the file is empty" if empty else "it is damaged, has no pixels, or is of no kind that Pillow knows"
        raise PictureUnreadableError(path, reason) from error
    except MemoryError:
        raise
    except OSError as error:  # of the system with strerror, of Pillow's decoders without
        raise PictureUnreadableError(path, error.strerror or f"it is cut short or damaged ({error})") from error
    except Exception as error:  # a damaged file can make Pillow's many readers raise anything
        raise PictureUnreadableError(path, f"it is damaged ({error})") from error


def _fit(size: tuple[int, int], longest_side: int | None) -> tuple[int, int]:
    """(W, H) reduced so that neither exceeds ``longest_side``; at least 1 px each."""
    if longest_side is None or max(size) <= longest_side:
        return size
    scale = longest_side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1 where there is none or the EXIF is damaged, which is no reason to refuse a picture."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001  (the reader of damaged EXIF raises anything)
        return 1
    return value if value in range(1, 9) else 1


def _lasting_exif(image: Image.Image) -> bytes | None:
    """The part of the EXIF that still holds for a styled picture. Also a TIFF's own tags come as EXIF here."""
    kept = Image.Exif()
    try:
        exif = image.getexif()
        for tag in EXIF_TAGS:
            if tag in exif:
                kept[tag] = exif[tag]
        for ifd in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            entries = {tag: value for tag, value in exif.get_ifd(ifd).items() if tag not in STALE_EXIF_TAGS}
            if entries:
                kept[ifd] = entries
        data = kept.tobytes() if len(kept) else b""
    except Exception:  # noqa: BLE001  (as above)
        return None
    return data if 0 < len(data) <= EXIF_LIMIT else None


def _encode(path: Path, picture: Picture, name: str, quality: int) -> bytes:
    image, profile = Image.fromarray(picture.rgb), picture.icc_profile
    if profile is not None and name not in WITH_PROFILE:
        image, profile = to_srgb(image, profile) or image, None
    if picture.alpha is not None:
        alpha = Image.fromarray(picture.alpha)
        if name in WITH_ALPHA:
            image.putalpha(alpha)
        else:
            image = Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
    options: dict[str, Any] = {}
    if profile is not None:
        options["icc_profile"] = profile
    if picture.exif is not None and name in WITH_EXIF:
        options["exif"] = picture.exif
    if name in LOSSY:
        options["quality"] = quality
    if name in CHROMA_OPTION:
        options["subsampling"] = "4:4:4" if quality >= FULL_CHROMA_QUALITY else "4:2:0"
    encoded = io.BytesIO()  # not the file itself: Pillow's encoders do not say why a write failed
    try:
        image.save(encoded, name, **options)
    except MemoryError:
        raise
    except Exception as error:
        height, width = picture.rgb.shape[:2]
        raise CannotEncodeError(path, f"{name} did not take {width}x{height} px ({error})") from error
    return encoded.getvalue()
