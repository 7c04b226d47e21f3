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

from nst_deploy.bench.ways import Way, Ways
from nst_deploy.bench.worker import Assignment
from nst_deploy.bench.worker_process import Worker, WorkerFailedError
from nst_deploy.contract import ModelContract, Parity
from nst_deploy.memory import free_memory

Advance: TypeAlias = Callable[[int, str], None]
PAUSE = 0.02  # s: threads of the run before go on spinning for a moment


@dataclass(frozen=True)
class Row:
    """One way to run the style at one size.

    Attributes:
        backend: the name of what ran it.
        height, width: px.
        seconds: of every run but the first.
        open_seconds: from nothing loaded to the engine opened, nothing cached.
        first_seconds: of the first run.
        peak_bytes: resident memory of its process; None where the system does not say.
        parity: against the reference; None where that could not be run.
        is_reference: pixels are compared with its own.
    """

    way: Way
    backend: str
    height: int
    width: int
    seconds: tuple[float, ...]
    open_seconds: float
    first_seconds: float
    peak_bytes: int | None
    parity: Parity | None
    is_reference: bool = False

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
    """A way that there is, but not here; ``height`` and ``width`` are 0 where no size can be run."""

    way: Way
    height: int
    width: int
    reason: str


@dataclass(frozen=True)
class Measurement:
    rows: tuple[Row, ...]
    absences: tuple[Absence, ...]


def measure(
    ways: Ways,
    contract: ModelContract,
    photo: Image.Image,
    sizes: Sequence[tuple[int, int]],
    *,
    runs: int,
    threads: int | None,
    advance: Advance,
) -> Measurement:
    """Runs every way at every size; on CPUs those of one size take turns, so that what disturbs the machine hits all.

    On a GPU each runs alone: together they might not fit into its memory, and nobody would see why.

    Args:
        contract: of the engine that was asked for.
        photo: RGB; it is resized to every size.
        sizes: (H, W) in px.
        runs: timed ones, after one that is not counted here.
        threads: see ``open_backend``.
        advance: called with the number of runs that are over and what was running.
    """
    rows: list[Row] = []
    absences: list[Absence] = []
    for height, width in sizes:
        on_cpu = [way for way in ways.ways if not way.on_gpu]  # GPUs have memory of their own, which they watch over
        need = height * width * contract.working_bytes_per_pixel * len(on_cpu)
        free, here = free_memory(), ways
        if free is not None and need > free:
            reason = f"all of them together need about {need / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"
            absences += [Absence(way, height, width, reason) for way in on_cpu]
            advance(count_runs(1, len(on_cpu), runs), "")
            here = dataclasses.replace(ways, ways=tuple(way for way in ways.ways if way.on_gpu))
        if not here.ways:
            continue
        with tempfile.TemporaryDirectory(prefix="nst-bench-") as folder:
            picture = np.asarray(photo.resize((width, height), Image.Resampling.LANCZOS))[None]
            np.save(Path(folder) / "picture.npy", picture)
            found, missing = _Size(here, (height, width), Path(folder), threads, advance).measure(runs)
        rows += found
        absences += missing
    return Measurement(tuple(rows), _merged(absences, len(sizes)))


def count_runs(sizes: int, ways: int, runs: int) -> int:
    """How many ``advance`` will be told of."""
    return sizes * ways * (1 + runs)


class _Size:
    """All ways at one size."""

    def __init__(self, ways: Ways, size: tuple[int, int], folder: Path, threads: int | None, advance: Advance) -> None:
        self._ways, self._folder, self._threads, self._advance = ways, folder, threads, advance
        self._height, self._width = size
        self._absences: list[Absence] = []
        self._done: dict[Way, Worker] = {}

    def measure(self, runs: int) -> tuple[list[Row], list[Absence]]:
        ways = self._ways.ways
        self._take_turns([way for way in ways if not way.on_gpu], runs)
        for way in ways:
            if way.on_gpu:
                self._take_turns([way], runs)
        reference = next((way for way in self._ways.reference if way in self._done), None)
        return [self._row(way, reference) for way in ways if way in self._done], self._absences

    def _take_turns(self, ways: Sequence[Way], runs: int) -> None:
        """Opens these together, and closes them; what ran to the end is in ``_done``."""
        with ExitStack() as stack:
            workers: dict[Way, Worker] = {}
            for way in ways:  # one after the other, so that opening is timed alone
                worker = stack.enter_context(Worker(self._assignment(way)))
                if self._attempt(worker.start, way, runs):
                    workers[way] = worker
            for done in range(runs):
                # Every round begins with another one: whoever follows the heaviest is not always the same.
                first = done % max(1, len(workers))
                for way in [*workers][first:] + [*workers][:first]:
                    time.sleep(PAUSE)
                    if not self._attempt(workers[way].run, way, runs - done - 1):
                        del workers[way]
            self._done |= workers

    def _attempt(self, step: Callable[[], None], way: Way, left: int) -> bool:
        """Whether the step went well; otherwise the reason is noted, and the runs that are left count as done."""
        note = f"{way.name} {self._width}x{self._height}"
        try:
            step()
        except WorkerFailedError as error:
            self._absences.append(Absence(way, self._height, self._width, str(error)))
            self._advance(1 + left, note)
            return False
        self._advance(1, note)
        return True

    def _assignment(self, way: Way) -> Assignment:
        return Assignment(
            engine=str(way.engine),
            device=way.device,
            precision=way.precision,
            threads=None if way.on_gpu else self._threads,
            picture=str(self._folder / "picture.npy"),
            styled=str(self._styled(way)),
            cuda_graph=way.cuda_graph,
        )

    def _styled(self, way: Way) -> Path:
        return self._folder / f"styled{self._ways.ways.index(way)}.npy"

    def _row(self, way: Way, reference: Way | None) -> Row:
        worker, parity = self._done[way], None
        backend: str = worker.started["backend"]
        if reference is not None:
            parity = compare(np.load(self._styled(reference)), np.load(self._styled(way)), backend)
        return Row(
            way,
            backend=backend,
            height=self._height,
            width=self._width,
            seconds=tuple(sample["seconds"] for sample in worker.samples),
            open_seconds=worker.started["open_seconds"],
            first_seconds=worker.started["first_seconds"],
            peak_bytes=worker.samples[-1]["peak_bytes"],
            parity=parity,
            is_reference=way == reference,
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


def _merged(absences: Sequence[Absence], sizes: int) -> tuple[Absence, ...]:
    """One instead of one per size where the reason is the same at all of them."""
    merged: dict[tuple[Way, str], list[Absence]] = {}
    for absence in absences:
        merged.setdefault((absence.way, absence.reason), []).append(absence)
    result: list[Absence] = []
    for group in merged.values():
        result += [dataclasses.replace(group[0], height=0, width=0)] if len(group) == sizes else group
    return tuple(result)
