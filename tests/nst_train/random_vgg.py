"""torchvision's own VGG with random weights: an independent truth for the loss network."""

import torch
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

CONFIGURATION = {"vgg16": "D", "vgg19": "E"}  # torchvision's letters


def torchvision_features(architecture: str, blocks: int) -> nn.Sequential:
    """torchvision's ``features`` up to the end of ``blocks``, with random weights that keep the signal's size."""
    configuration = cfgs[CONFIGURATION[architecture]]
    ends = [index for index, item in enumerate(configuration) if item == "M"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        features: nn.Sequential = make_layers(configuration[: ends[blocks - 1] + 1])
        for module in features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.normal_(module.bias, std=0.1)
    return features.eval()


def state_dict(features: nn.Sequential) -> dict[str, Tensor]:
    """Under the names that torchvision's whole models have."""
    return {f"features.{name}": value for name, value in features.state_dict().items()}
