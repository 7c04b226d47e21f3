"""TrainConfig, its recipes and its command line."""

import argparse
import dataclasses
import json
import math
import tomllib
from pathlib import Path
from typing import Any

import pytest

from nst_train.config import TrainConfig, as_plain, differences
from nst_train.errors import ConfigError, RecipeError
from nst_train.fit_options import add_arguments, config_from
from nst_train.objective import ObjectiveConfig
from nst_train.recipe import read_recipe, write_recipe
from nst_train.schedule import average_decay, learning_rate
from nst_train.transform_net import PRESETS, TransformNetConfig

CONFIG = TrainConfig(style=Path("s.jpg"), content=(Path("photos"),), out=Path("o.pth"))
REQUIRED = ["--style", "s.jpg", "--content", "photos", "--out", "o.pth"]


def parse(*argv: str) -> TrainConfig:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return config_from(parser.parse_args(argv))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "--steps: 0 given, expected at least 1"),
        ({"batch": -2}, "--batch: -2 given"),
        ({"crop": 8}, "--crop: 8 given, expected at least 32"),
        ({"style_size": (512, 3)}, "--style-size: 3 given"),
        ({"style_size": ()}, "--style-size: no size"),
        ({"lr": math.nan}, "--lr: nan given"),
        ({"lr": math.inf}, "--lr: inf given"),
        ({"lr": 1.1e38}, "--lr: 1.1e+38 given, expected 1e-09 to 1e+38"),
        ({"seed": -1}, "--seed: -1 given"),
        ({"seed": 2**64}, "--seed: 1.84467e+19 given, expected 0 to 1.84467e+19"),
        ({"final_lr": 1.0}, "--final-lr: 1 is above --lr 0.001"),
        ({"ema": 1.0}, "--ema: 1 given"),
        ({"max_scale": 0.5}, "--max-scale: 0.5 given, expected 1 to 8"),
        ({"content": ()}, "--content: no folder"),
    ],
)
def test_values_that_cannot_be_meant_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        dataclasses.replace(CONFIG, **changes)
    assert str(caught.value).startswith(message)


def test_python_may_give_paths_as_texts() -> None:
    assert TrainConfig(style="s.jpg", content="photos", out="o.pth") == CONFIG  # type: ignore[arg-type]


# --- the command line ------------------------------------------------------------------------------------------------


def test_the_command_line_without_options_is_the_defaults() -> None:
    assert parse(*REQUIRED) == CONFIG


def test_every_field_can_be_given() -> None:
    given = parse(
        *("--style", "a", "--content", "b", "c", "--out", "d", "--vgg-weights", "e", "--exclude", "f", "g"),
        *("--style-size", "300,400", "--steps", "5", "--batch", "6", "--crop", "70", "--max-scale", "2", "--no-flip"),
        *("--lr", "1", "--final-lr", "0.5", "--warmup", "8", "--grad-clip", "9", "--ema", "0.5", "--seed", "3"),
        *("--init", "i", "--device", "cpu", "--precision", "fp32", "--no-channels-last", "--compile", "--workers", "1"),
        *("--cache-mib", "5", "--resume", "--checkpoint-every", "2", "--max-minutes", "1.5", "--log-dir", "l"),
        *("--sample", "m", "--sample-every", "4", "--widths", "1", "2", "3", "--content-layers", "relu1_1"),
    )
    unchanged = [
        field.name
        for field in dataclasses.fields(TrainConfig)
        if getattr(given, field.name) == getattr(CONFIG, field.name)
    ]
    assert unchanged == []
    assert given.style_size == (300, 400)
    assert given.content == (Path("b"), Path("c"))
    assert given.net == TransformNetConfig(widths=(1, 2, 3))
    assert given.objective == ObjectiveConfig(content_layers=("relu1_1",))


@pytest.mark.parametrize("missing", ["--style", "--content", "--out"])
def test_a_missing_option_is_named(missing: str) -> None:
    at = REQUIRED.index(missing)
    with pytest.raises(ConfigError, match=f"{missing}: missing"):
        parse(*REQUIRED[:at], *REQUIRED[at + 2 :])


def test_flags_win_over_the_preset_and_the_preset_over_the_defaults() -> None:
    assert parse(*REQUIRED, "--preset", "half").net == PRESETS["half"]
    assert parse(*REQUIRED, "--preset", "half", "--blocks", "2").net == TransformNetConfig(
        widths=(16, 32, 64), blocks=2
    )


# --- recipes ---------------------------------------------------------------------------------------------------------


def recipe(folder: Path, text: str) -> Path:
    (folder / "r.toml").write_text(text, encoding="utf-8")
    return folder / "r.toml"


