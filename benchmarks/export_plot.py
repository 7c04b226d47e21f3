"""Draws benchmarks/results/export.png from export.json: every row at one size as a bar, longer is faster.

python benchmarks/export_plot.py
"""

import json
from pathlib import Path

from nst_deploy.bench.plot import Bar, draw_bars, save_plot

RESULTS = Path(__file__).parent / "results"
SIZE = (512, 512)  # H, W in px
GROUPS = {
    "pytorch": "PyTorch",
    "naive": "plain ONNX export",
    "nst": "nst",
    "nst int8": "nst, INT8",
    "nst half": "nst, half width",
    "nst half int8": "nst, half width, INT8",
}


def main() -> None:
    report = json.loads((RESULTS / "export.json").read_text(encoding="utf-8"))
    rows = report["sizes"]["{}x{}".format(*SIZE)]
    bars = [_bar(name, row) for name, row in rows.items()]
    title = f"One picture of {SIZE[1]}x{SIZE[0]} px on {report['threads']} cores, times as fast as PyTorch eager"
    save_plot(RESULTS / "export.png", draw_bars(bars, title))


def _bar(name: str, row: dict[str, float]) -> Bar:
    group, engine, precision = name.rsplit(" ", 2)
    return Bar(
        GROUPS[group], f"{engine} {precision}", row["speedup"], f"{row['speedup']:.2f}x, {1e3 * row['seconds']:.0f} ms"
    )


if __name__ == "__main__":
    main()
