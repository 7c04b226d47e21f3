"""Picture files -> decoded photographs -> crops, ahead of the training step.

Every crop is a pure function of (seed, step, its index in the whole batch): whatever the number of threads or
processes, and wherever a training was interrupted, step n sees the same pictures.
"""

import functools
import os
import struct
import threading
import zlib
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from nst_train.errors import ContentEmptyError, ContentNotFoundError, StyleUnreadableError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".avif"})
# What Pillow raises for files that are cut short, of another kind, or bombs.
UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def find_pictures(folders: Sequence[Path]) -> list[Path]:
    """All picture files under ``folders``, recursively, sorted within each folder.

    Raises:
        ContentNotFoundError: a folder is not there.
        ContentEmptyError: no picture file is in any of them.
    """
    found: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise ContentNotFoundError(folder)
        found += sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise ContentEmptyError(", ".join(map(str, folders)), "no picture file in there")
    return found


def decode(path: Path, short_side: int | None = None) -> Tensor:
    """The picture as uint8 ``[3, H, W]``, RGB, 0..255, upright; shrunk where its shorter side exceeds ``short_side``.

    Raises:
        Exception: one of ``UNREADABLE`` for what is not a whole picture.
    """
    with Image.open(path) as file:
        if short_side is not None:
            file.draft(None, (short_side, short_side))  # lets the JPEG decoder skip what the shrinking would discard
        picture = ImageOps.exif_transpose(file).convert("RGB")
    if short_side is not None and min(picture.size) > short_side:
        factor = short_side / min(picture.size)
        size = (max(round(picture.width * factor), short_side), max(round(picture.height * factor), short_side))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    pixels: NDArray[np.uint8] = np.array(picture)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _header_is_readable(path: Path) -> bool:
    try:
        with Image.open(path) as file:
            return file.width > 0
    except UNREADABLE:
        return False


class PictureStore:
    """The readable photographs of some files, decoded when first asked for and kept while the memory lasts.

    Args:
        paths: picture files; those without a readable header are skipped at once.
        short_side: larger photographs are shrunk to this shorter side, px.
        budget: bytes that decoded photographs may take.
        device: where they are kept; None is the CPU.

    Attributes:
        skipped: files that turned out unreadable so far.

    Raises:
        ContentEmptyError: no file is readable.
    """

    def __init__(
        self, paths: Sequence[Path], *, short_side: int, budget: int, device: torch.device | None = None
    ) -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            readable = list(pool.map(_header_is_readable, paths))
        self.skipped = [path for path, fine in zip(paths, readable, strict=True) if not fine]
        self.paths = [path for path, fine in zip(paths, readable, strict=True) if fine]
        if not self.paths:
            raise ContentEmptyError(f"{self.skipped[0].parent}", f"none of {len(paths)} picture files is readable")
        self._short_side = short_side
        self._device = device or torch.device("cpu")
        self._left = budget
        self._kept: dict[int, Tensor] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Tensor:
        """Photograph ``number``, uint8 ``[3, H, W]`` on the device; the next readable one where it is damaged.

        Raises:
            ContentEmptyError: every file is damaged.
        """
        for candidate in range(number, number + len(self.paths)):
            picture = self._get(candidate % len(self.paths))
            if picture is not None:
                return picture
        raise ContentEmptyError(f"{self.paths[0].parent}", f"none of {len(self.paths)} picture files is readable")

    def _get(self, number: int) -> Tensor | None:
        if number in self._kept:
            return self._kept[number]
        path = self.paths[number]
        try:
            picture = decode(path, self._short_side).to(self._device)
        except UNREADABLE:
            with self._lock:
                if path not in self.skipped:
                    self.skipped.append(path)
            return None
        with self._lock:
            if picture.nbytes <= self._left and number not in self._kept:
                self._kept[number] = picture
                self._left -= picture.nbytes
        return picture


