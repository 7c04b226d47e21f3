"""The process in which one back end runs one size, so that its peak memory is its own.

It opens the engine, runs once, and says how long both took; each further line on its standard input is one run. What
it says are lines of JSON: numbers, or an error to show.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from nst_common.errors import UserError
from nst_deploy.runtime.backend import Backend, Device, LowerPrecision, open_backend


@dataclass(frozen=True)
class Assignment:
    """What one worker is for.

    Attributes:
        engine: path of an engine.
        device, precision, threads, cuda_graph: see ``open_backend``.
        picture: .npy of a uint8 ``[1, H, W, 3]``, RGB.
        styled: .npy to be written, the same.
    """

    engine: str
    device: Device
    precision: LowerPrecision | None
    threads: int | None
    picture: str
    styled: str
    cuda_graph: bool = False


def main(argv: Sequence[str]) -> int:
    """Works on the assignment, given as JSON, until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the process that asked ends us
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a vendor's library prints must not get among the answers
    try:
        _work(Assignment(**json.loads(argv[0])), answers)
    except UserError as error:
        _say(answers, error=str(error))
        return error.exit_code
    return 0


def _work(assignment: Assignment, answers: TextIO) -> None:
    picture = np.load(assignment.picture)
    started = time.perf_counter()
    backend = open_backend(
        Path(assignment.engine),
        assignment.device,
        precision=assignment.precision,
        threads=assignment.threads,
        cache=False,  # whether something was kept from before should not show in the figures
        cuda_graph=assignment.cuda_graph,
    )
    opened = time.perf_counter()
    styled = backend.run(picture)
    first = time.perf_counter() - opened
    # The first run of a graph is its capture; it is the replays that everybody gets.
    np.save(assignment.styled, backend.run(picture) if assignment.cuda_graph else styled)
    _say(answers, backend=backend.name, open_seconds=opened - started, first_seconds=first)
    for _ in sys.stdin:
        seconds = _time(backend, picture)
        _say(answers, seconds=seconds, peak_bytes=peak_memory())


def _time(backend: Backend, picture: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]") -> float:
    started = time.perf_counter()
    backend.run(picture)
    return time.perf_counter() - started


def _say(answers: TextIO, **content: object) -> None:
    answers.write(json.dumps(content) + "\n")
    answers.flush()


def peak_memory(status: Path = Path("/proc/self/status")) -> int | None:
    """Bytes of this process that were resident at once; None where the system does not say."""
    if status.exists():  # getrusage would include what the starting process had before it became this one
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024  # written in kiB
    if sys.platform == "darwin":
        import resource  # noqa: PLC0415  (not on Windows)

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
