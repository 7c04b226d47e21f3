"""Single pictures in and out: files <-> float tensors."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from nst_common.atomic_file import CannotWriteError, atomic_write
from nst_train.data import UNREADABLE
from nst_train.errors import PictureNotFoundError, PictureUnreadableError, SuffixError, TooLargeForFormatError

# px; the longest sides that the formats hold, where a picture could come near them
LONGEST_SIDES = {".webp": 16383, ".jpg": 65500, ".jpeg": 65500}
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")  # that we write


def load_picture(path: Path, option: str, *, long_side: int | None = None) -> Tensor:
    """Reads a picture, upright, and shrinks it where its longer side exceeds ``long_side`` px.

    Args:
        path: any file that Pillow reads.
        option: of the command line that named it, for the errors.
        long_side: None keeps the size.

    Returns:
        float32 ``[1, 3, H, W]``, RGB, 0..255.

    Raises:
        PictureNotFoundError, PictureUnreadableError: no such file; not a picture.
    """
    if not path.is_file():
        raise PictureNotFoundError(path, option)
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file).convert("RGB")
    except UNREADABLE as error:
        raise PictureUnreadableError(path, option, str(error)) from error
    if long_side is not None and max(picture.size) > long_side:
        factor = long_side / max(picture.size)
        width, height = (max(1, round(side * factor)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    pixels: NDArray[np.uint8] = np.array(picture)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float()


def to_image(picture: Tensor) -> Image.Image:
    """Float ``[1, 3, H, W]`` or ``[3, H, W]``, RGB, clamped to 0..255 and rounded half to even -> an RGB image."""
    levels = picture.detach().reshape(-1, *picture.shape[-2:]).clamp(0.0, 255.0).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())


def check_suffix(path: Path, option: str, known: Sequence[str] = SUFFIXES) -> None:
    """Before the work begins: whether the suffix tells what to write.

    Raises:
        SuffixError: another suffix than ``known``.
    """
    if path.suffix.lower() not in known:
        raise SuffixError(path, option, known)


def check_folder(path: Path) -> None:
    """Before the work begins: whether its result can be written to ``path``.

    Raises:
        CannotWriteError: its folder does not exist or may not be written to.
    """
    if not path.parent.is_dir():
        raise CannotWriteError(path, FileNotFoundError(errno.ENOENT, "there is no such folder"))
    if not os.access(path.parent, os.W_OK):
        raise CannotWriteError(path, PermissionError(errno.EACCES, "the folder may not be written to"))


def save_picture(path: Path, image: Image.Image, *, overwrite: bool = True) -> None:
    """Writes ``path`` atomically; the suffix decides the format, JPEG and WebP in high quality.

    Args:
        overwrite: without it a file at ``path`` is an error, also one that appeared a moment ago.

    Raises:
        CannotWriteError: an unwritable place, a full disk, or a file that must not be replaced.
        TooLargeForFormatError: the format holds no picture of that size.
    """
    limit = LONGEST_SIDES.get(path.suffix.lower())
    if limit is not None and max(image.size) > limit:
        raise TooLargeForFormatError(path, *image.size, limit)
    with atomic_write(path, overwrite=overwrite) as partial:
        image.save(partial, format=Image.registered_extensions()[path.suffix.lower()], quality=95)
