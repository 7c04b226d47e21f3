"""TrainConfig: every option of a training and the one source of its default."""

# ruff: noqa: RUF009  (the functions called in the class body return dataclass fields)

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nst_train.errors import ConfigError
from nst_train.objective import ObjectiveConfig
from nst_train.options import LARGEST_SEED, check_ranges, option
from nst_train.transform_net import TransformNetConfig

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "bf16", "fp32"]

MIN_CROP = 32  # px; two halvings in the net and several in the VGG must leave something to look at


# What ``option`` makes, with the group that the help shows it in, and whether it must stay the same on ``--resume``.


def _where(text: str, default: Any = dataclasses.MISSING, *, shapes_weights: bool = True, **rest: Any) -> Any:
    return option(text, default, group="pictures and files", shapes_weights=shapes_weights, **rest)


def _schedule(text: str, default: Any, *, shapes_weights: bool = True, **rest: Any) -> Any:
    return option(text, default, group="schedule", shapes_weights=shapes_weights, **rest)


def _machine(text: str, default: Any, *, shapes_weights: bool = True, **rest: Any) -> Any:
    return option(text, default, group="machine", shapes_weights=shapes_weights, **rest)


def _watching(text: str, default: Any, **rest: Any) -> Any:
    return option(text, default, group="checkpoints and watching", shapes_weights=False, **rest)


