"""Any Pillow picture -> 8-bit RGB, its alpha, and the ICC profile that still describes its pixels."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FULL_16_BIT = 65535
GREY_MODES = ("1", "L", "LA")
PROFILE_SPACE = slice(16, 20)  # of an ICC profile's header: which colour space its pixels are in


def to_rgb(image: Image.Image) -> tuple[Image.Image, bytes | None]:
    """Converts every mode: palette, grey, 16-bit, float, CMYK, YCbCr, LAB, HSV, premultiplied.

    CMYK and grey go through their own embedded profile to sRGB where there is a sound one, through Pillow's plain
    formulas otherwise. RGB pixels are never changed.

    Returns:
        A picture of mode RGBA where ``image`` had transparency (also a palette's or a colour key), RGB otherwise; and
        the embedded profile if it is one for RGB. None means sRGB.
    """
    profile = image.info.get("icc_profile")
    profile = profile if isinstance(profile, bytes) else b""
    space = profile[PROFILE_SPACE]
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode.startswith("I") or image.mode == "F":
        color, alpha = _deep_grey(image)
    else:
        color, alpha = image, _alpha(image)
    rgb: Image.Image | None = None
    if space == b"CMYK" and color.mode == "CMYK":
        rgb = to_srgb(color, profile)
    elif space == b"GRAY" and color.mode in GREY_MODES:
        rgb = to_srgb(color.convert("L"), profile)
    elif color.mode == "LAB":
        rgb = _lab_to_srgb(color)
    if rgb is None:
        # By way of RGBA: where a palette or a colour key says what is transparent, only that way keeps the colours.
        rgb = color.convert("RGBA").convert("RGB") if alpha is not None else color.convert("RGB")
    if alpha is not None:
        rgb.putalpha(alpha)
    return rgb, profile if space == b"RGB " and color.mode not in (*GREY_MODES, "CMYK", "LAB") else None


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """Pixels described by ``profile`` -> sRGB; None where the profile is damaged or Pillow lacks LittleCMS."""
    from PIL import ImageCms  # noqa: PLC0415  (few pictures need it, and every cold start would pay)

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, ImportError, OSError, TypeError, ValueError):
        return None


def _lab_to_srgb(image: Image.Image) -> Image.Image | None:
    from PIL import ImageCms  # noqa: PLC0415  (as above)

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")


def _alpha(image: Image.Image) -> Image.Image | None:
    return image.convert("RGBA").getchannel("A") if image.has_transparency_data else None


def _deep_grey(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Modes I, I;16 and F -> mode L, and the alpha of a colour key; Pillow's own conversion would clip at 255."""
    values = np.asarray(image)
    key = image.info.get("transparency")
    alpha = Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)) if isinstance(key, int) else None
    return Image.fromarray(deep_to_8_bit(values)), alpha


def deep_to_8_bit(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Grey of more than 8 bits -> uint8 of the same shape, rounded.

    Whole numbers are taken as 0..65535, floats as 0..1 or 0..255. Where the values leave that range the file does not
    say what black and white are: then they are the smallest and the largest finite value.
    """
    whole = np.issubdtype(values.dtype, np.integer)
    finite = values if whole else values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if whole and low >= 0 and high <= FULL_16_BIT:
        levels = ((np.arange(FULL_16_BIT + 1) * 255 + FULL_16_BIT // 2) // FULL_16_BIT).astype(np.uint8)
        scaled: NDArray[np.uint8] = levels[values]
        return scaled
    if not whole and low >= 0 and high <= 255:
        low, high = 0.0, 1.0 if high <= 1 else 255.0
    floats = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
    if high == low:
        return np.zeros(values.shape, np.uint8)
    return np.rint((floats - low) * 255 / (high - low)).astype(np.uint8)
