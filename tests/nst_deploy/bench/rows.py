"""Rows as a measurement would give them."""

from nst_deploy.bench.measure import Row
from nst_deploy.contract import Parity
from nst_deploy.runtime.backend import Device, LowerPrecision


def row(
    device: Device,
    *seconds: float,
    precision: LowerPrecision | None = None,
    size: tuple[int, int] = (100, 200),
    psnr: float | None = None,
    levels: int = 0,
    peak: int | None = 3 * 2**20,
) -> Row:
    """``size`` is (H, W)."""
    parity = Parity(max_levels=levels, identical=1.0, psnr_db=psnr, backend=device)
    return Row(device, precision, device, *size, seconds, 0.25, 0.5, peak, parity)
