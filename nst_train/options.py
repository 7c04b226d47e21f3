"""Command-line options made from frozen dataclasses, which stay the one source of names, defaults and ranges.

A field made with ``option`` becomes ``--its-name``; a field that is itself such a dataclass contributes its own fields.
"""

import argparse
import dataclasses
import math
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from nst_train.errors import ConfigError

T = TypeVar("T")
Parser: TypeAlias = "argparse.ArgumentParser | argparse._ArgumentGroup"

LARGEST_SEED = 2**64 - 1  # that PyTorch takes
METAVARS = {int: "N", float: "X", str: "NAME", Path: "FILE"}


def option(
    text: str,
    default: Any = dataclasses.MISSING,
    *,
    metavar: str | None = None,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    **more: Any,
) -> Any:
    """A dataclass field with its help text, the range that its numbers must keep, and ``more`` to know of it."""
    metadata = {"help": text, "metavar": metavar, "at_least": at_least, "at_most": at_most, **more}
    return dataclasses.field(default=default, metadata=metadata)


def check_ranges(config: Any) -> None:
    """For ``__post_init__``: every number of ``config`` lies in its field's range and is not NaN.

    Raises:
        ConfigError: one does not; the option is named.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not isinstance(number, bool):
                _check_range(field, number)


def add_options(parser: Parser, config_class: type[Any]) -> None:
    """Adds an option for every field of ``config_class`` and of the dataclasses inside it."""
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        if dataclasses.is_dataclass(field.default):
            _add_inner(parser, field.default)
        else:
            required = field.default is dataclasses.MISSING
            add_option(parser, field, hints[field.name], default=field.default, required=required)


def from_namespace(config_class: type[T], arguments: argparse.Namespace) -> T:
    """The config that the parsed options describe; options that were not given take the field's default.

    Raises:
        ConfigError: a number out of its range.
    """
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config_class):  # type: ignore[arg-type]
        if dataclasses.is_dataclass(field.default) and not isinstance(field.default, type):
            values[field.name] = dataclasses.replace(field.default, **given_values(field.default, arguments))
    return config_class(**values, **given_values(config_class, arguments))


def flag(name: str) -> str:
    """``style_size`` -> ``--style-size``."""
    return "--" + name.replace("_", "-")


def _check_range(field: "dataclasses.Field[Any]", number: float) -> None:
    low, high = field.metadata.get("at_least", -math.inf), field.metadata.get("at_most", math.inf)
    if not (low <= number <= high and math.isfinite(number)):
        expected = f"at least {low:g}" if high == math.inf else f"{low:g} to {high:g}"
        raise ConfigError(flag(field.name), f"{number:g} given, expected {expected}", "See --help for its meaning")


def given_values(config: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """The values of ``config``'s own fields that were on the command line."""
    names = {field.name for field in dataclasses.fields(config)} & set(vars(arguments))
    values = {name: getattr(arguments, name) for name in names}
    return {name: _flatten(value) if isinstance(value, list) else value for name, value in values.items()}


def _add_inner(parser: Parser, default: Any) -> None:
    hints = typing.get_type_hints(type(default))
    for field in dataclasses.fields(default):
        add_option(parser, field, hints[field.name], default=getattr(default, field.name))


def add_option(
    parser: Parser,
    field: "dataclasses.Field[Any]",
    hint: Any,
    *,
    default: Any,
    text: str | None = None,
    required: bool = False,
) -> None:
    """Adds one option; where it was not given it stays absent, so that no default is written a second time.

    Args:
        hint: the field's type.
        default: shown in the help.
        text: help of a field that was not made with ``option``.
    """
    text = field.metadata["help"] if text is None else text
    shown = text if default is dataclasses.MISSING else f"{text} ({_shown(default)})"
    keywords: dict[str, Any] = {"help": shown.replace("%", "%%"), "default": argparse.SUPPRESS, "required": required}
    metavar = field.metadata.get("metavar")
    if typing.get_origin(hint) in (typing.Union, types.UnionType):  # X | None
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if hint is bool:
        keywords["action"] = argparse.BooleanOptionalAction
    elif typing.get_origin(hint) is typing.Literal:
        keywords["choices"] = typing.get_args(hint)
    elif typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        keywords |= {"nargs": "*", "type": _several(item), "metavar": metavar or METAVARS.get(item)}
    else:
        keywords |= {"type": hint, "metavar": metavar or METAVARS.get(hint)}
    parser.add_argument(flag(field.name), dest=field.name, **keywords)


def _several(item: Any) -> Callable[[str], tuple[Any, ...]]:
    """Values may stand apart or be joined by commas; a path may itself hold a comma."""
    kind = type(typing.get_args(item)[0]) if typing.get_origin(item) is typing.Literal else item

    def parse(text: str) -> tuple[Any, ...]:
        return (Path(text),) if kind is Path else tuple(kind(part) for part in text.split(",") if part)

    parse.__name__ = kind.__name__  # argparse's complaint names it
    return parse


def _flatten(given: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    return tuple(value for values in given for value in values)


def _shown(default: Any) -> str:
    if default is None or default == ():
        return "default: none"
    return f"default: {' '.join(map(str, default)) if isinstance(default, tuple) else default}"
