import signal
from pathlib import Path

import pytest

from tests.engines import write_engine


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with an engine in it."""
    monkeypatch.chdir(tmp_path)
    write_engine(tmp_path / "engine.onnx")
    return tmp_path


@pytest.fixture(autouse=True)
def keep_signal_handler() -> object:
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)
