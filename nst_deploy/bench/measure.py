"""Times, memory and fidelity of every way to run one engine on this machine."""

import dataclasses
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nst_deploy.bench.worker import Assignment
from nst_deploy.bench.worker_process import Worker, WorkerFailedError
from nst_deploy.contract import ModelContract, Parity
from nst_deploy.memory import free_memory
from nst_deploy.runtime.backend import Device, LowerPrecision, Variant

REFERENCE: Variant = ("cpu", None)  # what pixels are compared with
Advance: TypeAlias = Callable[[int, str], None]
PAUSE = 0.02  # s: threads of the run before go on spinning for a moment


@dataclass(frozen=True)
class Row:
    """One way to run the engine at one size.

    Attributes:
        device, precision: as ``--device`` and ``--precision`` take them; None is the engine's own.
        backend: its name.
        height, width: px.
        seconds: of every run but the first.
        open_seconds: from nothing loaded to the engine opened, nothing cached.
        first_seconds: of the first run.
        peak_bytes: resident memory of its process; None where the system does not say.
        parity: against the reference; None where that could not be run.
    """

    device: Device
    precision: LowerPrecision | None
    backend: str
    height: int
    width: int
    seconds: tuple[float, ...]
    open_seconds: float
    first_seconds: float
    peak_bytes: int | None
    parity: Parity | None

    @property
    def median(self) -> float:
        """Seconds."""
        return float(np.median(self.seconds))

    @property
    def p95(self) -> float:
        """Seconds that 95 % of the runs stayed below, interpolated."""
        return float(np.percentile(self.seconds, 95))

    @property
    def megapixels_per_second(self) -> float:
        return self.height * self.width / 1e6 / self.median


@dataclass(frozen=True)
class Absence:
    """A way to run the engine that there is, but not here; ``height`` and ``width`` are 0 where no size can be run."""

    device: Device
    precision: LowerPrecision | None
    height: int
    width: int
    reason: str


@dataclass(frozen=True)
class Measurement:
    rows: tuple[Row, ...]
    absences: tuple[Absence, ...]


def measure(
    engine: Path,
    contract: ModelContract,
    photo: Image.Image,
    sizes: Sequence[tuple[int, int]],
    variants: Sequence[Variant],
    *,
    runs: int,
    threads: int | None,
    advance: Advance,
) -> Measurement:
    """Runs every variant at every size; those of one size take turns, so that what disturbs the machine hits all.

    Args:
        photo: RGB; it is resized to every size.
        sizes: (H, W) in px.
        variants: the ways to run it.
        runs: timed ones, after one that is not counted here.
        threads: see ``open_backend``.
        advance: called with the number of runs that are over and what was running.
    """
    rows: list[Row] = []
    absences: list[Absence] = []
    for height, width in sizes:
        need = height * width * contract.working_bytes_per_pixel * len(variants)
        free = free_memory()
        if free is not None and need > free:
            reason = f"all of them together need about {need / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"
            absences += [Absence(*variant, height, width, reason) for variant in variants]
            advance(count_runs(1, len(variants), runs), "")
            continue
        with tempfile.TemporaryDirectory(prefix="nst-bench-") as folder:
            picture = np.asarray(photo.resize((width, height), Image.Resampling.LANCZOS))[None]
            np.save(Path(folder) / "picture.npy", picture)
            found, missing = _Size(engine, (height, width), Path(folder), threads, advance).measure(variants, runs)
        rows += found
        absences += missing
    return Measurement(tuple(rows), _merged(absences, len(sizes)))


def count_runs(sizes: int, variants: int, runs: int) -> int:
    """How many ``advance`` will be told of."""
    return sizes * variants * (1 + runs)


class _Size:
    """All variants at one size."""

    def __init__(
        self, engine: Path, size: tuple[int, int], folder: Path, threads: int | None, advance: Advance
    ) -> None:
        self._engine, self._folder, self._threads, self._advance = engine, folder, threads, advance
        self._height, self._width = size
        self._absences: list[Absence] = []

    def measure(self, variants: Sequence[Variant], runs: int) -> tuple[list[Row], list[Absence]]:
        with ExitStack() as stack:
            workers: dict[Variant, Worker] = {}
            for variant in variants:  # one after the other, so that opening is timed alone
                worker = stack.enter_context(Worker(self._assignment(*variant)))
                if self._attempt(worker.start, variant, runs):
                    workers[variant] = worker
            for done in range(runs):
                # Every round begins with another one: whoever follows the heaviest is not always the same.
                first = done % max(1, len(workers))
                for variant in [*workers][first:] + [*workers][:first]:
                    time.sleep(PAUSE)
                    if not self._attempt(workers[variant].run, variant, runs - done - 1):
                        del workers[variant]
            return [self._row(variant, worker) for variant, worker in workers.items()], self._absences

    def _attempt(self, step: Callable[[], None], variant: Variant, left: int) -> bool:
        """Whether the step went well; otherwise the reason is noted, and the runs that are left count as done."""
        note = f"{variant_name(*variant)} {self._width}x{self._height}"
        try:
            step()
        except WorkerFailedError as error:
            self._absences.append(Absence(*variant, self._height, self._width, str(error)))
            self._advance(1 + left, note)
            return False
        self._advance(1, note)
        return True

    def _assignment(self, device: Device, precision: LowerPrecision | None) -> Assignment:
        return Assignment(
            engine=str(self._engine),
            device=device,
            precision=precision,
            threads=self._threads,
            picture=str(self._folder / "picture.npy"),
            styled=str(self._styled(device, precision)),
        )

    def _styled(self, device: Device, precision: LowerPrecision | None) -> Path:
        return self._folder / f"{variant_name(device, precision)}.npy"

    def _row(self, variant: Variant, worker: Worker) -> Row:
        reference = self._styled(*REFERENCE)
        parity = None
        if reference.exists():
            parity = compare(np.load(reference), np.load(self._styled(*variant)), worker.started["backend"])
        return Row(
            *variant,
            backend=worker.started["backend"],
            height=self._height,
            width=self._width,
            seconds=tuple(sample["seconds"] for sample in worker.samples),
            open_seconds=worker.started["open_seconds"],
            first_seconds=worker.started["first_seconds"],
            peak_bytes=worker.samples[-1]["peak_bytes"],
            parity=parity,
        )


def compare(reference: NDArray[np.uint8], styled: NDArray[np.uint8], backend: str) -> Parity:
    """How far two pictures of one shape are apart."""
    difference = np.abs(reference.astype(np.int16) - styled)
    squared_error = float(np.square(difference, dtype=np.float64).mean())
    return Parity(
        max_levels=int(difference.max()),
        identical=float((difference == 0).mean()),
        psnr_db=None if squared_error == 0 else 10 * math.log10(255**2 / squared_error),
        backend=backend,
    )


def variant_name(device: Device, precision: LowerPrecision | None) -> str:
    """As it is asked for on the command line, without dashes."""
    return device if precision is None else f"{device} {precision}"


def _merged(absences: Sequence[Absence], sizes: int) -> tuple[Absence, ...]:
    """One instead of one per size where the reason is the same at all of them."""
    merged: dict[tuple[str, str], list[Absence]] = {}
    for absence in absences:
        merged.setdefault((variant_name(absence.device, absence.precision), absence.reason), []).append(absence)
    result: list[Absence] = []
    for group in merged.values():
        result += [dataclasses.replace(group[0], height=0, width=0)] if len(group) == sizes else group
    return tuple(result)
