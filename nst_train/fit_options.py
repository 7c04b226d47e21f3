"""TrainConfig <-> the options of ``nst-train fit``: made from the dataclass's fields, so that nothing is said twice."""

import argparse
import dataclasses
import typing
from pathlib import Path
from typing import Any

from nst_train.config import TrainConfig
from nst_train.errors import ConfigError
from nst_train.objective import ObjectiveConfig
from nst_train.options import add_option, add_options, flag, given_values
from nst_train.recipe import fields_of, read_recipe
from nst_train.transform_net import PRESETS, TransformNetConfig

NET_OPTIONS = {  # the rest of TransformNetConfig is for recipes
    "widths": "channels at full, half and quarter resolution",
    "blocks": "residual blocks",
    "padding": "how the convolutions see beyond the edge",
    "upsampling": "nearest x2 and a convolution, or a transposed convolution",
}

SAVE_RECIPE = "write all options of this training, once they are found good; with --resume one that is there stays"
OVERWRITE = (
    "train anew where --out or --save-recipe exists: replaces them, and an unfinished training beside --out with its "
    "first own checkpoint"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds every option of a training; one that was not given leaves no trace in the namespace."""
    recipe = parser.add_argument_group("recipe")
    recipe.add_argument("--recipe", type=Path, metavar="FILE.toml", help="options from a file; those given here win")
    recipe.add_argument("--save-recipe", type=Path, metavar="FILE.toml", help=SAVE_RECIPE)
    groups: dict[str, Any] = {}
    hints = typing.get_type_hints(TrainConfig)
    for field in dataclasses.fields(TrainConfig):
        if "help" in field.metadata:
            name = field.metadata["group"]
            groups.setdefault(name, parser.add_argument_group(name))
            add_option(groups[name], field, hints[field.name], default=field.default)  # a recipe may bring it
            if field.name == "resume":
                groups[name].add_argument("--overwrite", action="store_true", help=OVERWRITE)
    add_options(parser.add_argument_group("objective"), ObjectiveConfig)
    net = parser.add_argument_group("net")
    net.add_argument("--preset", choices=tuple(PRESETS), default=argparse.SUPPRESS, help="widths to start from")
    hints = typing.get_type_hints(TransformNetConfig)
    for field in dataclasses.fields(TransformNetConfig):
        if field.name in NET_OPTIONS:
            add_option(net, field, hints[field.name], default=field.default, text=NET_OPTIONS[field.name])


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
    net |= given_values(TransformNetConfig, arguments)
    objective |= given_values(ObjectiveConfig, arguments)
    values |= given_values(TrainConfig, arguments)
    options = [field for field in dataclasses.fields(TrainConfig) if "help" in field.metadata]
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
