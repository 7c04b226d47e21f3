"""Optimises the pixels of one picture against an objective: the slow method that a feed-forward net replaces.

Gatys, Ecker & Bethge 2016 use L-BFGS; Johnson et al. 2016 project its iterates onto 0..255, and so do we: after every
iteration the pixels are clamped, and what is evaluated and reported is always such a valid picture.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from nst_train.errors import DescentDivergedError, DescentOutOfMemoryError
from nst_train.objective import ObjectiveValue
from nst_train.options import check_ranges, option

Optimizer = Literal["lbfgs", "adam"]

MAX_LINE_SEARCH = 25  # evaluations in one L-BFGS iteration, PyTorch's own bound


@dataclass(frozen=True)
class DescentConfig:
    """How the pixels are optimised.

    One iteration of L-BFGS is one search direction with its line search, mostly a single evaluation of the objective
    and its gradient; one of Adam is always one evaluation.

    Raises:
        ConfigError: a number out of its range.
    """

    optimizer: Optimizer = option("lbfgs, with a strong Wolfe line search, or adam", "lbfgs")
    iterations: int = option("iterations of the optimizer", 500, metavar="N", at_least=0)
    history: int = option("steps that L-BFGS estimates the curvature from", 20, metavar="N", at_least=1)
    adam_lr: float = option("learning rate of Adam, levels of 0..255", 4.0, metavar="LEVELS", at_least=1e-6)

    def __post_init__(self) -> None:
        check_ranges(self)


class StepReport(NamedTuple):
    """The picture after some iterations, and its objective.

    Attributes:
        iteration: 0 for the start.
        evaluations: of the objective with its gradient so far.
        content, style, total_variation, grid, total: as in ObjectiveValue, of exactly this picture.
        image: float32 ``[1, 3, H, W]``, RGB, 0..255; a copy of its own.
    """

    iteration: int
    evaluations: int
    content: float
    style: float
    total_variation: float
    grid: float
    total: float
    image: Tensor


def descend(
    start: Tensor, objective: Callable[[Tensor], ObjectiveValue], config: DescentConfig
) -> Iterator[StepReport]:
    """Yields the start and then the picture after each iteration; the caller may stop at any time.

    Args:
        start: float ``[1, 3, H, W]``, RGB; clamped to 0..255.
        objective: picture like ``start`` -> what to minimise (``total``), differentiable.
        config: the optimizer.

    Raises:
        DescentDivergedError: the objective is not finite.
    """
    evaluator = _Evaluator(start, objective)
    optimizer = _optimizer(evaluator.pixels, config)
    yield evaluator.report(0)
    for iteration in range(1, config.iterations + 1):
        before = evaluator.pixels.detach().clone()
        optimizer.step(evaluator.closure)
        clamped = evaluator.project()
        if isinstance(optimizer, torch.optim.LBFGS):
            _correct(optimizer, evaluator.pixels, before, clamped=clamped)
        yield evaluator.report(iteration)


def white_noise(shape: Sequence[int], seed: int) -> Tensor:
    """A picture of independent levels, uniform over 0..255: float32 of ``shape``, on the CPU, the same for one seed."""
    return torch.rand(tuple(shape), generator=torch.Generator().manual_seed(seed)) * 255.0


@contextmanager
def explain_out_of_memory(picture: Tensor) -> Iterator[None]:
    """Turns PyTorch's ways of running out of memory into one error.

    Args:
        picture: ``[..., H, W]``, whose size the error names.

    Raises:
        DescentOutOfMemoryError: the block ran out of memory.
    """
    try:
        yield
    except RuntimeError as error:  # the CPU's allocator has no class of its own
        if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
            raise DescentOutOfMemoryError(picture.shape[-2], picture.shape[-1]) from error
        raise


class _Evaluator:
    """The pixels, and the objective of the picture that they stand for, with its gradient.

    That picture is the pixels clamped to 0..255, but those that were at their limit and would only have been pushed
    beyond it when the iteration began stay there until it ends: so the optimizer's function is as smooth along its
    search direction as the objective is (a two-metric projection; Bertsekas 1982).

    The optimizer sees the objective times a constant that makes the first gradient 1 per level on average: a normalised
    objective has gradients of about 1e-6 per level, which optimizers would take for noise or for convergence.
    """

    _picture: Tensor  # evaluated last
    _gradient: Tensor
    _value: ObjectiveValue
    _held: Tensor  # bool, like the picture
    _base: Tensor  # where the held ones stay

    def __init__(self, start: Tensor, objective: Callable[[Tensor], ObjectiveValue]) -> None:
        picture = start.detach().float().contiguous().clamp(0.0, 255.0)
        self.pixels = picture.clone().requires_grad_()
        self._objective = objective
        self._evaluations = 0
        self._evaluate(picture)
        mean_gradient = float(self._gradient.abs().mean())
        self._scale = 1.0 / mean_gradient if 0 < mean_gradient < math.inf else 1.0
        self._hold()

    def closure(self) -> float:
        """For the optimizer: the scaled total; leaves its gradient in ``pixels.grad``."""
        pixels = self.pixels.detach()
        self._evaluate(self._stood_for())
        still = self._held | (pixels < 0.0) | (pixels > 255.0)
        self.pixels.grad = self._gradient.masked_fill(still, 0.0).mul_(self._scale)
        return float(self._value.total) * self._scale

    def project(self) -> bool:
        """Ends an iteration: the pixels become the picture that they stand for; whether any of them had to change."""
        picture = self._stood_for()
        changed = not torch.equal(picture, self.pixels.detach())
        with torch.no_grad():
            self.pixels.copy_(picture)
        self._evaluate(picture)
        self._hold()
        return changed

    def _stood_for(self) -> Tensor:
        pixels = self.pixels.detach()
        return torch.where(self._held, self._base, pixels.clamp(0.0, 255.0))

    def _hold(self) -> None:
        """From here on, the pixels at a limit that the gradient would push beyond it stay as they are now."""
        self._base = self._picture
        self._held = ((self._base <= 0.0) & (self._gradient > 0)) | ((self._base >= 255.0) & (self._gradient < 0))

    def report(self, iteration: int) -> StepReport:
        content, style, variation, grid, total = (float(term) for term in self._value)
        if not all(map(torch.isfinite, self._value)):
            raise DescentDivergedError(iteration, total)
        image = self.pixels.detach().clone()
        return StepReport(iteration, self._evaluations, content, style, variation, grid, total, image)

    def _evaluate(self, picture: Tensor) -> None:
        if self._evaluations and torch.equal(picture, self._picture):
            return  # a line search ends, and the next begins, where it has just been
        with torch.enable_grad():
            variable = picture.clone().requires_grad_()
            value = self._objective(variable)
            (gradient,) = torch.autograd.grad(value.total, variable)
        self._evaluations += 1
        self._picture, self._gradient = picture, gradient.contiguous()
        self._value = ObjectiveValue(*(term.detach() for term in value))


def _correct(optimizer: torch.optim.LBFGS, pixels: Tensor, before: Tensor, *, clamped: bool) -> None:
    """Tells L-BFGS what the projection made of its step: the curvature belongs to the way that was really gone."""
    optimizer.param_groups[0]["lr"] = 1.0  # after the first step; quasi-Newton steps know their own length
    state = optimizer.state[pixels]
    if clamped and "d" in state:
        state["d"], state["t"] = (pixels.detach() - before).flatten(), 1.0  # direction and length


def _optimizer(pixels: Tensor, config: DescentConfig) -> torch.optim.Optimizer:
    if config.optimizer == "adam":
        return torch.optim.Adam([pixels], lr=config.adam_lr)
    return torch.optim.LBFGS(
        [pixels],
        # PyTorch begins with a step whose absolute values sum to lr, far below float32's resolution of levels if lr is
        # 1: let the line search start from 1 level per pixel.
        lr=pixels.numel(),
        max_iter=1,  # so that every iterate can be projected; the curvature is kept between steps
        max_eval=MAX_LINE_SEARCH,
        history_size=config.history,
        line_search_fn="strong_wolfe",
    )
