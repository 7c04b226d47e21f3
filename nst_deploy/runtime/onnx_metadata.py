"""What an ONNX file says of itself, read from its bytes: 7 MB of weights need not be parsed for a page of text."""

from collections.abc import Iterator
from pathlib import Path

from nst_deploy.contract import ContractError, ModelContract
from nst_deploy.errors import EngineNotFoundError, EngineUnreadableError, NotAnEngineError

# Field numbers of onnx.proto: ModelProto's graph and metadata_props, StringStringEntryProto's key and value.
GRAPH, METADATA_PROPS = 7, 14
KEY, VALUE = 1, 2
VARINT, EIGHT_BYTES, LENGTH_DELIMITED, FOUR_BYTES = 0, 1, 2, 5  # protobuf's wire types that ONNX uses


def read_engine(engine: Path) -> tuple[bytes, ModelContract]:
    """The file and the contract in its metadata; the graph itself is not looked at.

    Raises:
        EngineNotFoundError, EngineUnreadableError, NotAnEngineError.
    """
    if not engine.is_file():
        raise EngineNotFoundError(engine)
    try:
        model = engine.read_bytes()
    except OSError as error:
        raise EngineUnreadableError(engine, error.strerror or str(error)) from error
    try:
        return model, ModelContract.from_metadata(parse_metadata(model))
    except ContractError as error:
        raise NotAnEngineError(engine, str(error)) from error
    except ValueError as error:
        reason = "it is damaged or not an ONNX model" if model else "the file is empty"
        raise EngineUnreadableError(engine, reason) from error


def parse_metadata(model: bytes) -> dict[str, str]:
    """``metadata_props`` of a serialised ModelProto.

    Raises:
        ValueError: the bytes are not protobuf, or hold no graph.
    """
    view = memoryview(model)
    metadata, has_graph = {}, False
    for field, value in _fields(view):
        has_graph |= field == GRAPH
        if field == METADATA_PROPS:
            entry = {number: bytes(text).decode() for number, text in _fields(value)}
            metadata[entry.get(KEY, "")] = entry.get(VALUE, "")
    if not has_graph:
        raise ValueError("no graph")
    return metadata


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(field number, content) of every length-delimited field; numbers are passed over."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        field, kind = tag >> 3, tag & 7
        if kind == LENGTH_DELIMITED:
            length, at = _varint(message, at)
            yield field, message[at : at + length]
            at += length
        elif kind == VARINT:
            _, at = _varint(message, at)
        elif kind in (EIGHT_BYTES, FOUR_BYTES):
            at += 8 if kind == EIGHT_BYTES else 4
        else:
            raise ValueError(f"wire type {kind}")
        if field == 0 or at > len(message):
            raise ValueError("cut short")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number in groups of 7 bits, lowest first, and where it ends."""
    number = shift = 0
    while at < len(message):
        byte = message[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at
    raise ValueError("cut short")
