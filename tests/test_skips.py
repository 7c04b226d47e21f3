"""Runs in which a skipped test counts as a failed one, as scripts/test-gpu makes them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = """
import pytest

def test_that_lacks_a_library():
    pytest.importorskip("no_such_library")

@pytest.mark.skipif(True, reason="needs what is not here")
def test_that_lacks_something_else():
    pass

@pytest.mark.xfail(strict=True)
def test_that_is_known_to_fail():
    raise ValueError
"""


@pytest.mark.parametrize(
    ("flags", "failed"),
    [
        ((), 0),
        (("--no-skips",), 2),
        (("--no-skips", "--allow-skip", "could not import 'no_such_library'"), 1),
        (("--no-skips", "--allow-skip", "no_such_library", "--allow-skip", "needs what is"), 0),
    ],
)
def test_what_is_skipped_has_failed_where_it_is_asked_for(flags: tuple[str, ...], failed: int, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "test_it.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=dict(os.environ))
    assert done.returncode == (1 if failed else 0), done.stdout
    # What is skipped before its first line is an error of its fixtures.
    counts = re.findall(r"(\d+) (?:failed|error)", done.stdout.splitlines()[-1])
    assert sum(map(int, counts)) == failed
    assert "1 xfailed" in done.stdout
