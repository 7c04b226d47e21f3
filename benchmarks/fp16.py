"""Do FP16 engines hold at 4K? Emulates one on the CPU as a GPU runs it, and compares it with PyTorch in FP32.

    python benchmarks/fp16.py --ckpt engines/la_muse.pth [...] [--size 2160x3840] [--picture photo.jpg]

Every stored activation and every square inside an instance norm is rounded to FP16, sums are FP32: see
nst_deploy/export/fp16.py. Also says how near to 256, whose square ends the range, what norms are given comes. Needs
about 6 GB at 4K. Writes benchmarks/results/fp16.json.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import machine
import numpy as np
import torch.nn.functional as F
from PIL import Image

from nst_deploy.export import fp16
from nst_deploy.export.parity import PHOTOGRAPHS, bundled_photographs, compare
from nst_deploy.export.proof import reference_run
from nst_train.checkpoints import load_checkpoint

RESULTS = Path(__file__).parent / "results" / "fp16.json"


class Watched(fp16.HalfStorage):
    """Remembers the largest value that a norm was given, and whether all that norms gave was finite."""

    largest = 0.0
    finite = True

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = super().__torch_function__(func, types, args, kwargs)
        if func is F.instance_norm:
            low, high = args[0].aminmax()
            Watched.largest = max(Watched.largest, abs(low.item()), abs(high.item()))
            Watched.finite &= bool(result.isfinite().all())
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", type=Path, nargs="+", required=True)
    parser.add_argument("--size", default="2160x3840", metavar="HxW")
    parser.add_argument("--picture", type=Path, default=PHOTOGRAPHS / "rocket.jpg")
    arguments = parser.parse_args()
    height, width = map(int, arguments.size.split("x"))
    picture = np.asarray(Image.open(arguments.picture).convert("RGB").resize((width, height), Image.Resampling.LANCZOS))
    fp16.HalfStorage = Watched  # type: ignore[misc]
    rows = []
    for path in arguments.ckpt:
        checkpoint = load_checkpoint(path)
        half, scales = fp16.fold_to_half(checkpoint.build(), bundled_photographs())
        Watched.largest, Watched.finite = 0.0, True
        started = time.perf_counter()
        report = compare(
            reference_run(checkpoint.build()), fp16.emulated_run(half), "fp16", [(arguments.picture.name, picture)]
        )
        parity = report.parity
        rows.append(
            {
                "style": checkpoint.style,
                "psnr_db": parity.psnr_db,
                "max_levels": parity.max_levels,
                "all_finite": Watched.finite,
                "largest_before_a_norm": Watched.largest,
                "norm_scales": scales,
            }
        )
        print(
            f"{checkpoint.style:20} {width}x{height} {parity.psnr_db:6.1f} dB, {parity.max_levels} levels, up to "
            f"{Watched.largest:.0f} of 256 before a norm, {'all finite' if Watched.finite else 'NOT FINITE'} "
            f"({time.perf_counter() - started:.0f} s)"
        )
    result = {"command": " ".join(["python", *sys.argv]), "machine": machine.describe(), "size": arguments.size}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result | {"picture": arguments.picture.name, "styles": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