def test_a_written_recipe_reads_back_the_same(tmp_path: Path) -> None:
    config = dataclasses.replace(
        CONFIG,
        style=tmp_path / 'the "new" ünïcode.jpg',
        content=(tmp_path / "a", tmp_path / "b"),
        out=tmp_path / "o.pth",
        log_dir=tmp_path / "logs",
        exclude=("x.jpg",),
        lr=1.0 / 3000,
        max_minutes=2.5,
        flip=False,
        net=TransformNetConfig(widths=(16, 32, 64), padding="zero"),
        objective=ObjectiveConfig(style_weight=5.25, total_variation_weight=1e-6),
    )
    write_recipe(tmp_path / "r.toml", config)
    tomllib.loads((tmp_path / "r.toml").read_text(encoding="utf-8"))
    assert parse("--recipe", str(tmp_path / "r.toml")) == config


def test_a_recipe_starts_at_its_own_folder_and_flags_win(tmp_path: Path) -> None:
    text = """
        style = "paintings/muse.jpg"
        content = ["photos", "/elsewhere"]
        out = "muse.pth"
        lr = 1
        final_lr = 0.25
        steps = 7
        [net]
        preset = "half"
        blocks = 3
        [objective]
        style_weight = 9
        """
    config = parse(
        "--recipe", str(recipe(tmp_path, text)), "--steps", "8", "--out", "here.pth", "--content-weight", "2"
    )
    assert config.style == tmp_path / "paintings" / "muse.jpg"
    assert config.content == (tmp_path / "photos", Path("/elsewhere"))
    assert (config.lr, config.steps, config.out) == (1.0, 8, Path("here.pth"))
    assert config.net == TransformNetConfig(widths=(16, 32, 64), blocks=3)
    assert config.objective == ObjectiveConfig(style_weight=9.0, content_weight=2.0)
    assert config.batch == CONFIG.batch


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz = 3", "unknown key stepz"),
        ("[net]\nwidth = 3", "unknown key net.width"),
        ("[objective]\npool = 'max'", "unknown key objective.pool"),
        ("steps = 'many'", "steps is 'many', expected a whole number"),
        ("steps = 2.5", "steps is 2.5, expected a whole number"),
        ("flip = 1", "flip is 1, expected true or false"),
        ("lr = true", "lr is True, expected a number"),
        ("style = 3", "style is 3, expected a path in quotes"),
        ("content = 'photos'", "content is 'photos', expected a list"),
        ("precision = 'fp8'", "precision is 'fp8', expected one of auto, bf16, fp32"),
        ("net = 3", "net is not a table"),
        ("[net]\npreset = 'huge'", "net.preset is 'huge', expected one of base, half"),
        ("[net]\nwidths = [1, 2]", "net.widths is [1, 2], expected a list of 3"),
        ("steps =", "Cannot use the recipe"),
    ],
)
def test_a_recipe_that_cannot_be_used_is_explained(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe(recipe(tmp_path, text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such file"):
        read_recipe(tmp_path / "r.toml")


# --- what resuming compares ------------------------------------------------------------------------------------------


def test_differences_are_those_that_change_the_weights() -> None:
    earlier = json.loads(json.dumps(as_plain(CONFIG)))
    assert differences(CONFIG, earlier) == []
    harmless = dataclasses.replace(
        CONFIG, max_minutes=3.0, workers=7, log_dir=Path("x"), out=Path("y.pth"), device="cpu", resume=True
    )
    assert differences(harmless, earlier) == []
    other = dataclasses.replace(CONFIG, lr=0.002, style_size=(256, 512), objective=ObjectiveConfig(style_weight=5.0))
    assert differences(other, earlier) == [
        "style_size was [512], is [256, 512]",
        "lr was 0.001, is 0.002",
        "objective.style_weight was 4.0, is 5.0",
    ]


# --- the schedule ----------------------------------------------------------------------------------------------------


def test_the_learning_rate_warms_up_and_decays() -> None:
    config = dataclasses.replace(CONFIG, steps=1001, warmup=100, lr=1e-3, final_lr=1e-4)
    rates = [learning_rate(config, step) for step in range(1001)]
    assert rates[0] == pytest.approx(1e-5)
    assert rates[99] == pytest.approx(1e-3)
    assert rates[100] == pytest.approx(1e-3)
    assert rates[550] == pytest.approx((1e-3 + 1e-4) / 2)  # half of the way from step 100 to step 1000
    assert rates[1000] == pytest.approx(1e-4)
    assert max(rates) == pytest.approx(1e-3)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 100), (5, 100), (101, 100)])
def test_short_trainings_have_a_learning_rate_too(steps: int, warmup: int) -> None:
    config = dataclasses.replace(CONFIG, steps=steps, warmup=warmup)
    assert all(0 < learning_rate(config, step) <= config.lr for step in range(steps))


def test_the_average_forgets_the_first_weights() -> None:
    config = dataclasses.replace(CONFIG, ema=0.99)
    share_of_first = math.prod(average_decay(config, step) for step in range(100))
    assert share_of_first < 1e-6  # 0.99**100 would leave 0.37
    assert average_decay(config, 10_000) == 0.99
    assert average_decay(dataclasses.replace(CONFIG, ema=0.0), 5) == 0.0
