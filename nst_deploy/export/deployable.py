"""The self-contained graph that embedders get: uint8 pictures in, uint8 pictures out."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nst_deploy.contract import SIZE_MULTIPLE


class DeployableNet(nn.Module):
    """uint8 ``[N, H, W, 3]``, RGB -> uint8, the same shape, for any H, W from 8 px.

    Pads right and bottom by reflection to a multiple of 4, runs the net, crops, clamps to 0..255, rounds half to even.

    Args:
        net: float ``[N, 3, H, W]``, 0..255 -> the same, for H and W that are multiples of 4. One that says that it is
            ``rounded`` clamps and rounds by itself.
        dtype: what the net reads.
    """

    def __init__(self, net: nn.Module, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.net, self.dtype = net, dtype

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[1], image.shape[2]
        x: Tensor = image.to(self.dtype).permute(0, 3, 1, 2)  # [N, 3, H, W]
        right, bottom = -width % SIZE_MULTIPLE, -height % SIZE_MULTIPLE
        if _is_static_multiple(height) and _is_static_multiple(width):
            x = self.net(x)
        else:
            x = self.net(F.pad(x, (0, right, 0, bottom), mode="reflect"))[..., :height, :width]
        levels = x if getattr(self.net, "rounded", False) else round_levels(x)
        return levels.permute(0, 2, 3, 1).to(torch.uint8)


def round_levels(x: Tensor) -> Tensor:
    """Clamped to 0..255 and rounded half to even; float, any shape."""
    return x.clamp(0.0, 255.0).round()


def _is_static_multiple(size: int | torch.SymInt) -> bool:
    # While a dynamic size is exported it is a symbol, and asking it for its value would fix it.
    return isinstance(size, int) and size % SIZE_MULTIPLE == 0
