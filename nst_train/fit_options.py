"""TrainConfig <-> the options of ``nst-train fit``: made from the dataclass's fields, so that nothing is said twice."""

import argparse
import dataclasses
import types
import typing
from pathlib import Path
from typing import Any

from nst_train.config import TrainConfig
from nst_train.errors import ConfigError
from nst_train.objective import ObjectiveConfig
from nst_train.options import flag, flatten, several
from nst_train.recipe import fields_of, read_recipe
from nst_train.transform_net import PRESETS, TransformNetConfig

NET_OPTIONS = {  # the rest of TransformNetConfig is for recipes
    "widths": "channels at full, half and quarter resolution",
    "blocks": "residual blocks",
    "padding": "how the convolutions see beyond the edge",
    "upsampling": "nearest x2 and a convolution, or a transposed convolution",
}
OBJECTIVE_OPTIONS = {
    "architecture": "loss network",
    "content_layers": "whose activations keep the photograph",
    "style_layers": "whose Gram matrices carry the painting",
    "content_weight": "how much of the photograph",
    "style_weight": "how much of the painting",
    "total_variation_weight": "smoothness",
    "pooling": "of the loss network",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds every option of a training; one that was not given leaves no trace in the namespace."""
    recipe = parser.add_argument_group("recipe")
    recipe.add_argument("--recipe", type=Path, metavar="FILE.toml", help="options from a file; those given here win")
    recipe.add_argument("--save-recipe", type=Path, metavar="FILE.toml", help="write all options of this training")
    groups: dict[str, Any] = {}
    hints = typing.get_type_hints(TrainConfig)
    for field in dataclasses.fields(TrainConfig):
        if "help" in field.metadata:
            name = field.metadata["group"]
            groups.setdefault(name, parser.add_argument_group(name))
            _add(groups[name], field, hints[field.name], field.metadata["help"], field.metadata["metavar"])
    objective = parser.add_argument_group("objective")
    _add_all(objective, ObjectiveConfig, OBJECTIVE_OPTIONS)
    net = parser.add_argument_group("net")
    net.add_argument("--preset", choices=tuple(PRESETS), default=argparse.SUPPRESS, help="widths to start from")
    _add_all(net, TransformNetConfig, NET_OPTIONS)


def _add_all(group: Any, owner: Any, texts: dict[str, str]) -> None:
    hints = typing.get_type_hints(owner)
    fields = {field.name: field for field in dataclasses.fields(owner)}
    for name, text in texts.items():
        _add(group, fields[name], hints[name], text, None)


def _add(group: Any, field: "dataclasses.Field[Any]", hint: Any, text: str, metavar: str | None) -> None:
    if field.default not in (dataclasses.MISSING, None, ()):
        shown = " ".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
        text += f" (default: {shown})"
    options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text.replace("%", "%%")}
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
    if hint is bool:
        group.add_argument(flag(field.name), action=argparse.BooleanOptionalAction, **options)
        return
    if typing.get_origin(hint) is tuple:
        options |= {"nargs": "+", "type": several(typing.get_args(hint)[0])}
        options["metavar"] = metavar or ("N" if options["type"].__name__ == "int" else "NAME")
    elif typing.get_origin(hint) is typing.Literal:
        options["choices"] = typing.get_args(hint)
    else:
        options |= {"type": hint, "metavar": metavar or ("N" if hint is int else "X" if hint is float else "NAME")}
    group.add_argument(flag(field.name), **options)


def config_from(arguments: argparse.Namespace) -> TrainConfig:
    """Defaults, then the recipe, then what was given on the command line.

    Raises:
        ConfigError: a required option is missing, or a value cannot be meant.
        RecipeError: the recipe cannot be used.
    """
    given = dict(vars(arguments))
    values = read_recipe(given["recipe"]) if given.get("recipe") else {}
    net, objective = values.pop("net", {}), values.pop("objective", {})
    if "preset" in given:
        net |= {"widths": PRESETS[given["preset"]].widths, "blocks": PRESETS[given["preset"]].blocks}
    net |= {name: _plain(given[name]) for name in NET_OPTIONS if name in given}
    objective |= {name: _plain(given[name]) for name in OBJECTIVE_OPTIONS if name in given}
    options = [field for field in dataclasses.fields(TrainConfig) if "help" in field.metadata]
    values |= {option.name: _plain(given[option.name]) for option in options if option.name in given}
    for option in options:
        if option.default is dataclasses.MISSING and option.name not in values:
            raise ConfigError(flag(option.name), "missing", f"Give {flag(option.name)}, or a recipe that has it")
    try:
        net_config = TransformNetConfig(**(fields_of(TransformNetConfig()) | net))
    except ValueError as error:
        raise ConfigError("net", str(error)) from error
    return TrainConfig(
        **values,
        net=net_config,
        objective=ObjectiveConfig(**(fields_of(ObjectiveConfig()) | objective)),
    )


def _plain(value: Any) -> Any:
    return flatten(value) if isinstance(value, list) else value
