"""How every command of this project starts, fails and ends."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn

from nst_common.errors import UserError

INTERRUPTED = 130  # 128 + SIGINT, the shell's convention


class ArgumentParser(argparse.ArgumentParser):
    """argparse whose complaint is one line with the remedy, and whose exit code for wrong usage is 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def run_command(prog: str, work: Callable[[Sequence[str]], int], argv: Sequence[str] | None) -> int:
    """Runs ``work(argv)`` and turns every foreseen failure into one line on stderr and an exit code.

    Returns:
        What ``work`` returned; a UserError's own code (1 failed work, 2 wrong usage); 130 after Ctrl-C.
    """
    _stop_on_sigterm()
    try:
        return work(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        _complain(prog, str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _complain(prog, "interrupted; what was finished is kept")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has left; python would complain once more while flushing stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError:
        _complain(prog, "out of memory. Close other programs or work at a smaller size with --size")
        return 1


def _complain(prog: str, message: str) -> None:
    sys.stderr.write(f"{prog}: error: {message}\n")


def _stop_on_sigterm() -> None:
    """Makes `kill` unwind the stack, so that partial files are removed as they are after Ctrl-C."""

    def stop(number: int, _frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    try:
        signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: the program around us owns the signals
        return
