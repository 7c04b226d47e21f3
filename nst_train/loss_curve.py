"""The course of the losses: a thinned curve for the record, and the watch for divergence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from nst_train.objective import ObjectiveValue

ROWS = 200  # of the curve in the record
SMOOTHING = 0.98  # of the loss that is watched: about the last 50 steps
TERMS = len(ObjectiveValue._fields)
DIVERGED = 5.0  # times the least smoothed loss; a good training stays within a few tenths of it


@dataclass
class LossCurve:
    """All plain numbers, so that a training state can hold it.

    Attributes:
        rows: (step, content, style, total variation, grid, total), means over the steps since the row before.
        pending: the unfinished next row: how many steps it holds, and their sums.
        smoothed: running mean of the total loss; None before the first step.
        least: the least that ``smoothed`` has been.
    """

    rows: list[list[float]] = field(default_factory=list)
    pending: list[float] = field(default_factory=lambda: [0.0] * (1 + TERMS))
    smoothed: float | None = None
    least: float = math.inf

    def problem(self, total: float, grad_norm: float) -> str | None:
        """What is wrong with the loss and the gradient of a step; None when it may change the weights."""
        if not math.isfinite(total) or not math.isfinite(grad_norm):
            return f"the loss is {total:g} and the norm of its gradient {grad_norm:g}"
        smoothed = self._smooth(total)
        if smoothed > DIVERGED * self.least:
            return f"the loss rose to {smoothed:.3g} after it had been {self.least:.3g}"
        return None

    def add(self, step: int, steps: int, losses: Sequence[float]) -> None:
        """Takes in the (content, style, total variation, grid, total) of ``step``, the last of which is ``steps``."""
        self.smoothed = self._smooth(losses[-1])
        self.least = min(self.least, self.smoothed)
        self.pending = [a + b for a, b in zip(self.pending, (1.0, *losses), strict=True)]
        if step % math.ceil(steps / ROWS) == 0 or step == steps:
            count, *sums = self.pending
            self.rows.append([float(step), *(total / count for total in sums)])
            self.pending = [0.0] * (1 + TERMS)

    def _smooth(self, total: float) -> float:
        return total if self.smoothed is None else SMOOTHING * self.smoothed + (1 - SMOOTHING) * total
