"""The uint8 graph round a net."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from nst_deploy.export.deployable import DeployableNet


class Levels(nn.Module):
    """Adds a constant, and insists on the sizes that it was promised."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.offset = offset

    def forward(self, image: Tensor) -> Tensor:
        assert image.dtype == torch.float32
        assert image.shape[-2] % 4 == 0
        assert image.shape[-1] % 4 == 0
        self.seen = image
        return image + self.offset


def test_every_size_comes_back_with_its_own_pixels() -> None:
    for height, width in itertools.product((8, 9, 10, 11, 16), (8, 13, 15, 18)):
        image = torch.randint(0, 256, (2, height, width, 3), dtype=torch.uint8)
        assert torch.equal(DeployableNet(Levels(0.0))(image), image)


def test_right_and_bottom_are_reflected() -> None:
    net = Levels(0.0)
    image = torch.randint(0, 256, (1, 9, 11, 3), dtype=torch.uint8)
    DeployableNet(net)(image)
    seen = net.seen[0].permute(1, 2, 0).to(torch.uint8)  # [12, 12, 3]
    assert torch.equal(seen[9:, :11], image[0, [7, 6, 5]])
    assert torch.equal(seen[:9, 11:], image[0, :, [9]])


def test_a_net_that_rounds_is_not_rounded_again_and_may_read_half_precision() -> None:
    class Rounded(nn.Module):
        rounded = True

        def forward(self, image: Tensor) -> Tensor:
            assert image.dtype == torch.float16
            return image.float() + 0.9  # were it rounded, 10.9 would be 11

    image = torch.full((1, 8, 8, 3), 10, dtype=torch.uint8)
    assert DeployableNet(Rounded(), torch.float16)(image).unique().tolist() == [10]


@pytest.mark.parametrize(
    ("offset", "level", "expected"),
    [(0.5, 10, 10), (0.5, 11, 12), (0.49, 10, 10), (0.51, 10, 11), (9.0, 250, 255), (-9.0, 5, 0), (-0.5, 1, 0)],
)
def test_levels_are_clamped_and_rounded_half_to_even(offset: float, level: int, expected: int) -> None:
    image = torch.full((1, 8, 8, 3), level, dtype=torch.uint8)
    styled = DeployableNet(Levels(offset))(image)
    assert styled.dtype == torch.uint8
    assert styled.unique().tolist() == [expected]
