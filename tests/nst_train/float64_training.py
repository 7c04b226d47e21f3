"""A tiny training in float64, for torchrun: ``float64_training.py FOLDER VGG OUT``."""

import dataclasses
import sys
from pathlib import Path

from nst_train.distributed import join_processes
from nst_train.trainer import Trainer
from tests.nst_train.tiny_training import in_float64, tiny_config


def main(folder: str, vgg: str, out: str) -> None:
    config = dataclasses.replace(tiny_config(Path(folder), Path(vgg), batch=4, steps=20, ema=0.9), out=Path(out))
    with join_processes("cpu") as process:
        for _report in in_float64(Trainer(config, process)).steps():
            pass


if __name__ == "__main__":
    main(*sys.argv[1:])
