"""The training loop, step by step, against a plain one; and what it refuses."""

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nst_train
from nst_common.atomic_file import CannotWriteError
from nst_train.checkpoints import load_checkpoint
from nst_train.config import TrainConfig
from nst_train.data import load_style
from nst_train.distributed import Process
from nst_train.errors import (
    BatchNotDivisibleError,
    CannotCompileError,
    ContentEmptyError,
    DivergedError,
    InitMismatchError,
    StyleTooSmallError,
)
from nst_train.loss_curve import LossCurve
from nst_train.objective import PerceptualObjective
from nst_train.trainer import StepReport, Trainer, fit
from nst_train.training_state import load_state
from nst_train.transform_net import TransformNet
from tests.nst_train.full_disk import files_up_to
from tests.nst_train.tiny_training import NET, OBJECTIVE, identical, in_float64, tiny_config, weights

CPU = Process(torch.device("cpu"))


@pytest.fixture
def config(pictures: Path, small_vgg: Path) -> TrainConfig:
    return tiny_config(pictures, small_vgg)


def plain_training(config: TrainConfig, trainer: Trainer) -> tuple[list[float], nn.Module]:
    """The same steps in textbook PyTorch and float64: its own layers, NCHW, clipping, rates and averages by formula."""
    torch.manual_seed(config.seed)
    net = TransformNet(config.net).double().train()
    average = copy.deepcopy(net)
    styles = load_style(config.style, config.style_size)
    objective = PerceptualObjective(config.objective, styles, vgg_weights=config.vgg_weights).double()
    optimizer = torch.optim.Adam(net.parameters(), betas=(0.9, 0.999), eps=1e-8, foreach=False)
    totals = []
    for step in range(config.steps):
        content = trainer._loader.batch(step).double()
        value = objective(net(content), objective.targets(content))
        optimizer.zero_grad()
        value.total.backward()
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in net.parameters() if p.grad is not None))
        for parameter in net.parameters():
            assert parameter.grad is not None
            parameter.grad *= min(1.0, config.grad_clip / norm)
        ramp = (step - config.warmup) / (config.steps - 1 - config.warmup)
        decayed = config.lr * (1 - ramp) + config.final_lr * ramp
        optimizer.param_groups[0]["lr"] = config.lr * (step + 1) / config.warmup if step < config.warmup else decayed
        optimizer.step()
        decay = min(config.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            for old, new in zip(average.parameters(), net.parameters(), strict=True):
                old.copy_(decay * old + (1 - decay) * new)
        totals.append(value.total.item())
    return totals, average


def test_steps_are_those_of_a_plain_loop(config: TrainConfig) -> None:
    config = dataclasses.replace(config, grad_clip=2.0, ema=0.6)
    trainer = in_float64(Trainer(config, CPU))
    reports = list(trainer.steps())
    totals, average = plain_training(config, trainer)
    assert [report.step for report in reports] == list(range(1, 9))
    assert max(report.grad_norm for report in reports) > 2.0  # the clipping had something to do
    assert [report.total for report in reports] == pytest.approx(totals, rel=1e-5)
    ours = trainer.checkpoint().state
    for name, value in average.state_dict().items():
        assert float((ours[name] - value).norm()) <= 1e-7 * float(value.norm()) + 1e-9, name


def test_a_report_adds_up(config: TrainConfig) -> None:
    reports: list[StepReport] = []
    fit(dataclasses.replace(config, steps=2), reports.append)
    for report in reports:
        terms = OBJECTIVE.content_weight * report.content + OBJECTIVE.style_weight * report.style
        terms += OBJECTIVE.total_variation_weight * report.total_variation + OBJECTIVE.grid_weight * report.grid
        assert report.total == pytest.approx(terms)
    assert 0 < reports[0].seconds < reports[1].seconds


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_lowers_the_objective(precision: str, config: TrainConfig) -> None:
    reports: list[StepReport] = []
    fit(dataclasses.replace(config, steps=80, precision=precision, lr=3e-3, workers=2), reports.append)
    first, last = (sum(report.total for report in part) / 10 for part in (reports[:10], reports[-10:]))
    assert last < 0.8 * first


def test_the_checkpoint_rebuilds_the_net_and_tells_its_story(config: TrainConfig) -> None:
    checkpoint = nst_train.fit(config)
    loaded = load_checkpoint(config.out)  # weights_only=True
    assert loaded.config == NET
    assert loaded.style == "tiny"
    assert identical(loaded.state, checkpoint.state)
    styled = loaded.build()(torch.rand(1, 3, 20, 24) * 255)
    assert styled.shape == (1, 3, 20, 24)
    record = loaded.record
    assert record["step"] == record["config"]["steps"] == 8
    assert record["config"]["style"] == "style.png"  # no folder of this machine
    assert record["photographs"] == 7
    assert len(record["losses"]) == 8
    assert record["seconds"] > 0
    assert len(record["inputs"]["style"]) == 64
    assert record["versions"]["torch"] == torch.__version__


def test_without_averaging_the_last_weights_are_kept(config: TrainConfig) -> None:
    trainer = Trainer(dataclasses.replace(config, ema=0.0, steps=3), CPU)
    list(trainer.steps())
    assert identical(trainer.checkpoint().state, dict(trainer._learner.net.state_dict()))


def test_the_layout_and_the_threads_do_not_change_the_result(config: TrainConfig, tmp_path: Path) -> None:
    fit(config)
    other = dataclasses.replace(config, channels_last=False, workers=3, out=tmp_path / "other.pth")
    fit(other)
    for name, value in weights(config.out).items():
        assert torch.allclose(value, weights(other.out)[name], rtol=1e-2, atol=2e-3), name


def test_the_seed_decides_everything(config: TrainConfig, tmp_path: Path) -> None:
    torch.manual_seed(1)
    fit(config)
    torch.manual_seed(2)
    again, other = (dataclasses.replace(config, out=tmp_path / f"{name}.pth") for name in ("again", "other"))
    fit(again)
    fit(dataclasses.replace(other, seed=1))
    assert identical(weights(config.out), weights(again.out))
    assert not identical(weights(config.out), weights(other.out))


def test_fit_leaves_the_global_random_state_alone(config: TrainConfig) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(dataclasses.replace(config, steps=1))
    assert torch.equal(torch.rand(3), expected)


def test_a_training_may_start_from_another_net(config: TrainConfig, tmp_path: Path) -> None:
    fit(config)
    tiny_step = dataclasses.replace(
        config, init=config.out, out=tmp_path / "b.pth", steps=1, warmup=0, lr=1e-9, final_lr=1e-9
    )
    fit(tiny_step)
    for name, value in weights(config.out).items():
        assert torch.allclose(weights(tiny_step.out)[name], value, atol=1e-7)
    wider = dataclasses.replace(tiny_step, net=dataclasses.replace(NET, widths=(8, 6, 8)))
    with pytest.raises(InitMismatchError, match="widths"):
        fit(wider)


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_numbers_that_leave_the_finite_stop_the_training(config: TrainConfig) -> None:
    healthy = dataclasses.replace(config, max_minutes=0.0)
    fit(healthy)
    before = config.state_path.read_bytes()
    wild = dataclasses.replace(config, resume=True)
    trainer = Trainer(wild, CPU)
    with torch.no_grad():
        next(iter(trainer._learner.net.parameters())).fill_(math.nan)
    with pytest.raises(
        DivergedError, match=r"step 2: the loss is nan.*net, of step 1, is in \S+tiny\.pth\. .*lower --lr"
    ):
        list(trainer.steps())
    assert config.state_path.read_bytes() == before


def test_a_wild_learning_rate_diverges_before_anything_is_written(config: TrainConfig) -> None:
    with pytest.raises(DivergedError, match="nothing was written yet"):
        fit(dataclasses.replace(config, lr=1e38, warmup=0))
    assert not config.out.exists()


def test_weights_that_leave_the_finite_are_never_written(config: TrainConfig) -> None:
    trainer = Trainer(dataclasses.replace(config, checkpoint_every=1), CPU)
    reports = trainer.steps()
    assert next(reports).step == 1
    before = config.out.read_bytes(), config.state_path.read_bytes()
    with torch.no_grad():
        next(iter(trainer._learner.average.parameters())).fill_(math.inf)  # as if by the step that follows
    with pytest.raises(DivergedError, match="at step 2: the weights are no longer finite numbers; the last good net, "):
        list(reports)
    assert (config.out.read_bytes(), config.state_path.read_bytes()) == before


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, "--init OUT --overwrite --lr 0.00025"),
        ({"resume": True}, "--no-resume --init OUT --overwrite --lr 0.00025"),
        ({"lr": 1e-4}, "--init OUT --overwrite --lr 2.5e-05 --final-lr 2.5e-05"),
    ],
)
def test_the_options_after_a_divergence_fit_the_training(
    changes: dict[str, Any], options: str, config: TrainConfig
) -> None:
    trainer = Trainer(dataclasses.replace(config, checkpoint_every=1, **changes), CPU)
    reports = trainer.steps()
    next(reports)
    with torch.no_grad():
        next(iter(trainer._learner.net.parameters())).fill_(math.nan)
    with pytest.raises(DivergedError) as caught:
        list(reports)
    assert str(caught.value).endswith(f"repeat the command with {options.replace('OUT', str(config.out))}")


