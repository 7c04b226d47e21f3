"""Recipes: a TrainConfig as a TOML file, so that one command repeats a training.

The keys are TrainConfig's fields; those of the net and of the objective stand in the tables ``[net]`` (where ``preset``
may give a starting point) and ``[objective]``. What is not there keeps its default. Relative paths start at the
recipe's folder.
"""

import dataclasses
import json
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nst_common.atomic_file import atomic_write
from nst_train.config import TrainConfig, as_plain
from nst_train.errors import RecipeError, RecipeTextError
from nst_train.objective import ObjectiveConfig
from nst_train.transform_net import PRESETS, TransformNetConfig

TABLES: dict[str, type] = {"net": TransformNetConfig, "objective": ObjectiveConfig}


def read_recipe(path: Path) -> dict[str, Any]:
    """The recipe's values by field name, checked and converted to the fields' types; tables become dicts.

    Raises:
        RecipeError: missing, not TOML, an unknown key, or a value of a wrong type (it is named).
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(path, "no such file") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(path, str(error)) from error
    recipe = _typed(path, "", TrainConfig, {key: value for key, value in values.items() if key not in TABLES})
    for table, owner in TABLES.items():
        if table in values:
            if not isinstance(values[table], dict):
                raise RecipeError(path, f"{table} is not a table; write [{table}]")
            recipe[table] = _table(path, table, owner, values[table])
    return recipe


def _table(path: Path, table: str, owner: type, values: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(values)
    start: dict[str, Any] = {}
    if table == "net" and "preset" in values:
        preset = values.pop("preset")
        if preset not in PRESETS:
            raise RecipeError(path, f"net.preset is {preset!r}, expected one of {', '.join(PRESETS)}")
        start = fields_of(PRESETS[preset])
    return start | _typed(path, f"{table}.", owner, values)


def fields_of(config: TransformNetConfig | ObjectiveConfig) -> dict[str, Any]:
    """Field name -> value, one level deep."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}


def _typed(path: Path, prefix: str, owner: type, values: Mapping[str, Any]) -> dict[str, Any]:
    hints = {name: hint for name, hint in typing.get_type_hints(owner).items() if name not in TABLES}
    typed = {}
    for name, value in values.items():
        if name not in hints:
            raise RecipeError(path, f"unknown key {prefix}{name}; known are {', '.join(hints)}")
        try:
            typed[name] = _convert(value, hints[name], path.parent)
        except TypeError as error:
            raise RecipeError(path, f"{prefix}{name} is {value!r}, expected {error}") from error
    return typed


def _convert(value: Any, hint: Any, folder: Path) -> Any:
    """A TOML value as ``hint`` wants it. Raises TypeError with what was expected."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        if not isinstance(value, list) or (inner[-1] is not ... and len(value) != len(inner)):
            raise TypeError("a list" if inner[-1] is ... else f"a list of {len(inner)}")
        return tuple(_convert(item, inner[0], folder) for item in value)
    if origin in (typing.Union, types.UnionType):
        return _convert(value, next(kind for kind in inner if kind is not type(None)), folder)
    if origin is typing.Literal:
        if value not in inner:
            raise TypeError(f"one of {', '.join(map(str, inner))}")
        return value
    if hint is Path and isinstance(value, str):
        return folder / Path(value).expanduser()
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise TypeError(_KINDS.get(hint, str(hint)))
    return value


_KINDS: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text in quotes",
    Path: "a path in quotes",
}


def write_recipe(path: Path, config: TrainConfig) -> None:
    """Writes every value of ``config``, paths as absolute ones; ``read_recipe`` gives the same back.

    Raises:
        CannotWriteError: an unwritable place or a full disk.
        RecipeTextError: a path is not text.
    """
    plain = as_plain(config)
    lines = [f"{name} = {_toml(value)}" for name, value in _values(config, plain)]
    for table in TABLES:
        lines += ["", f"[{table}]", *(f"{name} = {_toml(value)}" for name, value in plain[table].items())]
    with atomic_write(path) as partial:
        partial.write_bytes(b"".join(_encoded(path, line) for line in lines))


def _values(config: TrainConfig, plain: Mapping[str, Any]) -> typing.Iterator[tuple[str, Any]]:
    for name, value in plain.items():
        held = getattr(config, name)
        if name in TABLES or value is None:  # TOML has no null; a missing key keeps the default, which is None
            continue
        if isinstance(held, Path):
            yield name, str(held.absolute())
        elif isinstance(held, tuple) and held and isinstance(held[0], Path):
            yield name, [str(item.absolute()) for item in held]
        else:
            yield name, value


def _encoded(path: Path, line: str) -> bytes:
    try:
        return f"{line}\n".encode()
    except UnicodeEncodeError as error:
        raise RecipeTextError(path, line) from error


def _toml(value: Any) -> str:
    if isinstance(value, float):
        return repr(value)  # keeps every bit; TOML reads 1e-05 and inf alike
    return json.dumps(value, ensure_ascii=False)  # TOML's strings, numbers, booleans and arrays are JSON's
