"""Trains bundled styles by their recipes, one after the other in one process, so that torch.compile works only once.

    python engines/train.py --content photographs/ --paintings paintings/ --out trained/ [NAME …] [-- OPTION …]

Paintings are looked for as NAME.jpg (``starry_night_half`` is painted like ``starry_night``). What follows ``--`` goes
to ``nst-train fit`` as it is: ``-- --vgg-weights FILE --resume``. Without a name all recipes beside this file are
trained. A training that fails ends the rest. ``engines/ship.py`` makes bundled styles of the results.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nst_train.cli import main as nst_train

RECIPES = Path(__file__).parent


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code of the first training that failed, or 0."""
    given = list(sys.argv[1:] if argv is None else argv)
    end = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="bundled styles (default: all)")
    parser.add_argument("--content", type=Path, required=True, metavar="DIR", help="folder of photographs")
    parser.add_argument("--paintings", type=Path, required=True, metavar="DIR", help="folder of NAME.jpg")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where NAME.pth goes")
    arguments = parser.parse_args(given[:end])
    known = sorted(recipe.stem for recipe in RECIPES.glob("*.toml"))
    if unknown := [name for name in arguments.names if name not in known]:
        parser.error(f"there is no recipe of {unknown[0]}; there are those of {', '.join(known)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or known:
        code = nst_train(fit_options(name, arguments.content, arguments.paintings, arguments.out) + given[end + 1 :])
        if code:
            return code
    return 0


def fit_options(name: str, content: Path, paintings: Path, out: Path) -> list[str]:
    """The command line that trains a bundled style."""
    painting = paintings / f"{name.removesuffix('_half')}.jpg"
    paths = {"recipe": RECIPES / f"{name}.toml", "content": content, "style": painting, "out": out / f"{name}.pth"}
    return ["fit", *(part for option, path in paths.items() for part in (f"--{option}", str(path)))]


if __name__ == "__main__":
    sys.exit(main())
