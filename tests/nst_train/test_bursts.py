"""Steps whose values are looked at several at once, as on a GPU; here the processor takes them."""

import dataclasses
import math
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nst_train.checkpoints import load_checkpoint
from nst_train.config import TrainConfig
from nst_train.distributed import Process
from nst_train.errors import DivergedError
from nst_train.schedule import average_decay, learning_rate
from nst_train.trainer import StepReport, Trainer
from nst_train.training_state import load_state
from tests.nst_train.tiny_training import identical, tiny_config, weights

CPU = Process(torch.device("cpu"))
TOGETHER = 20


class FakeStep:
    """Changes nothing; the total of a step is its number, and ``fails`` has none.

    Attributes:
        calls: the rate and the decay of each.
    """

    def __init__(self, fails: int | None = None) -> None:
        self.calls: list[tuple[float, float]] = []
        self._fails = fails

    def __call__(self, crops: Tensor, rate: float, decay: float) -> Tensor:
        """See Step."""
        self.calls.append((rate, decay))
        number = len(self.calls)
        total = math.nan if number == self._fails else 1.0 + number / 1000
        return torch.tensor([0.1, 0.2, 0.3, 0.4, total, 1.0])


@pytest.fixture
def config(pictures: Path, small_vgg: Path) -> TrainConfig:
    return tiny_config(pictures, small_vgg, steps=50)


def in_bursts(trainer: Trainer, step: FakeStep | None, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    """The same training by ``step``, or its own one, looked at as on a GPU."""
    monkeypatch.setattr(trainer, "_step", lambda: (step or trainer._learner, TOGETHER))
    return trainer


def test_every_step_is_reported_in_order_once_its_burst_was_looked_at(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = FakeStep()
    reports: list[StepReport] = []
    begun: list[int] = []
    for report in in_bursts(Trainer(config, CPU), step, monkeypatch).steps():
        reports.append(report)
        begun.append(len(step.calls))
    assert [report.step for report in reports] == list(range(1, 51))
    assert begun == [20] * 20 + [40] * 20 + [50] * 10
    assert [report.total for report in reports] == pytest.approx([1.0 + number / 1000 for number in range(1, 51)])
    assert step.calls == [(learning_rate(config, number), average_decay(config, number)) for number in range(50)]
    assert [report.lr for report in reports] == [rate for rate, _ in step.calls]


def test_bursts_change_nothing(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(config, steps=8)
    singly = [dataclasses.astuple(report)[:-1] for report in Trainer(config, CPU).steps()]
    other = dataclasses.replace(config, out=tmp_path / "other.pth", checkpoint_every=3)
    together = list(in_bursts(Trainer(other, CPU), None, monkeypatch).steps())
    assert [dataclasses.astuple(report)[:-1] for report in together] == singly  # without the seconds
    assert identical(weights(config.out), weights(other.out))
    assert load_checkpoint(config.out).record["losses"] == load_checkpoint(other.out).record["losses"]


def test_checkpoints_are_of_exactly_their_steps(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    step = FakeStep()
    trainer = in_bursts(Trainer(dataclasses.replace(config, checkpoint_every=15), CPU), step, monkeypatch)
    written = {}
    for report in trainer.steps():
        if config.state_path.exists():
            written.setdefault(load_state(config.state_path).step, (report.step, len(step.calls)))
    assert written == {15: (1, 15), 30: (16, 30), 45: (31, 45)}
    assert load_checkpoint(config.out).record["step"] == 50


def test_samples_are_of_exactly_their_steps(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    step = FakeStep()
    trainer = in_bursts(Trainer(dataclasses.replace(config, sample_every=12), CPU), step, monkeypatch)
    begun = {report.step: len(step.calls) for report in trainer.steps()}
    assert [begun[number] for number in (12, 24, 36, 48, 50)] == [12, 24, 36, 48, 50]


def test_a_stop_within_a_burst_ends_it(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(config, CPU)

    class Interrupted(FakeStep):
        def __call__(self, crops: Tensor, rate: float, decay: float) -> Tensor:
            if len(self.calls) == 6:  # while the seventh is under way, as a signal would
                trainer.stop()
            return super().__call__(crops, rate, decay)

    step = Interrupted()
    in_bursts(trainer, step, monkeypatch)
    assert [report.step for report in trainer.steps()] == list(range(1, 8))
    assert len(step.calls) == 7
    assert load_state(config.state_path).step == load_checkpoint(config.out).record["step"] == 7


def test_a_stop_between_reports_ends_after_one_more_step(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    step = FakeStep()
    trainer = in_bursts(Trainer(config, CPU), step, monkeypatch)
    steps = []
    for report in trainer.steps():
        steps.append(report.step)
        if report.step == 3:
            trainer.stop()
    assert steps == list(range(1, 22))
    assert load_state(config.state_path).step == len(step.calls) == 21


def test_the_time_ends_a_burst(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = in_bursts(Trainer(dataclasses.replace(config, max_minutes=0.0), CPU), FakeStep(), monkeypatch)
    assert [report.step for report in trainer.steps()] == [1]
    assert load_state(config.state_path).step == 1


def test_divergence_in_a_burst_is_of_its_step_and_writes_nothing(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = FakeStep(fails=27)
    config = dataclasses.replace(config, checkpoint_every=10)
    trainer = in_bursts(Trainer(config, CPU), step, monkeypatch)
    reports = trainer.steps()
    assert [next(reports).step for _ in range(26)] == list(range(1, 27))
    with pytest.raises(DivergedError, match=r"at step 27: the loss is nan.*last good net, of step 20, is in"):
        next(reports)
    assert len(step.calls) == 30  # three were already under way
    assert load_state(config.state_path).step == load_checkpoint(config.out).record["step"] == 20


@pytest.mark.parametrize("ends", ["stopped", "diverged"])
def test_the_loaders_threads_end_with_the_steps(
    ends: str, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(dataclasses.replace(config, workers=2), CPU)
    in_bursts(trainer, FakeStep(fails=3 if ends == "diverged" else None), monkeypatch)
    if ends == "diverged":
        with pytest.raises(DivergedError) as caught:  # which keeps its frames, and what they hold, alive
            list(trainer.steps())
        assert caught.value
    else:
        trainer.stop()
        assert len(list(trainer.steps())) == 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("nst-loader")]
