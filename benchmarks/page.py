"""Writes benchmarks/README.md, and the figures in README.md and engines/cpp/README.md, from benchmarks/results/*.json.

    python benchmarks/page.py [--check]

No figure of these pages is typed by hand. ``--check`` writes nothing and fails where a page is not what it should be.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import figures
from markdown import replace_block, wrapped
from sections import SECTIONS, Results
from steps import ROOT, STEPS

RESULTS = ROOT / "benchmarks" / "results"
PAGE = Path("benchmarks/README.md")
# Blocks of pages that are otherwise written by hand: page -> name of the block -> what makes it.
BLOCKS: Mapping[Path, Mapping[str, Callable[[Results], str]]] = {
    Path("README.md"): {
        "cold start": figures.cold_start,
        "figures": figures.readme,
        "gpu": figures.gpu,
        "training": figures.training,
    },
    Path("engines/cpp/README.md"): {"figures": figures.cpp},
}
INTRODUCTION = """\
# Benchmarks

What nst gives beside what people run today. **Made by `python benchmarks/page.py` from `results/*.json`; do not edit.**

`python benchmarks/all.py` measures everything again on a machine that does nothing else, in about {hours} hours on two
cores, and then writes this page. Each section names its own command, and the machine. `DATA` is a folder that does not
belong to the project: photographs (`photos/`, `content/`), paintings (`styles/`), published networks (`lengstrom/`).
"""


def load(folder: Path = RESULTS) -> Results:
    """Every result that is there, by its name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def pages(results: Results, root: Path = ROOT) -> dict[Path, str]:
    """What every page should be, by its path from the project's folder."""
    hours = sum(step.minutes for step in STEPS if step.by_default) / 60
    introduction = INTRODUCTION.format(hours=f"{hours:.1f}")
    made = {PAGE: wrapped("\n".join([introduction, *(section(results) for section in SECTIONS)]))}
    for path, blocks in BLOCKS.items():
        text = (root / path).read_text(encoding="utf-8")
        for name, block in blocks.items():
            text = replace_block(text, name, block(results))
        made[path] = text
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a page is not up to date")
    check = parser.parse_args().check
    for path, text in pages(load()).items():
        current = (ROOT / path).read_text(encoding="utf-8") if (ROOT / path).exists() else ""
        if current == text:
            continue
        if check:
            sys.exit(f"benchmarks/page.py: error: {path} is not what the results say. Run python benchmarks/page.py")
        (ROOT / path).write_text(text, encoding="utf-8")
        print(f"written: {path}")


if __name__ == "__main__":
    main()
