"""nst-train: mounts the commands fit, gatys and visualize; torch is imported only for the one that was chosen."""

import sys
from collections.abc import Sequence
from importlib import import_module

from nst_common import package_version
from nst_common.console import ArgumentParser, run_command

PROG = "nst-train"
COMMANDS = {
    "fit": ("train a net on one painting", "nst_train.fit_command"),
    "gatys": ("the slow optimisation that a trained net replaces", "nst_train.gatys"),
    "visualize": ("what each layer of the loss network sees", "nst_train.visualize"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return run_command(PROG, _run, argv)


def _run(argv: Sequence[str]) -> int:
    parser = ArgumentParser(
        prog=PROG, description="Neural style transfer: train one feed-forward net per painting.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {package_version()}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    chosen = next((argument for argument in argv if not argument.startswith("-")), None)
    for name, (text, module) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text.capitalize() + ".", allow_abbrev=False)
        if name == chosen:
            import_module(module).add_arguments(command)
    arguments = parser.parse_args(argv)
    code: int = import_module(COMMANDS[arguments.command][1]).run(arguments)
    return code


if __name__ == "__main__":
    sys.exit(main())
