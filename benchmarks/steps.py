"""Every measurement on a CPU: all.py runs them in this order, those that want a quiet machine first, and page.py names
their commands."""

import os
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What does not belong to the project: photographs (photos/, content/), paintings (styles/), published networks
# (lengstrom/), VGG weights. Texts call it DATA.
DATA = ROOT.parent / "shared" / "data"
VGG = "DATA/vgg19_features_relu3_4.safetensors"
LA_MUSE = "--ckpt engines/la_muse.pth"
STYLES = sorted(path.stem for path in (ROOT / "engines").glob("*.pth"))
Command = tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """One measurement.

    Attributes:
        name: of what it writes, benchmarks/results/NAME.json.
        commands: what follows ``python``, from the project's folder, one after the other.
        minutes: roughly, on two cores; nothing but the estimate of the time that is left depends on it.
        by_default: belongs to what is measured without being asked for.
    """

    name: str
    commands: tuple[Command, ...]
    minutes: float
    by_default: bool = True

    @property
    def shown(self) -> str:
        """For a page: the first command, which stands for the others."""
        return " ".join(("python", *self.commands[0]))

    @property
    def missing(self) -> list[Path]:
        """What it reads and is not here."""
        words = {word for command in self.commands for word in command if word.startswith("DATA/")}
        return [path for path in map(resolve, sorted(words)) if not path.exists()]


def resolve(word: str) -> Path:
    """``DATA/photos`` -> where that is."""
    return DATA / word.removeprefix("DATA/")


def argv(command: Command) -> list[str]:
    """A command for a process in the project's folder, without ``python``."""
    return [os.path.relpath(resolve(word), ROOT) if word.startswith("DATA/") else word for word in command]


def with_data(command: str) -> str:
    """A command that was run from the project's folder, as texts write it."""
    return command.replace(os.path.relpath(DATA, ROOT), "DATA")


def _step(name: str, minutes: float, *commands: str, by_default: bool = True) -> Step:
    return Step(name, tuple(tuple(command.split()) for command in commands), minutes, by_default)


STEPS = (
    _step("export", 16, f"benchmarks/export.py {LA_MUSE}"),
    _step("export_rewrites", 5, f"benchmarks/export.py {LA_MUSE} --rewrites"),
    _step("int8", 5, "benchmarks/int8.py --pictures DATA/photos"),
    _step(
        "cold_start",
        2,
        f"benchmarks/cold_start.py {LA_MUSE} --picture nst_deploy/export/photographs/rocket.jpg",
    ),
    _step("training", 4, "benchmarks/training.py --content DATA/content --style DATA/styles/la_muse.jpg"),
    _step("cpp", 3, "benchmarks/cpp.py"),
    _step("fp16", 30, "benchmarks/fp16.py"),
    _step(
        "quality",
        15,
        *(
            f"benchmarks/quality.py --ckpt engines/{style}.pth --style DATA/styles/{style.removesuffix('_half')}.jpg "
            f"--photos DATA/content --vgg-weights {VGG}"
            for style in STYLES
        ),
        by_default=False,
    ),
)
