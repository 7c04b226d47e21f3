"""How far an engine's pixels may be from PyTorch's, by what it computes in."""

from dataclasses import dataclass
from typing import Literal

from nst_deploy.contract import Parity, Precision


@dataclass(frozen=True)
class ParityLimit:
    """What a precision allows: levels of 0..255, and dB over every picture together (None: any)."""

    max_levels: int | None
    min_psnr_db: float | None = None

    def allows(self, parity: Parity, *, spare_levels: int = 0) -> bool:
        """
        Args:
            spare_levels: that the reference may itself be away from PyTorch.
        """
        too_noisy = parity.psnr_db is not None and parity.psnr_db < (self.min_psnr_db or 0.0)
        too_far = self.max_levels is not None and parity.max_levels > self.max_levels + spare_levels
        return not (too_far or too_noisy)

    def __str__(self) -> str:
        limits = []
        if self.max_levels is not None:
            limits.append(f"{self.max_levels} level{'s' if self.max_levels > 1 else ''}")
        if self.min_psnr_db is not None:
            limits.append(f"at least {self.min_psnr_db:g} dB")
        return " and ".join(limits)


LIMITS: dict[Precision | Literal["bf16"], ParityLimit] = {
    "fp32": ParityLimit(max_levels=1),
    "fp16": ParityLimit(max_levels=3, min_psnr_db=55.0),
    "bf16": ParityLimit(max_levels=None, min_psnr_db=50.0),
    "int8": ParityLimit(max_levels=None, min_psnr_db=34.0),
}
