import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from nst_common.console import ArgumentParser, run_command
from nst_common.errors import UsageError, UserError


@pytest.fixture(autouse=True)
def keep_signal_handler() -> object:
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("No\n  such thing", "Get one"), 1, "tool: error: No such thing. Get one\n"),
        (UsageError("Odd", "Be even"), 2, "tool: error: Odd. Be even\n"),
        (KeyboardInterrupt(), 130, "tool: error: interrupted; what was finished is kept\n"),
        (MemoryError(), 1, "tool: error: out of memory. Close other programs, or give it less to do at once\n"),
    ],
)
def test_foreseen_failures_are_one_line(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    def work(_argv: Sequence[str]) -> int:
        raise error

    assert run_command("tool", work, []) == code
    assert capsys.readouterr() == ("", line)


def test_the_code_of_the_work_and_its_arguments_go_through() -> None:
    assert run_command("tool", len, ["a", "b", "c"]) == 3


def test_programming_errors_are_not_hidden() -> None:
    def work(_argv: Sequence[str]) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command("tool", work, [])


def test_wrong_usage_is_one_line_and_2(capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser(prog="tool")
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--unknown"])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error == "tool: error: unrecognized arguments: --unknown (see tool --help)\n"


def test_a_reader_that_has_left_is_no_traceback() -> None:
    code = (
        "import sys; from nst_common.console import run_command\n"
        "sys.exit(run_command('tool', lambda argv: [print(i) for i in range(10**6)] and 0, []))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(10) == 1


def test_sigterm_removes_what_is_half_written(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from nst_common.atomic_file import atomic_write; from nst_common.console import run_command\n"
        "def work(argv):\n"
        "    with atomic_write(Path(argv[0])) as partial:\n"
        "        partial.write_text('half'); print('now', flush=True); time.sleep(60)\n"
        "sys.exit(run_command('tool', work, sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.bin")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"now\n"
        process.terminate()
        assert process.wait(10) == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())