@dataclass(frozen=True)
class CropPlan:
    """Which crops a training sees.

    Attributes:
        seed: of every choice.
        batch: crops per step, of all processes together.
        crop: their side, px.
        max_scale: the window that becomes a crop has 1 to ``max_scale`` times its side (less in a small photograph).
        flip: whether half of them are mirrored.
    """

    seed: int
    batch: int
    crop: int
    max_scale: float = 1.0
    flip: bool = False

    def picture(self, step: int, index: int, count: int) -> int:
        """Which of ``count`` photographs crop ``index`` of ``step`` is from: each once per epoch, in a new order."""
        epoch, position = divmod(step * self.batch + index, count)
        return int(_order(self.seed, epoch, count)[position])

    def cut(self, picture: Tensor, step: int, index: int) -> Tensor:
        """uint8 ``[3, H, W]`` -> uint8 ``[3, crop, crop]``; a photograph smaller than that is enlarged."""
        scale, down, right, mirror = np.random.default_rng((self.seed, step, index)).random(4)
        height, width = picture.shape[-2:]
        side = min(round(self.crop * (1 + scale * (self.max_scale - 1))), height, width)
        top, left = int(down * (height - side + 1)), int(right * (width - side + 1))
        window = picture[:, top : top + side, left : left + side]
        if side != self.crop:
            window = _resize(window, self.crop)
        return window.flip(-1) if self.flip and mirror < 0.5 else window


@functools.lru_cache(maxsize=4)  # threads may be in two epochs at a time
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, epoch)).permutation(count)


def _resize(window: Tensor, side: int) -> Tensor:
    # Antialiasing of uint8 exists on the CPU only.
    source = window[None] if window.device.type == "cpu" else window[None].float()
    resized = F.interpolate(source, size=(side, side), mode="bilinear", antialias=True, align_corners=False)[0]
    return resized if resized.dtype == torch.uint8 else resized.round().clamp(0, 255).to(torch.uint8)


class CropLoader:
    """Batches of crops for one process, prepared ahead by threads.

    Threads suffice, since decoding and resizing release Python's lock, and they share one cache.

    Args:
        rank, world: this process takes its consecutive share of each batch.
        workers: threads; 0 prepares each batch when it is asked for.
    """

    def __init__(self, store: PictureStore, plan: CropPlan, *, rank: int = 0, world: int = 1, workers: int = 0) -> None:
        self._store, self._plan, self._workers = store, plan, workers
        share = plan.batch // world
        self._indices = range(rank * share, (rank + 1) * share)

    def batch(self, step: int) -> Tensor:
        """The crops of ``step``: uint8 ``[batch / world, 3, crop, crop]``."""
        plan, store = self._plan, self._store
        return torch.stack([plan.cut(store[plan.picture(step, i, len(store))], step, i) for i in self._indices])

    def batches(self, first: int, end: int) -> Generator[Tensor]:
        """The batches of steps ``first`` … ``end - 1``, decoded ahead; closed, no thread of it runs any more."""
        if not self._workers:
            yield from map(self.batch, range(first, end))
            return
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="nst-loader")
        try:
            ahead: deque[Future[Tensor]] = deque()
            for step in range(first, end):
                ahead.append(pool.submit(self.batch, step))
                if len(ahead) > 2 * self._workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def load_style(path: Path, sizes: Sequence[int]) -> list[Tensor]:
    """The painting at each size of its long side, float ``[1, 3, h, w]``, RGB, 0..255.

    Raises:
        StyleUnreadableError: missing or not a picture.
    """
    if not path.is_file():
        raise StyleUnreadableError(path, "it is a folder" if path.is_dir() else "no such file")
    try:
        pixels = decode(path)
    except UNREADABLE as error:
        raise StyleUnreadableError(path, "it is damaged or no picture") from error
    painting = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    return [_with_long_side(painting, size) for size in sizes]


def _with_long_side(painting: Image.Image, size: int) -> Tensor:
    factor = size / max(painting.size)
    width, height = (max(round(side * factor), 1) for side in painting.size)
    resized: NDArray[np.uint8] = np.array(painting.resize((width, height), Image.Resampling.LANCZOS))
    return torch.from_numpy(resized).permute(2, 0, 1)[None].float()
