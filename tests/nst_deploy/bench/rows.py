"""Rows as a measurement would give them."""

from pathlib import Path

from nst_deploy.bench.measure import Row
from nst_deploy.bench.ways import Computed, Way
from nst_deploy.contract import Parity
from nst_deploy.runtime.backend import Device, LowerPrecision

ENGINE = Path("folder/negative.onnx")
FP16 = Path("folder/negative.fp16.onnx")
PLAN = Path("folder/negative.plan")


def way(device: Device, precision: LowerPrecision | None = None, engine: Path = ENGINE, *, graph: bool = False) -> Way:
    """Of the float32 engine, or of one of its companions."""
    computes: Computed = precision or ("fp32" if engine == ENGINE else "fp16")
    return Way(engine, computes, device, precision, cuda_graph=graph, is_asked=engine == ENGINE)


def row(
    device: Device | Way,
    *seconds: float,
    precision: LowerPrecision | None = None,
    size: tuple[int, int] = (100, 200),
    psnr: float | None = None,
    levels: int = 0,
    peak: int | None = 3 * 2**20,
    is_compared: bool = True,
) -> Row:
    """``size`` is (H, W). What runs on the CPU in float32 is the reference."""
    this = device if isinstance(device, Way) else way(device, precision)
    parity = Parity(max_levels=levels, identical=1.0, psnr_db=psnr, backend=this.device) if is_compared else None
    is_reference = is_compared and this == way("cpu")
    return Row(this, this.device, *size, seconds, 0.25, 0.5, peak, parity, is_reference)
