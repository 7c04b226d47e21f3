"""What nst's exported graphs are to reach on a CPU, and what they do reach by benchmarks/results/export.json."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
Rows = Mapping[str, Row]  # by name, of one size
Sizes = Mapping[str, Rows]  # by HxW

COMPARED = ("512x512", "680x1024")  # HxW that every ratio has to reach
MEMORY_SIZE = "1080x1920"
EAGER, NAIVE, NST, HALF = "pytorch eager f32", "naive", "nst", "nst half"
ORT, OV, OV_BF16, INT8 = "onnxruntime f32", "openvino f32", "openvino bf16", "int8 openvino f32"
# A lower precision counts where its picture keeps this many dB against PyTorch in float32.
LEAST_DB = {OV_BF16: 50.0, INT8: 34.0}


@dataclass(frozen=True)
class Target:
    """One figure to reach.

    Attributes:
        name: what is measured.
        least, aim: the figure asked for, and the one hoped for.
        show: a figure as text.
        values: what was measured, by where; empty where it was not.
        more_is_better: a ratio of speeds; otherwise a cost.
    """

    name: str
    least: float
    aim: float
    show: Callable[[float], str]
    values: Mapping[str, float]
    more_is_better: bool = True

    @property
    def verdict(self) -> str:
        """By the worst of the values."""
        if not self.values:
            return "not measured"
        if self._reached(self.aim):
            return "reached, the aim too"
        return "reached" if self._reached(self.least) else "**not reached**"

    def _reached(self, figure: float) -> bool:
        values = self.values.values()
        return min(values) >= figure if self.more_is_better else max(values) <= figure


def targets(sizes: Sizes) -> list[Target]:
    """All of them, in the order of the page; those of missing rows without values."""
    return [
        *(
            Target(f"nst / plain export, {shown}", least, aim, _times, _ratios(sizes, f"{NAIVE} {row}", f"{NST} {row}"))
            for shown, row, least, aim in (
                ("ONNX Runtime f32", ORT, 1.20, 1.38),
                ("OpenVINO f32", OV, 1.30, 1.40),
                ("OpenVINO bf16", OV_BF16, 1.30, 1.40),
            )
        ),
        Target("nst's best f32 / PyTorch eager f32", 2.0, 2.4, _times, _best(sizes, NST, (ORT, OV))),
        Target(
            "nst's best (bf16 from 50 dB, INT8 from 34 dB) / PyTorch eager f32",
            4.5,
            6.5,
            _times,
            _best(sizes, NST, (ORT, OV, OV_BF16, INT8)),
        ),
        Target(
            "half width, nst's best / PyTorch eager f32 at full width",
            13,
            18,
            _times,
            _best(sizes, HALF, (OV_BF16, INT8)),
        ),
        Target(
            "nst's bf16, times its floor",
            1.25,
            1.1,
            _times,
            {size: sizes[size][row]["over_floor"] for size, row in _where(sizes, f"{NST} {OV_BF16}")},
            more_is_better=False,
        ),
        Target("a megapixel's cost between sizes", 0.15, 0.08, _percent, _spreads(sizes), more_is_better=False),
        Target(
            "peak memory at 1920×1080, f32, of plain ONNX Runtime's",
            1.0,
            0.5,
            _percent,
            _memory(sizes),
            more_is_better=False,
        ),
    ]


def _where(sizes: Sizes, *rows: str) -> list[tuple[str, str]]:
    """(size, the first row) of the compared sizes that have all the rows."""
    return [(size, rows[0]) for size in COMPARED if size in sizes and all(row in sizes[size] for row in rows)]


def _ratios(sizes: Sizes, slow: str, fast: str) -> dict[str, float]:
    return {size: sizes[size][slow]["seconds"] / sizes[size][fast]["seconds"] for size, _ in _where(sizes, slow, fast)}


def _best(sizes: Sizes, net: str, rows: tuple[str, ...]) -> dict[str, float]:
    """How much faster than eager the fastest is that keeps the picture."""
    found = {}
    for size, eager in _where(sizes, EAGER):
        able = [sizes[size][f"{net} {row}"] for row in rows if _keeps(sizes[size].get(f"{net} {row}"), row)]
        if able:
            found[size] = sizes[size][eager]["seconds"] / min(row["seconds"] for row in able)
    return found


def _keeps(row: Row | None, name: str) -> bool:
    """Whether the row was measured and keeps the picture; unknown decibels do not, except at full precision."""
    if row is None or name not in LEAST_DB:
        return row is not None
    return row["psnr_db"] is not None and row["psnr_db"] >= LEAST_DB[name]


def _spreads(sizes: Sizes) -> dict[str, float]:
    """By how much a pixel costs more at the dearest size than at the cheapest, by engine."""
    found = {}
    for row in (ORT, OV, OV_BF16):
        costs = [
            rows[f"{NST} {row}"]["seconds"] / pixels(size) for size, rows in sizes.items() if f"{NST} {row}" in rows
        ]
        if len(costs) > 1:
            found[row] = max(costs) / min(costs) - 1
    return found


def _memory(sizes: Sizes) -> dict[str, float]:
    rows = sizes.get(MEMORY_SIZE, {})
    naive = rows.get(f"{NAIVE} {ORT}")
    names = [name for name in (ORT, OV) if f"{NST} {name}" in rows]
    return {name: rows[f"{NST} {name}"]["peak_mib"] / naive["peak_mib"] for name in names} if naive else {}


def pixels(size: str) -> int:
    """Of ``HxW``."""
    height, width = map(int, size.split("x"))
    return height * width


def _times(value: float) -> str:
    return f"{value:.2f}×"


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"