@dataclass(frozen=True)
class TrainConfig:
    """Everything that shapes a training; the command line and recipes are made from these fields.

    Fields whose metadata says ``shapes_weights`` must stay the same when a training is resumed.
    ``net`` and ``objective`` bring their own fields and defaults.

    Raises:
        ConfigError: a value that cannot be meant; it names the option.
    """

    style: Path = _where("the painting", metavar="FILE", shapes_weights=False)  # its sha256 is compared instead
    content: tuple[Path, ...] = _where(
        "folders of photographs to train on, searched recursively", metavar="DIR", shapes_weights=False
    )
    out: Path = _where("the trained checkpoint", metavar="FILE.pth", shapes_weights=False)
    vgg_weights: Path | None = _where(
        "VGG state dict (.pth or .safetensors) instead of torchvision's download",
        None,
        metavar="FILE",
        shapes_weights=False,
    )
    exclude: tuple[str, ...] = _where(
        "photographs never trained on, by file name: they stay for evaluation", (), metavar="NAME", shapes_weights=False
    )
    style_size: tuple[int, ...] = _where(
        "long side of the painting, px; several sizes give strokes of several sizes", (512,), metavar="PX", at_least=32
    )

    steps: int = _schedule("optimiser steps", 40_000, at_least=1)
    batch: int = _schedule("crops per step, of all processes together", 4, at_least=1)
    crop: int = _schedule("side of the square crops, px", 256, metavar="PX", at_least=MIN_CROP)
    max_scale: float = _schedule(
        "a crop shows up to this many times more of the photograph along each side, shrunk", 1.5, at_least=1, at_most=8
    )
    flip: bool = _schedule("mirror half of the crops", True)
    lr: float = _schedule("learning rate of Adam after the warm-up", 1e-3, at_least=1e-9, at_most=1e38)
    final_lr: float = _schedule("learning rate at the last step, reached linearly", 5e-5, at_least=0)
    warmup: int = _schedule("steps in which the learning rate grows from 0", 100, metavar="STEPS", at_least=0)
    grad_clip: float = _schedule("largest norm of the gradient; 0 does not clip", 10.0, metavar="NORM", at_least=0)
    ema: float = _schedule(
        "decay of the running average of the weights that is shipped; 0 ships the last weights",
        0.999,
        metavar="DECAY",
        at_least=0,
        at_most=0.999999,
    )
    seed: int = _schedule("of the first weights and of every crop", 0, at_least=0, at_most=LARGEST_SEED)
    init: Path | None = _schedule(
        "start from another style's net instead of random weights: a fraction of the steps is enough",
        None,
        metavar="FILE.pth",
        shapes_weights=False,  # its sha256 is compared instead
    )

    device: Device = _machine("auto takes the GPU where there is one", "auto", shapes_weights=False)
    precision: Precision = _machine(
        "autocast to bfloat16 or plain float32; auto takes bf16 where the hardware has it", "auto"
    )
    channels_last: bool = _machine("memory layout of the convolutions", True)
    compile: bool = _machine("torch.compile the net and the losses: pays on a GPU from about ten thousand steps", False)
    workers: int = _machine(
        "threads that decode and crop ahead; 0 does it in between", 2, at_least=0, shapes_weights=False
    )
    cache_mib: int = _machine(
        "memory for decoded photographs, on the GPU when training there",
        4096,
        metavar="MIB",
        at_least=0,
        shapes_weights=False,
    )

    resume: bool = _watching("continue the unfinished training beside --out, exactly", False)
    checkpoint_every: int = _watching("steps between checkpoints", 500, metavar="STEPS", at_least=1)
    max_minutes: float | None = _watching(
        "stop with a checkpoint after this time; the schedule stays as it is", None, metavar="MIN", at_least=0
    )
    log_dir: Path = _watching("TensorBoard scalars and samples go to a folder in here", Path("runs"), metavar="DIR")
    sample: tuple[Path, ...] = _watching("pictures to stylise now and then", (), metavar="FILE")
    sample_every: int = _watching("steps between samples; 0 makes none", 500, metavar="STEPS", at_least=0)

    net: TransformNetConfig = field(default=TransformNetConfig(), metadata={"group": "net"})
    objective: ObjectiveConfig = field(default=ObjectiveConfig(), metadata={"group": "objective"})

    def __post_init__(self) -> None:
        self._take_texts_as_paths()
        check_ranges(self)
        if not self.content:
            raise ConfigError("--content", "no folder given", "Give --content a folder with photographs")
        if not self.style_size:
            raise ConfigError("--style-size", "no size given", "Give at least one, as --style-size 512")
        if self.final_lr > self.lr:
            raise ConfigError("--final-lr", f"{self.final_lr:g} is above --lr {self.lr:g}", "Let it decay")

    def _take_texts_as_paths(self) -> None:
        """From Python, ``style="painting.jpg"`` and ``content="photographs"`` are meant clearly enough."""
        for name in ("style", "out", "vgg_weights", "init", "log_dir"):
            if isinstance(value := getattr(self, name), str):
                object.__setattr__(self, name, Path(value))
        for name in ("content", "sample"):
            value = getattr(self, name)
            paths = (value,) if isinstance(value, str | Path) else value
            object.__setattr__(self, name, tuple(Path(path) for path in paths))

    @property
    def starts_from_out(self) -> bool:
        """The net to start from is at ``out``, where this training's own nets will replace it."""
        return self.init is not None and os.path.realpath(self.init) == os.path.realpath(self.out)

    @property
    def state_path(self) -> Path:
        """What ``--resume`` reads: beside ``out``, with everything that the next step depends on."""
        return self.out.with_name(f"{self.out.stem}.state.pth")


def as_plain(config: TrainConfig, *, folders: bool = True) -> dict[str, Any]:
    """The config as numbers, strings, lists and dicts: for checkpoints (``weights_only=True``) and recipes.

    Args:
        folders: keep the folders of paths; without them a file may be published and says nothing of its maker's disk.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, tuple | list):
            return [plain(item) for item in value]
        if isinstance(value, Path):
            return str(value) if folders else value.name
        return value

    converted: dict[str, Any] = plain(dataclasses.asdict(config))
    return converted


def differences(config: TrainConfig, earlier: dict[str, Any]) -> list[str]:
    """Where ``config`` departs from an earlier run's ``as_plain`` in what shapes the weights: "lr was 0.1, is 0.2"."""
    mine = as_plain(config)
    found = []
    for item in dataclasses.fields(config):
        if item.name in ("net", "objective"):
            pairs = {
                f"{item.name}.{name}": (earlier.get(item.name, {}).get(name), value)
                for name, value in mine[item.name].items()
            }
        elif item.metadata["shapes_weights"]:
            pairs = {item.name: (earlier.get(item.name), mine[item.name])}
        else:
            continue
        found += [f"{name} was {was}, is {now}" for name, (was, now) in pairs.items() if was != now]
    return found
