"""The recipes of the bundled styles and the program that trains them."""

import argparse
from pathlib import Path
from types import ModuleType

import pytest

from nst_train.config import TrainConfig
from nst_train.fit_options import add_arguments, config_from
from nst_train.transform_net import PRESETS
from tests.scripts import load_script

ENGINES = Path(__file__).parents[1] / "engines"
NAMES = sorted(recipe.stem for recipe in ENGINES.glob("*.toml"))


@pytest.fixture(scope="module")
def train() -> ModuleType:
    return load_script(ENGINES / "train.py")


def config_of(train: ModuleType, name: str) -> TrainConfig:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = train.fit_options(name, Path("photographs"), Path("paintings"), Path("trained"))
    return config_from(parser.parse_args(options[1:]))


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_a_training(train: ModuleType, name: str) -> None:
    config = config_of(train, name)
    half = name.endswith("_half")
    assert config.net == PRESETS["half" if half else "base"]
    assert config.style == Path("paintings") / f"{name.removesuffix('_half')}.jpg"
    assert config.out == Path("trained") / f"{name}.pth"
    assert len(set(config.exclude)) == 12


def test_half_nets_are_trained_like_the_others(train: ModuleType) -> None:
    for name in NAMES:
        if name.endswith("_half"):
            half, base = config_of(train, name), config_of(train, name.removesuffix("_half"))
            assert (half.objective, half.style_size, half.exclude) == (base.objective, base.style_size, base.exclude)


def test_an_unknown_style_is_named(train: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        train.main(["monalisa", "--content", "a", "--paintings", "b", "--out", "c"])
    assert caught.value.code == 2
    assert "monalisa" in capsys.readouterr().err
