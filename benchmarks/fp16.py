"""Do FP16 engines hold at 4K? Emulates them on the CPU as a GPU runs them, and compares with PyTorch in FP32.

    python benchmarks/fp16.py [--ckpt engines/la_muse.pth …] [--size 2160x3840] [--picture photo.jpg]

Every stored activation and every square inside an instance norm is rounded to FP16, sums are FP32: see
nst_deploy/export/fp16.py. All that is stored must be finite, and the picture keep 55 dB. Also says how near to 256,
whose square ends the range, values come from which a norm has taken their mean.

Without --ckpt: every shipped style, and the published networks of DATA/lengstrom that are there. Needs 7 GB at 4K, one
net after the other. Writes benchmarks/results/fp16.json after each net; nets that are not measured stay there as they
were, unless their weights, the size or the picture have changed.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import machine
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from steps import DATA, ROOT
from torch import Tensor

from nst_common.atomic_file import atomic_write
from nst_deploy.export import fp16
from nst_deploy.export.parity import PHOTOGRAPHS, Pixels, bundled_photographs, compare
from nst_deploy.export.proof import reference_run
from nst_deploy.parity_limit import LIMITS
from nst_train.checkpoints import Checkpoint, file_sha256, load_checkpoint

RESULTS = Path(__file__).parent / "results" / "fp16.json"
MIN_PSNR_DB = LIMITS["fp16"].min_psnr_db
Row = dict[str, Any]


class Watched(fp16.HalfStorage):
    """Remembers whether all that was stored is finite, and the largest value that a norm squares."""

    def __init__(self) -> None:
        super().__init__()
        self.finite = True
        self.largest = 0.0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = super().__torch_function__(func, types, args, kwargs)
        if isinstance(result, Tensor) and result.dtype == torch.float16:
            self.finite &= all(math.isfinite(value) for value in result.aminmax())
        if func is F.instance_norm and args[0].dtype == torch.float16:
            # A square beyond the range is infinite, and what the norm makes of it is not: it has to be seen here.
            low, high = (bound(args[0], (2, 3)).float() for bound in (torch.amin, torch.amax))
            mean = args[0].mean((2, 3), dtype=torch.float32)
            self.largest = max(self.largest, (high - mean).max().item(), (mean - low).max().item())
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", type=Path, nargs="+", default=every_net(), help="(default: all that are here)")
    parser.add_argument("--size", default="2160x3840", metavar="HxW")
    parser.add_argument("--picture", type=Path, default=PHOTOGRAPHS / "rocket.jpg")
    arguments = parser.parse_args()
    height, width = map(int, arguments.size.split("x"))
    picture = np.asarray(Image.open(arguments.picture).convert("RGB").resize((width, height), Image.Resampling.LANCZOS))
    setting = {"size": arguments.size, "picture": arguments.picture.name}
    rows = {row["checkpoint"]: row for row in known_rows(setting, every_net())}
    for path in arguments.ckpt:
        row = rows[path.name] = measure(path, picture)
        about = {"command": " ".join(["python", *sys.argv]), "machine": machine.describe(), **setting}
        with atomic_write(RESULTS) as partial:
            partial.write_text(json.dumps(about | {"styles": list(rows.values())}, indent=2) + "\n")
        print(f"{path.name:24} {width}x{height} {told(row)} ({row['seconds']:.0f} s)", flush=True)
    failed = [name for name, row in rows.items() if not holds(row)]
    if failed:
        sys.exit(f"benchmarks/fp16.py: error: {', '.join(failed)}: not finite, or below {MIN_PSNR_DB:g} dB")


def every_net() -> list[Path]:
    """The shipped checkpoints, then the published networks that are here."""
    return [*sorted((ROOT / "engines").glob("*.pth")), *sorted((DATA / "lengstrom").glob("*.npz"))]


def known_rows(setting: dict[str, str], nets: Sequence[Path]) -> list[Row]:
    """What stands in the results and still holds: the same picture and size, and weights that are those of today."""
    known: Row = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if any(known.get(key) != value for key, value in setting.items()):
        return []
    weights = {net.name: file_sha256(net) for net in nets}
    return [row for row in known["styles"] if row.get("checkpoint_sha256") == weights.get(row.get("checkpoint"), "?")]


def measure(path: Path, picture: Pixels) -> Row:
    """One net on uint8 ``[H, W, 3]``, RGB."""
    checkpoint: Checkpoint = load_checkpoint(path)
    half, scales = fp16.fold_to_half(checkpoint.build(), bundled_photographs())
    watched = Watched()
    started = time.perf_counter()
    report = compare(
        reference_run(checkpoint.build()), fp16.emulated_run(half, watched), "fp16", [("picture", picture)]
    )
    return {
        "style": checkpoint.style,
        "checkpoint": path.name,
        "checkpoint_sha256": checkpoint.sha256,
        "psnr_db": report.parity.psnr_db,
        "max_levels": report.parity.max_levels,
        "all_finite": watched.finite,
        "largest_before_a_square": watched.largest if watched.finite else None,  # of what is no number there is none
        "norm_scales": scales,
        "seconds": time.perf_counter() - started,
    }


def told(row: Row) -> str:
    """A row in words."""
    psnr = "equal" if row["psnr_db"] is None else f"{row['psnr_db']:.1f} dB"
    if not row["all_finite"]:
        return f"{psnr}, NOT FINITE"
    return (
        f"{psnr}, {row['max_levels']} levels, finite, up to {row['largest_before_a_square']:.0f} of 256 before a square"
    )


def holds(row: Row) -> bool:
    """Whether it is what is asked of an FP16 engine; equal pictures have no decibels."""
    return row["all_finite"] and (row["psnr_db"] is None or row["psnr_db"] >= MIN_PSNR_DB)


if __name__ == "__main__":
    main()
