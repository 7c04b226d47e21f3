import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nst_train.errors import ConfigError, DescentDivergedError, DescentOutOfMemoryError
from nst_train.objective import ObjectiveConfig, ObjectiveValue, PerceptualObjective
from nst_train.pixel_descent import DescentConfig, descend, explain_out_of_memory, white_noise


def as_objective(total: Callable[[Tensor], Tensor]) -> Callable[[Tensor], ObjectiveValue]:
    nothing = torch.zeros(())
    return lambda pixels: ObjectiveValue(nothing, nothing, nothing, nothing, total(pixels))


def bowl(target: Tensor, steepness: Tensor, scale: float = 1.0) -> Callable[[Tensor], ObjectiveValue]:
    """A badly conditioned quadratic whose minimum over the box is the clamped target."""
    return as_objective(lambda pixels: scale * (steepness * (pixels - target) ** 2).sum())


TARGET = torch.linspace(20, 230, 48).reshape(1, 3, 4, 4)
STEEPNESS = torch.logspace(0, 2, 48).flip(0).reshape(1, 3, 4, 4)
START = torch.full((1, 3, 4, 4), 128.0)


@pytest.mark.parametrize("config", [DescentConfig("lbfgs", 60), DescentConfig("adam", 400)])
def test_finds_the_minimum(config: DescentConfig) -> None:
    last = list(descend(START, bowl(TARGET, STEEPNESS), config))[-1]
    torch.testing.assert_close(last.image, TARGET, rtol=0, atol=0.1)


@pytest.mark.parametrize("config", [DescentConfig("lbfgs", 80), DescentConfig("adam", 400)])
def test_stays_in_the_range_of_pixels(config: DescentConfig) -> None:
    beyond = TARGET * 3 - 200  # -140 … 490
    reports = list(descend(START, bowl(beyond, STEEPNESS), config))
    assert all(report.image.min() >= 0 and report.image.max() <= 255 for report in reports)
    torch.testing.assert_close(reports[-1].image, beyond.clamp(0, 255), rtol=0, atol=0.5)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e6])
def test_the_objectives_unit_does_not_matter(scale: float) -> None:
    """A normalised objective has tiny gradients, at which plain L-BFGS stops or makes steps of no size."""
    last = list(descend(START, bowl(TARGET, STEEPNESS, scale), DescentConfig("lbfgs", 60)))[-1]
    torch.testing.assert_close(last.image, TARGET, rtol=0, atol=0.1)


def test_lbfgs_is_pytorchs_where_nothing_is_clamped() -> None:
    """Iteration by iteration the same as one call of torch.optim.LBFGS that runs on by itself."""
    count, history = 7, 3
    objective = bowl(TARGET * 0.1 + 115, STEEPNESS.sqrt())
    reports = list(descend(START, objective, DescentConfig("lbfgs", count, history)))
    pixels = START.clone().requires_grad_()
    gradient = torch.autograd.grad(objective(pixels).total, pixels)[0]
    scale = 1.0 / float(gradient.abs().mean())
    optimizer = torch.optim.LBFGS(
        [pixels], lr=pixels.numel(), max_iter=1, history_size=history, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        optimizer.zero_grad()
        loss = objective(pixels).total * scale
        loss.backward()
        return loss.item()

    optimizer.step(closure)
    torch.testing.assert_close(reports[1].image, pixels.detach())
    optimizer.param_groups[0].update(lr=1.0, max_iter=count - 1, max_eval=1000)
    optimizer.step(closure)
    torch.testing.assert_close(reports[-1].image, pixels.detach(), rtol=0, atol=1e-2)
    assert all(report.image.min() > 0 and report.image.max() < 255 for report in reports)
    assert reports[-1].evaluations == optimizer.state[pixels]["func_evals"] - 1  # its second call evaluates anew


def test_reports_tell_of_their_own_picture() -> None:
    calls = 0
    inner = bowl(TARGET, STEEPNESS)

    def objective(pixels: Tensor) -> ObjectiveValue:
        nonlocal calls
        calls += 1
        return inner(pixels)

    for expected, report in enumerate(descend(START, objective, DescentConfig("lbfgs", 10))):
        assert report.iteration == expected
        assert report.evaluations == calls
        assert report.total == pytest.approx(float(inner(report.image).total), rel=1e-6)
        report.image.zero_()  # a copy: what the caller does with it changes nothing
    assert report.iteration == 10
    assert report.total < 0.2 * float(inner(START).total)
    assert torch.equal(START, torch.full_like(START, 128.0))


def test_an_unfinished_descent_can_be_left() -> None:
    reports = descend(START, bowl(TARGET, STEEPNESS), DescentConfig(iterations=10**9))
    assert [next(reports).iteration for _ in range(3)] == [0, 1, 2]
    reports.close()


def test_perceptual_objective_falls(small_vgg: Path) -> None:
    config = ObjectiveConfig(content_layers=("relu2_1",), style_layers=("relu1_1", "relu2_2"))
    content, style = white_noise((1, 3, 24, 20), 0) * 0.5, white_noise((1, 3, 30, 30), 1) * 0.25 + 100
    objective = PerceptualObjective(config, [style], vgg_weights=small_vgg)
    targets = objective.targets(content)
    totals = [r.total for r in descend(content, lambda x: objective(x, targets), DescentConfig(iterations=15))]
    assert totals[-1] < 0.5 * totals[0]
    assert all(later <= earlier * 1.001 for earlier, later in itertools.pairwise(totals))


def test_divergence_is_named() -> None:
    def breaks(pixels: Tensor) -> Tensor:
        return torch.where(pixels > 130, torch.nan, -pixels).sum()

    with pytest.raises(DescentDivergedError, match=r"diverged at iteration \d+: the objective is nan"):
        list(descend(START, as_objective(breaks), DescentConfig("adam", 20)))


def test_start_at_the_minimum() -> None:
    reports = list(descend(TARGET, bowl(TARGET, STEEPNESS), DescentConfig("lbfgs", 3)))
    assert torch.equal(reports[-1].image, TARGET)


@pytest.mark.parametrize(
    ("option", "values"),
    [("--iterations", {"iterations": -1}), ("--history", {"history": 0}), ("--adam-lr", {"adam_lr": float("nan")})],
)
def test_ranges(option: str, values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=rf"{option}: .* given, expected at least"):
        DescentConfig(**values)  # type: ignore[arg-type]


def test_out_of_memory_has_one_line() -> None:
    with pytest.raises(DescentOutOfMemoryError, match=r"4x4 px .*--size"), explain_out_of_memory(START):
        torch.empty(1 << 60)
    with pytest.raises(RuntimeError, match="something else"), explain_out_of_memory(START):
        raise RuntimeError("something else")


def test_white_noise() -> None:
    noise = white_noise((1, 3, 64, 64), 7)
    assert torch.equal(noise, white_noise((1, 3, 64, 64), 7))
    assert not torch.equal(noise, white_noise((1, 3, 64, 64), 8))
    assert noise.min() >= 0
    assert noise.max() <= 255
    assert float(noise.mean()) == pytest.approx(127.5, abs=3)
