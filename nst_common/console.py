"""How every command of this project starts, fails and ends."""

import argparse
import errno
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
    _prepare_streams()
    try:
        code = work(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return code
    except UserError as error:
        _complain(prog, str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _complain(prog, "interrupted; what was finished is kept")
        return INTERRUPTED
    except BrokenPipeError:
        _drop_stdout()  # the reader (head, less) has left
        return 1
    except OSError as error:  # such as a full disk behind `> log`
        _drop_stdout()
        too_long = error.errno == errno.ENAMETOOLONG
        _complain(
            prog, f"{error}. {'Choose a shorter name' if too_long else 'Check the place that the output goes to'}"
        )
        return 1
    except MemoryError:
        _complain(prog, "out of memory. Close other programs, or give it less to do at once")
        return 1


def _complain(prog: str, message: str) -> None:
    sys.stderr.write(f"{prog}: error: {message}\n")


def _prepare_streams() -> None:
    """Output that is closed goes nowhere, and names that the terminal cannot show are escaped: neither is an error."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123  (for good)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _drop_stdout() -> None:
    """Python would complain once more while flushing what is left at exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # not a real file, as under a test or in a notebook
        return


def _stop_on_sigterm() -> None:
    """Makes `kill` unwind the stack, so that partial files are removed as they are after Ctrl-C."""

    def stop(number: int, _frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    try:
        signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: the program around us owns the signals
        return
