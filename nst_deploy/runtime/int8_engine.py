"""INT8 engines, which are files of their own beside the engines that they stand for."""

from pathlib import Path

from nst_deploy.errors import Int8EngineForeignError, Int8EngineMissingError
from nst_deploy.runtime.onnx_metadata import read_engine

SUFFIX = ".int8.onnx"


def int8_engine(engine: Path) -> Path:
    """The INT8 engine beside ``engine``, made from the same checkpoint; an INT8 engine stands for itself.

    Raises:
        EngineNotFoundError, EngineUnreadableError, NotAnEngineError: one of the two.
        Int8EngineMissingError, Int8EngineForeignError.
    """
    _, contract = read_engine(engine)
    if contract.precision == "int8":
        return engine
    beside = engine.with_suffix(SUFFIX)
    if not beside.is_file():
        raise Int8EngineMissingError(engine, beside)
    _, int8_contract = read_engine(beside)
    if int8_contract.checkpoint_sha256 != contract.checkpoint_sha256:
        raise Int8EngineForeignError(engine, beside)
    return beside
