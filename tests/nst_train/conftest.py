"""Weights of a loss network for the tests of nst_train: random ones, and real ones where they are at hand."""

from pathlib import Path

import pytest
import torch

from tests.nst_train.random_vgg import state_dict, torchvision_features
from tests.nst_train.tiny_training import write_pictures


@pytest.fixture(scope="session")
def real_vgg(shared_data: Path) -> Path:
    """ImageNet's VGG-19 up to relu3_4."""
    return shared_data / "vgg19_features_relu3_4.safetensors"


@pytest.fixture(scope="session")
def small_vgg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random VGG-19 weights that ends with relu2_2."""
    path = tmp_path_factory.mktemp("vgg") / "vgg19_two_blocks.pth"
    torch.save(state_dict(torchvision_features("vgg19", 2)), path)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with a painting and photographs (see tiny_training)."""
    return write_pictures(tmp_path)
