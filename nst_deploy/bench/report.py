"""What was measured, for a terminal and for other programs, and what to choose."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nst_deploy.bench.measure import Absence, Measurement, Row
from nst_deploy.bench.ways import COMPUTED, Computed, Way
from nst_deploy.contract import Parity
from nst_deploy.parity_limit import LIMITS
from nst_deploy.runtime.backend import Device

HEADINGS = ("size", "device", "precision", "median", "p95", "MP/s", "memory", "open", "max diff", "PSNR")
WORDS = 3  # columns of words; the rest are numbers
UNCOMPARED = "its pixels were compared with nothing, since no float32 engine beside it ran here"
REFERENCE_LEVELS = 1  # that the float32 engine may itself be away from PyTorch, which precisions are measured by


@dataclass(frozen=True)
class Choice:
    """A way to run the style, and how much it gains.

    Attributes:
        speedup: over the slowest at the engine's own precision, the geometric mean of all sizes.
        max_levels, min_psnr_db: against the reference at its worst size; None where nothing differs or was compared.
        compared: with the reference, at every size.
    """

    way: Way
    speedup: float
    max_levels: int | None
    min_psnr_db: float | None
    compared: bool = True

    @property
    def flags(self) -> str:
        return self.way.flags


@dataclass(frozen=True)
class Recommendation:
    """
    Attributes:
        choices: the fastest that keeps the precision that was asked for, then all that are faster at a lower one, the
            fastest last; none where nothing ran at every size.
        refused: would have been among them, but pixels are further from the reference's than their precision allows.
    """

    choices: tuple[Choice, ...]
    refused: tuple[Choice, ...] = ()


def table(measurement: Measurement) -> str:
    """A line per row, the fastest of each size first; then what there is that could not be run here, and why."""
    by_size = sorted(measurement.rows, key=lambda row: (row.height * row.width, row.height, row.median))
    cells = [HEADINGS, *map(_cells, by_size)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(HEADINGS))]
    lines = ["  ".join(_aligned(line, widths)).rstrip() for line in cells]
    return "\n".join([*lines, *map(_describe, measurement.absences)])


def recommend(rows: Sequence[Row], least: Computed) -> Recommendation:
    """Only ways that ran at every size are compared, and none is recommended that was seen to spoil the picture.

    Args:
        least: the lowest precision that is recommended first.
    """
    sizes = {(row.height, row.width) for row in rows}
    groups: dict[Way, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.way, []).append(row)
    complete = sorted((group for group in groups.values() if len(group) == len(sizes)), key=_typical_seconds)
    exact = [group for group in complete if _keeps(group[0].way, least)]
    if not exact:
        return Recommendation(())
    slowest = _typical_seconds(exact[-1])
    able = [group for group in complete if all(map(_is_true, group))]
    best = next((group for group in able if _keeps(group[0].way, least)), None)
    faster = able[: able.index(best)] if best is not None else able
    chosen = [*([best] if best is not None else []), *reversed(faster)]
    limit = _typical_seconds(best) if best is not None else math.inf
    refused = [group for group in complete if group not in able and _typical_seconds(group) < limit]
    return Recommendation(
        *(tuple(_choice(group, slowest / _typical_seconds(group)) for group in groups) for groups in (chosen, refused))
    )


def advice(recommendation: Recommendation, automatic: Device) -> str:
    """The recommendation in words; ``automatic`` is what ``--device auto`` takes for the engine that was named."""
    lines = []
    if recommendation.choices:
        best, *others = recommendation.choices
        text = f"Recommended: {best.flags}"
        if best.speedup > 1.0:
            text += f", {best.speedup:.2f} times as fast as the slowest at this precision"
        if best.way.is_asked:
            taken = best.way == Way(best.way.engine, best.way.computes, automatic)
            text += "; it is what auto takes" if taken else f"; auto takes {automatic}, so name it"
        if not best.compared:
            text += f"; {UNCOMPARED}"
        lines = [text, *(f"Faster still: {_praised(choice)}" for choice in others)]
    else:
        lines = ["Nothing ran at every size and kept the picture, so nothing is recommended"]
    for choice in recommendation.refused:
        why = f"allowed is {LIMITS[choice.way.computes]}" if choice.compared else UNCOMPARED
        lines.append(f"Not recommended: {_praised(choice)}; {why}")
    return "\n".join(lines)


def as_json(measurement: Measurement, recommendation: Recommendation, about: dict[str, Any]) -> dict[str, Any]:
    """``about`` (what was measured where) with every row, its raw seconds included."""
    return {
        **about,
        "rows": [_row_as_json(row) for row in measurement.rows],
        "not_run": [_flattened(absence) for absence in measurement.absences],
        "recommended": [_flattened(choice) | {"flags": choice.flags} for choice in recommendation.choices],
        "not_recommended": [_flattened(choice) | {"flags": choice.flags} for choice in recommendation.refused],
    }


def _row_as_json(row: Row) -> dict[str, Any]:
    return _flattened(row) | {
        "median_ms": 1e3 * row.median,
        "p95_ms": 1e3 * row.p95,
        "megapixels_per_second": row.megapixels_per_second,
    }


def _flattened(entry: Row | Absence | Choice) -> dict[str, Any]:
    """As JSON, with what its way is beside the rest."""
    content = dataclasses.asdict(entry)
    way = content.pop("way")
    return {**way, "engine": entry.way.engine.name, **content}


def _cells(row: Row) -> tuple[str, ...]:
    way = row.way
    device = way.device if way.is_asked else f"{way.device} {way.engine.name}"
    return (
        f"{row.width}x{row.height}",
        device + (" cuda-graph" if way.cuda_graph else ""),
        way.computes,
        f"{1e3 * row.median:.1f} ms",
        f"{1e3 * row.p95:.1f} ms",
        f"{row.megapixels_per_second:.2f}",
        "?" if row.peak_bytes is None else f"{row.peak_bytes / 2**20:.0f} MiB",
        f"{row.open_seconds:.2f} s",
        *(("", "reference") if row.is_reference else _differences(row.parity)),
    )


def _differences(parity: Parity | None) -> tuple[str, str]:
    if parity is None:
        return "?", "?"
    return str(parity.max_levels), "equal" if parity.psnr_db is None else f"{parity.psnr_db:.1f} dB"


def _aligned(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    pairs = list(zip(line, widths, strict=True))
    return [cell.ljust(width) for cell, width in pairs[:WORDS]] + [cell.rjust(width) for cell, width in pairs[WORDS:]]


def _describe(absence: Absence) -> str:
    size = f" at {absence.width}x{absence.height}" if absence.width else ""
    return f"{absence.way.name}{size} was not run: {absence.reason}"


def _praised(choice: Choice) -> str:
    text = f"{choice.flags}, {choice.speedup:.2f} times as fast"
    if choice.min_psnr_db is not None:
        text += f", with up to {choice.max_levels} of 255 levels difference, {choice.min_psnr_db:.1f} dB"
    return text


def _keeps(way: Way, least: Computed) -> bool:
    return COMPUTED.index(way.computes) <= COMPUTED.index(least)


def _is_true(row: Row) -> bool:
    """Whether the picture is what the precision promises; only the engine that was named is believed without proof."""
    if row.parity is None:
        return row.way.is_asked and row.way.precision is None
    return LIMITS[row.way.computes].allows(row.parity, spare_levels=REFERENCE_LEVELS)


def _typical_seconds(rows: Sequence[Row]) -> float:
    """Geometric mean over the sizes, so that none of them counts for more."""
    return math.exp(sum(math.log(row.median) for row in rows) / len(rows))


def _choice(rows: Sequence[Row], speedup: float) -> Choice:
    parities = [row.parity for row in rows if row.parity is not None]
    return Choice(
        rows[0].way,
        speedup=speedup,
        max_levels=max((parity.max_levels for parity in parities), default=None),
        min_psnr_db=min((parity.psnr_db for parity in parities if parity.psnr_db is not None), default=None),
        compared=len(parities) == len(rows),
    )
