"""A small checkpoint and what is exported from it, made once."""

from pathlib import Path

import pytest
import torch
from torch import nn

from nst_deploy.export.trt_library import find_gpu
from nst_train.checkpoints import Checkpoint, save_checkpoint
from nst_train.transform_net import TransformNet, TransformNetConfig

SMALL = TransformNetConfig(widths=(8, 8, 12), blocks=1)


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .pth of a small random net that uses the whole range of levels."""
    torch.manual_seed(5)
    net = TransformNet(SMALL)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    path = tmp_path_factory.mktemp("checkpoint") / "small.pth"
    save_checkpoint(path, Checkpoint(SMALL, net.state_dict(), "small"))
    return path


@pytest.fixture
def no_gpu() -> None:
    """For what happens only on a machine without a GPU."""
    if find_gpu() is not None:
        pytest.skip("there is a GPU here")
