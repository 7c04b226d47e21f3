"""Two ways to run the same net, on real pictures: how far apart are their pixels?"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nst_deploy.contract import MIN_SIZE, Parity
from nst_deploy.errors import ParityError, PictureSizeError
from nst_deploy.images import load_picture
from nst_deploy.parity_limit import ParityLimit
from nst_deploy.plan_sidecar import Profile

Pixels: TypeAlias = NDArray[np.uint8]
Run: TypeAlias = Callable[[Pixels], Pixels]  # uint8 [N, H, W, 3] -> the same

PHOTOGRAPHS = Path(__file__).parent / "photographs"  # public domain; their README names the sources
ODD_SIZE = (201, 267)  # H, W in px: odd, not square, and the graph pads both axes


@dataclass(frozen=True)
class Comparison:
    """One picture at one size.

    Attributes:
        picture: its file's name.
        height, width: px.
        max_levels: largest difference of any value, levels.
        identical: share of equal values, 0..1.
        squared_error: mean over all values, squared levels.
        reference_seconds, engine_seconds: of one run each, the first at this size.
    """

    picture: str
    height: int
    width: int
    max_levels: int
    identical: float
    squared_error: float
    reference_seconds: float
    engine_seconds: float

    @property
    def psnr_db(self) -> float | None:
        """None when all values are equal."""
        return _psnr(self.squared_error)

    @property
    def values(self) -> int:
        return self.height * self.width * 3


@dataclass(frozen=True)
class ParityReport:
    """Every comparison of one engine with its reference."""

    backend: str
    comparisons: tuple[Comparison, ...]

    @property
    def parity(self) -> Parity:
        """All of them as one, weighted by their number of values."""
        total = sum(c.values for c in self.comparisons)
        return Parity(
            max_levels=max(c.max_levels for c in self.comparisons),
            identical=sum(c.identical * c.values for c in self.comparisons) / total,
            psnr_db=_psnr(sum(c.squared_error * c.values for c in self.comparisons) / total),
            backend=self.backend,
        )

    def require(self, limit: ParityLimit) -> None:
        """Raises ParityError when the engine is beyond ``limit``."""
        parity = self.parity
        if not limit.allows(parity):
            raise ParityError(f"up to {parity.max_levels} levels, {_decibels(parity.psnr_db)}", str(limit))

    def table(self) -> str:
        """For a terminal: a line per comparison and one for all."""
        rows = [("picture", "size", "max diff", "identical", "PSNR", "PyTorch", self.backend)]
        rows += [
            (
                c.picture,
                f"{c.width}x{c.height}",
                str(c.max_levels),
                f"{c.identical:.4%}",
                _decibels(c.psnr_db),
                f"{c.reference_seconds:.2f} s",
                f"{c.engine_seconds:.2f} s",
            )
            for c in self.comparisons
        ]
        p = self.parity
        rows.append(("all", "", str(p.max_levels), f"{p.identical:.4%}", _decibels(p.psnr_db), "", ""))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        return "\n".join("  ".join(_aligned(row, widths)).rstrip() for row in rows)


def compare(reference: Run, engine: Run, backend: str, pictures: Sequence[tuple[str, Pixels]]) -> ParityReport:
    """Runs both on every picture.

    Args:
        pictures: (name, uint8 ``[H, W, 3]``, RGB).
    """
    return ParityReport(backend, tuple(_compare_one(reference, engine, name, image) for name, image in pictures))


def _compare_one(reference: Run, engine: Run, name: str, image: Pixels) -> Comparison:
    batch = image[None]
    started = time.perf_counter()
    expected = reference(batch)
    between = time.perf_counter()
    styled = engine(batch)
    ended = time.perf_counter()
    difference = np.abs(expected.astype(np.int16) - styled.astype(np.int16))
    return Comparison(
        picture=name,
        height=image.shape[0],
        width=image.shape[1],
        max_levels=int(difference.max()),
        identical=float((difference == 0).mean()),
        squared_error=float(np.square(difference, dtype=np.float64).mean()),
        reference_seconds=between - started,
        engine_seconds=ended - between,
    )


def bundled_photographs() -> list[Pixels]:
    """The photographs that the package carries, uint8 ``[H, W, 3]``, RGB."""
    return [load_picture(path).rgb for path in _bundled()]


def _bundled() -> list[Path]:
    return sorted(PHOTOGRAPHS.glob("*.jpg"))


def verification_pictures(
    files: Sequence[Path] | None = None,
    static_size: tuple[int, int] | None = None,
    profile: Profile | None = None,
) -> list[tuple[str, Pixels]]:
    """Each photograph twice: as it is, and at an odd size that is not square; or once at an engine's static size.

    Args:
        files: None for the two that the package carries.
        static_size: (H, W) in px.
        profile: of a plan; sizes that it does not take are brought to the nearest that it does.

    Raises:
        PictureNotFoundError, PictureUnreadableError: a file that is missing or not a picture.
        PictureSizeError: one below 8 px.
    """
    pictures = []
    for path in _bundled() if files is None else files:
        photo = Image.fromarray(load_picture(path).rgb)
        if min(photo.size) < MIN_SIZE:
            remedy = f"Leave {path} out"
            raise PictureSizeError(photo.height, photo.width, f"at least {MIN_SIZE}x{MIN_SIZE} px", remedy)
        sizes = [static_size] if static_size else [(photo.height, photo.width), ODD_SIZE]
        if profile is not None:
            sizes = list(dict.fromkeys(_within(profile, size) for size in sizes))
        pictures += [(path.name, np.asarray(photo.resize((width, height)))) for height, width in sizes]
    return pictures


def _within(profile: Profile, size: tuple[int, int]) -> tuple[int, int]:
    height, width = (
        min(max(side, low), high) for low, side, high in zip(profile.min[1:], size, profile.max[1:], strict=True)
    )
    return height, width


def _psnr(squared_error: float) -> float | None:
    return None if squared_error == 0 else 10 * math.log10(255**2 / squared_error)


def _decibels(psnr: float | None) -> str:
    return "equal" if psnr is None else f"{psnr:.1f} dB"


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        cell.ljust(width) if i == 0 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
