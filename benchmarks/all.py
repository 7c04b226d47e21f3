"""Measures everything on a CPU, one thing after the other, and writes the pages.

    python benchmarks/all.py [STEP …] [--list]

For a machine that does nothing else: it waits until that is so. Each step is a command of its own, which can be given
by hand as well; --list shows them, with what each takes on two cores. What fails is named at the end and stops nothing
else; results are benchmarks/results/STEP.json. ``quality`` runs when it is named.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from steps import ROOT, STEPS, Step, argv

QUIET_CORES = 0.15  # at work with something else, at most
LOOK = 5.0  # s, over which that is averaged
PATIENCE = 600.0  # s
AFTERWARDS = ("benchmarks/export_plot.py", "benchmarks/page.py")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [step.name for step in STEPS]
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"of {', '.join(names)} (default: all but quality)")
    parser.add_argument("--list", action="store_true", help="show the commands and run nothing")
    arguments = parser.parse_args()
    unknown = set(arguments.steps) - set(names)
    if unknown:
        parser.error(f"no step is called {', '.join(sorted(unknown))}; known are {', '.join(names)}")
    steps = [step for step in STEPS if (step.name in arguments.steps if arguments.steps else step.by_default)]
    if arguments.list:
        print("\n".join(listed(steps)))
        return
    failed = [step.name for number, step in enumerate(steps) if not run(step, steps[number:], len(steps))]
    for script in AFTERWARDS:
        if not succeeds([script]):
            failed.append(script)
    if failed:
        sys.exit(f"benchmarks/all.py: error: failed: {', '.join(failed)}; above stands why")


def listed(steps: Sequence[Step]) -> list[str]:
    """A line for each command, and one for all."""
    lines = [f"{'':>8}  python {' '.join(argv(command))}" for step in steps for command in step.commands]
    firsts = [sum(len(step.commands) for step in steps[:number]) for number in range(len(steps))]
    for first, step in zip(firsts, steps, strict=True):
        lines[first] = f"{step.minutes:4g} min" + lines[first][8:]
    return [*lines, f"{minutes(steps):4g} min  altogether, on two cores"]


def minutes(steps: Sequence[Step]) -> float:
    return sum(step.minutes for step in steps)


def run(step: Step, left: Sequence[Step], total: int) -> bool:
    """Whether all its commands succeed. ``left`` begins with it."""
    number = total - len(left) + 1
    say(f"[{number}/{total}] {step.name}: about {step.minutes:g} min; {minutes(left):g} min to the end")
    if step.missing:
        say(f"{step.name} needs {', '.join(map(str, step.missing))}, which is not here")
        return False
    wait_until_quiet()
    started = time.monotonic()
    done = [succeeds(argv(command)) for command in step.commands]
    say(f"[{number}/{total}] {step.name}: {'done' if all(done) else 'FAILED'}, {since(started)}")
    return all(done)


def succeeds(command: Sequence[str]) -> bool:
    """Runs a command with this checkout's packages, whatever is installed."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    say(f"python {' '.join(command)}")
    return subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, check=False).returncode == 0


def wait_until_quiet(busy: Callable[[], float | None] | None = None, patience: float = PATIENCE) -> None:
    """Until hardly anything else runs; says so where it gives up, and where nobody can tell.

    Args:
        busy: how many cores are at work; None for those of this machine.
    """
    busy = busy or busy_cores
    began = time.monotonic()
    while (cores := busy()) is None or cores > QUIET_CORES:
        if cores is None:
            say("warning: this system does not say how busy it is; figures are only good where nothing else runs")
            return
        if time.monotonic() - began > patience:
            say(f"warning: {cores:.1f} cores are busy with other work; these figures are not to be published")
            return


def busy_cores(stat: Path = Path("/proc/stat"), seconds: float = LOOK) -> float | None:
    """Cores at work over the next ``seconds``, on average; None where the system does not say."""
    if not stat.exists():
        return None
    before = _ticks(stat)
    time.sleep(seconds)
    idle, total = (after - then for after, then in zip(_ticks(stat), before, strict=True))
    return (os.cpu_count() or 1) * (1 - idle / max(total, 1))


def _ticks(stat: Path) -> tuple[int, int]:
    """Idle, and altogether, since the system started; see proc(5)."""
    numbers = list(map(int, stat.read_text().split("\n")[0].split()[1:9]))
    return numbers[3] + numbers[4], sum(numbers)  # waiting for a disk is idle too


def since(started: float) -> str:
    return f"{(time.monotonic() - started) / 60:.1f} min"


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
