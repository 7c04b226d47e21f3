"""Protobuf's text format, written: the few lines that a config.pbtxt needs, without protobuf."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias, Union

ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
FIRST_PRINTABLE = 0x20
INDENT = "  "


class Symbol(str):
    """The name of an enum's value, written without quotes."""

    __slots__ = ()


Scalar: TypeAlias = str | int  # bool and Symbol among them
Field: TypeAlias = Union[Scalar, "Message", Sequence[Scalar], Sequence["Message"]]
Message: TypeAlias = Mapping[str, Field]


def to_pbtxt(message: Message) -> str:
    """A message as text: fields in the order given, one a line.

    A sequence is a repeated field: of messages as one block each, of scalars in brackets; an empty one is left out.
    A map is a repeated message of ``key`` and ``value``.
    """
    return "".join(line + "\n" for name, value in message.items() for line in _field(name, value))


def map_of(entries: Mapping[str, Field]) -> list[Message]:
    """A map field."""
    return [{"key": key, "value": value} for key, value in entries.items()]


def _field(name: str, value: Field) -> list[str]:
    if isinstance(value, Mapping):
        inner = [INDENT + line for key, entry in value.items() for line in _field(key, entry)]
        return [f"{name} {{", *inner, "}"]
    if isinstance(value, str | int):
        return [f"{name}: {_scalar(value)}"]
    if not value:
        return []
    if isinstance(value[0], Mapping):
        return [line for entry in value for line in _field(name, entry)]
    return [f"{name}: [ {', '.join(_scalar(entry) for entry in value if isinstance(entry, str | int))} ]"]


def _scalar(value: Scalar) -> str:
    if isinstance(value, Symbol):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return '"' + "".join(map(_character, value)) + '"'


def _character(character: str) -> str:
    code = ord(character)
    # Letters of other alphabets stand as they are: the file is UTF-8.
    return ESCAPES.get(character) or (f"\\{code:03o}" if code < FIRST_PRINTABLE else character)