def test_a_rising_loss_is_divergence_and_a_noisy_one_is_not() -> None:
    curve = LossCurve()
    generator = torch.Generator().manual_seed(0)
    for step, noise in enumerate(torch.rand(500, generator=generator).tolist(), start=1):
        total = 1.0 + 2.0 * math.exp(-step / 50) + noise
        assert curve.problem(total, 1.0) is None
        curve.add(step, 2000, (0.1, 0.2, 0.3, 0.4, total))
    problem = None
    for step in range(501, 700):
        problem = curve.problem(20.0, 1.0)
        if problem:
            break
        curve.add(step, 2000, (0.1, 0.2, 0.3, 0.4, 20.0))
    assert problem is not None
    assert "rose" in problem
    assert step < 600


def test_the_curve_is_thinned_to_means() -> None:
    curve = LossCurve()
    for step in range(1, 1001):
        curve.add(step, 1000, (float(step), 0.0, 0.0, 0.0, 1.0))
    assert len(curve.rows) == 200
    assert curve.rows[0] == [5.0, 3.0, 0.0, 0.0, 0.0, 1.0]  # the mean of 1 … 5
    assert curve.rows[-1][0] == 1000


def test_too_little_memory_is_no_fault_of_the_compiler(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(dataclasses.replace(config, compile=True), CPU)

    def fails(error: Exception) -> Any:
        def targets(_content: torch.Tensor) -> Any:
            raise error

        return targets

    monkeypatch.setattr(trainer._learner, "_targets", fails(torch.OutOfMemoryError("of 3 GiB")))
    with pytest.raises(torch.OutOfMemoryError):
        next(trainer.steps())
    monkeypatch.setattr(trainer._learner, "_targets", fails(RuntimeError("no compiler")))
    with pytest.raises(CannotCompileError, match=r"torch\.compile failed: no compiler"):
        next(trainer.steps())


def test_a_full_disk_keeps_the_checkpoint_before(config: TrainConfig, tmp_path: Path) -> None:
    fit(dataclasses.replace(config, out=tmp_path / "whole.pth"))
    steps = Trainer(dataclasses.replace(config, checkpoint_every=2), CPU).steps()
    assert [next(steps).step, next(steps).step] == [1, 2]
    limit = config.state_path.stat().st_size // 2
    with files_up_to(limit), pytest.raises(CannotWriteError, match=r"tiny\.state\.pth"):
        list(steps)
    assert load_state(config.state_path).step == 2
    assert not list(tmp_path.glob(".*"))
    fit(dataclasses.replace(config, resume=True))
    assert identical(weights(config.out), weights(tmp_path / "whole.pth"))


def test_a_place_that_cannot_be_written_to_is_named_before_the_work(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(CannotWriteError, match="no such folder"):
        Trainer(dataclasses.replace(config, out=tmp_path / "nowhere" / "a.pth"), CPU)


def test_remains_of_a_killed_writer_are_removed(config: TrainConfig, tmp_path: Path) -> None:
    for name in (".tiny.pth.0123abcd.part", ".tiny.state.pth.0123abcd.part", ".other.pth.0123abcd.part"):
        (tmp_path / name).touch()
    fit(dataclasses.replace(config, steps=1))
    assert [path.name for path in tmp_path.glob(".*")] == [".other.pth.0123abcd.part"]


def test_a_style_too_small_for_the_deepest_layer_is_named(config: TrainConfig, pictures: Path) -> None:
    from PIL import Image

    Image.new("RGB", (64, 1)).save(pictures / "style.png")
    with pytest.raises(StyleTooSmallError, match="relu2_1"):
        fit(config)


def test_nothing_left_to_train_on_is_named(config: TrainConfig) -> None:
    names = tuple(f"photo_{number}.png" for number in range(7))
    with pytest.raises(ContentEmptyError, match="held out"):
        fit(dataclasses.replace(config, exclude=names))


def test_held_out_photographs_are_never_trained_on(config: TrainConfig) -> None:
    trainer = Trainer(dataclasses.replace(config, exclude=("photo_0.png", "photo_3.png", "absent.png")), CPU)
    assert {path.name for path in trainer.pictures.paths} == {f"photo_{number}.png" for number in (1, 2, 4, 5, 6)}
    assert trainer.inputs.held_out == 2


def test_a_batch_that_cannot_be_shared_is_named(config: TrainConfig) -> None:
    with pytest.raises(BatchNotDivisibleError, match="batch of 2"):
        Trainer(config, Process(torch.device("cpu"), rank=0, world=3))


def test_precision_auto_is_settled_before_the_first_step(config: TrainConfig) -> None:
    trainer = Trainer(dataclasses.replace(config, precision="auto"), CPU)
    expected: Any = "bf16" if torch.cpu.get_capabilities().get("avx512_bf16") else trainer.config.precision
    assert trainer.config.precision == expected != "auto"
