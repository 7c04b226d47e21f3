"""A training that takes a second: small pictures, a small net, two blocks of a random VGG."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nst_train.checkpoints import load_checkpoint
from nst_train.config import TrainConfig
from nst_train.objective import ObjectiveConfig
from nst_train.trainer import Trainer, fit
from nst_train.transform_net import TransformNetConfig

NET = TransformNetConfig(widths=(4, 6, 8), blocks=1)
OBJECTIVE = ObjectiveConfig(content_layers=("relu2_1",), style_layers=("relu1_1", "relu2_1"))
FLAGS = (
    *(
        "--widths",
        "4",
        "6",
        "8",
        "--blocks",
        "1",
        "--content-layers",
        "relu2_1",
        "--style-layers",
        "relu1_1",
        "relu2_1",
    ),
    *("--style-size", "40", "--batch", "2", "--crop", "32", "--warmup", "2"),
)


def write_pictures(folder: Path) -> Path:
    """``folder/style.png`` and seven photographs in ``folder/content``, one of them in a sub-folder."""
    generator = np.random.default_rng(0)
    (folder / "content" / "inner").mkdir(parents=True)
    sizes = ((40, 50), (64, 36), (20, 90), (33, 33), (48, 48), (100, 70), (32, 32))
    for number, (height, width) in enumerate(sizes):
        smooth = Image.fromarray(generator.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        place = folder / "content" / ("inner" if number == 3 else "") / f"photo_{number}.png"
        smooth.resize((width, height), Image.Resampling.BICUBIC).save(place)
    Image.fromarray(generator.integers(0, 256, (45, 60, 3), dtype=np.uint8)).save(folder / "style.png")
    return folder


def tiny_config(folder: Path, vgg: Path, **changes: Any) -> TrainConfig:
    """On the pictures of ``write_pictures``, without a log."""
    values: dict[str, Any] = {
        "style": folder / "style.png",
        "content": (folder / "content",),
        "out": folder / "tiny.pth",
        "vgg_weights": vgg,
        "style_size": (40,),
        "steps": 8,
        "batch": 2,
        "crop": 32,
        "warmup": 2,
        "device": "cpu",
        "precision": "fp32",
        "workers": 0,
        "checkpoint_every": 1000,
        "sample_every": 0,
        "net": NET,
        "objective": OBJECTIVE,
    }
    return TrainConfig(**values | changes)


def run_fit(config: TrainConfig) -> None:
    """For a process of its own; one thread, since several that wait for each other on a busy machine take minutes."""
    torch.set_num_threads(1)
    fit(config)


def weights(path: Path) -> dict[str, Tensor]:
    """Of a trained net."""
    return load_checkpoint(path).state


def identical(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """The same tensors, bit by bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def in_float64(trainer: Trainer) -> Trainer:
    """The same training in float64.

    Rounding moves fp32 trainings apart within a few steps: Adam's first steps have the length of the learning rate
    however small a gradient is, and ReLU and pooling switch. Only so can two programs be compared closely.
    """
    for module in (trainer._learner.net, trainer._learner.average, trainer._learner.objective):
        module.double()
    net: nn.Module = trainer._learner.net
    if trainer.process.world > 1:
        net = DistributedDataParallel(net)
    trainer._learner.wrapped = lambda content: net(content.double())  # type: ignore[assignment]
    return trainer
