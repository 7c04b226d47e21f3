"""The scripts of benchmarks/ as modules."""

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Their folder, from which they can be imported."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return BENCHMARKS
