"""What was measured, for a terminal and for other programs, and what to choose."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nst_deploy.bench.measure import REFERENCE, Absence, Measurement, Row, variant_name
from nst_deploy.contract import ModelContract, Parity
from nst_deploy.runtime.backend import Device, LowerPrecision

HEADINGS = ("size", "device", "precision", "median", "p95", "MP/s", "memory", "open", "max diff", "PSNR")


@dataclass(frozen=True)
class Choice:
    """A way to run the engine, and how much it gains.

    Attributes:
        device, precision: for the command line.
        speedup: over the slowest at the engine's own precision, the geometric mean of all sizes.
        max_levels, min_psnr_db: against the reference at its worst size; None where nothing differs or was compared.
    """

    device: Device
    precision: LowerPrecision | None
    speedup: float
    max_levels: int | None
    min_psnr_db: float | None

    @property
    def flags(self) -> str:
        return f"--device {self.device}" + (f" --precision {self.precision}" if self.precision else "")


def table(measurement: Measurement, contract: ModelContract) -> str:
    """A line per row, the fastest of each size first; then what there is that could not be run here, and why."""
    by_size = sorted(measurement.rows, key=lambda row: (row.height * row.width, row.height, row.median))
    cells = [HEADINGS, *(_cells(row, contract) for row in by_size)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(HEADINGS))]
    lines = ["  ".join(_aligned(line, widths)).rstrip() for line in cells]
    return "\n".join([*lines, *(_describe(absence) for absence in measurement.absences)])


def recommend(rows: Sequence[Row]) -> list[Choice]:
    """The fastest at the engine's own precision, then all that are faster at a lower one, the fastest last.

    Only variants that ran at every size are compared.
    """
    sizes = {(row.height, row.width) for row in rows}
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(variant_name(row.device, row.precision), []).append(row)
    complete = sorted((group for group in groups.values() if len(group) == len(sizes)), key=_typical_seconds)
    exact = [group for group in complete if group[0].precision is None]
    if not exact:
        return []
    slowest = _typical_seconds(exact[-1])
    chosen = [exact[0], *reversed(complete[: complete.index(exact[0])])]
    return [_choice(group, slowest / _typical_seconds(group)) for group in chosen]


def advice(choices: Sequence[Choice], automatic: Device) -> str:
    """The recommendation in words; ``automatic`` is what ``--device auto`` takes."""
    if not choices:
        return "Nothing ran at every size, so nothing is recommended"
    best = choices[0]
    text = f"Recommended: {best.flags}"
    if best.speedup > 1.0:
        text += f", {best.speedup:.2f} times as fast as the slowest at the engine's own precision"
    text += "; it is what auto takes" if best.device == automatic else f"; auto takes {automatic}, so name it"
    for lower in choices[1:]:
        text += f"\nFaster still: {lower.flags}, {lower.speedup:.2f} times as fast"
        if lower.min_psnr_db is not None:
            text += f", with up to {lower.max_levels} of 255 levels difference, {lower.min_psnr_db:.1f} dB"
    return text


def as_json(measurement: Measurement, choices: Sequence[Choice], about: dict[str, Any]) -> dict[str, Any]:
    """``about`` (what was measured where) with every row, its raw seconds included."""
    return {
        **about,
        "rows": [_row_as_json(row) for row in measurement.rows],
        "not_run": [dataclasses.asdict(absence) for absence in measurement.absences],
        "recommended": [dataclasses.asdict(choice) | {"flags": choice.flags} for choice in choices],
    }


def _row_as_json(row: Row) -> dict[str, Any]:
    return dataclasses.asdict(row) | {
        "median_ms": 1e3 * row.median,
        "p95_ms": 1e3 * row.p95,
        "megapixels_per_second": row.megapixels_per_second,
    }


def _cells(row: Row, contract: ModelContract) -> tuple[str, ...]:
    return (
        f"{row.width}x{row.height}",
        row.device,
        row.precision or contract.precision,
        f"{1e3 * row.median:.1f} ms",
        f"{1e3 * row.p95:.1f} ms",
        f"{row.megapixels_per_second:.2f}",
        "?" if row.peak_bytes is None else f"{row.peak_bytes / 2**20:.0f} MiB",
        f"{row.open_seconds:.2f} s",
        *(("", "reference") if (row.device, row.precision) == REFERENCE else _differences(row.parity)),
    )


def _differences(parity: Parity | None) -> tuple[str, str]:
    if parity is None:
        return "?", "?"
    return str(parity.max_levels), "equal" if parity.psnr_db is None else f"{parity.psnr_db:.1f} dB"


def _aligned(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    names = 3  # columns of words; the rest are numbers
    pairs = list(zip(line, widths, strict=True))
    return [cell.ljust(width) for cell, width in pairs[:names]] + [cell.rjust(width) for cell, width in pairs[names:]]


def _describe(absence: Absence) -> str:
    size = f" at {absence.width}x{absence.height}" if absence.width else ""
    return f"{variant_name(absence.device, absence.precision)}{size} was not run: {absence.reason}"


def _typical_seconds(rows: Sequence[Row]) -> float:
    """Geometric mean over the sizes, so that none of them counts for more."""
    return math.exp(sum(math.log(row.median) for row in rows) / len(rows))


def _choice(rows: Sequence[Row], speedup: float) -> Choice:
    parities = [row.parity for row in rows if row.parity is not None]
    return Choice(
        device=rows[0].device,
        precision=rows[0].precision,
        speedup=speedup,
        max_levels=max((parity.max_levels for parity in parities), default=None),
        min_psnr_db=min((parity.psnr_db for parity in parities if parity.psnr_db is not None), default=None),
    )
