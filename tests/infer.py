"""Driving nst-infer in the current folder, in which ``engine.onnx`` lies."""

from pathlib import Path

import numpy as np
import pytest

from nst_deploy.cli_infer import main
from nst_deploy.images import Picture, save_picture


def photo(path: str | Path, height: int = 12, width: int = 17, seed: int = 0) -> np.ndarray:
    """Writes a picture of noise and returns its pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_picture(Path(path), Picture(pixels))
    return pixels


def infer(*arguments: str) -> int:
    try:
        return main(["--engine", "engine.onnx", *arguments])
    except SystemExit as end:  # argparse's own way out
        return int(end.code or 0)


def files(folder: Path) -> list[str]:
    """Everything below it but the engine, so that a forgotten partial file shows."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.suffix != ".onnx")


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The only line of stderr."""
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("nst-infer: error: ")
    return error
