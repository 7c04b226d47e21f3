"""Stopping and resuming; killed at any moment, a training ends with the very weights of an unbroken one."""

import dataclasses
import multiprocessing
import random
import time
from pathlib import Path

import pytest
import torch

from nst_train.checkpoints import load_checkpoint
from nst_train.config import TrainConfig
from nst_train.distributed import Process
from nst_train.errors import ResumeMismatchError, StateUnreadableError, UnfinishedRunError
from nst_train.trainer import Trainer, fit
from nst_train.training_state import load_state, save_state
from tests.nst_train.tiny_training import OBJECTIVE, identical, run_fit, tiny_config, weights

CPU = Process(torch.device("cpu"))


@pytest.fixture
def config(pictures: Path, small_vgg: Path) -> TrainConfig:
    return tiny_config(pictures, small_vgg)


def test_max_minutes_stops_with_a_checkpoint_and_resume_is_exact(config: TrainConfig, tmp_path: Path) -> None:
    fit(dataclasses.replace(config, out=tmp_path / "whole.pth"))
    part = fit(dataclasses.replace(config, max_minutes=0.0))
    assert part.record["step"] == 1
    assert config.state_path.exists()
    assert identical(weights(config.out), part.state)  # usable as it is
    steps: list[int] = []
    rest = fit(dataclasses.replace(config, resume=True), lambda report: steps.append(report.step))
    assert steps == list(range(2, 9))
    assert identical(rest.state, weights(tmp_path / "whole.pth"))
    assert rest.record["losses"] == load_checkpoint(tmp_path / "whole.pth").record["losses"]
    assert not config.state_path.exists()


def test_stop_ends_after_the_step_under_way(config: TrainConfig) -> None:
    trainer = Trainer(config, CPU)
    steps = []
    for report in trainer.steps():
        steps.append(report.step)
        if report.step == 3:
            trainer.stop()
    assert steps == [1, 2, 3, 4]
    assert load_state(config.state_path).step == 4


def test_checkpoints_come_every_so_many_steps(config: TrainConfig) -> None:
    trainer = Trainer(dataclasses.replace(config, checkpoint_every=3), CPU)
    written = [
        load_state(config.state_path).step if config.state_path.exists() else None for _report in trainer.steps()
    ]
    assert written == [None, None, 3, 3, 3, 6, 6, None]  # the last one leaves only the trained net
    assert load_checkpoint(config.out).record["step"] == 8


def test_resume_without_a_state_begins_at_the_beginning(config: TrainConfig) -> None:
    assert fit(dataclasses.replace(config, resume=True)).record["step"] == 8


def test_resume_of_a_finished_training_leaves_it_alone(config: TrainConfig) -> None:
    fit(config)
    before = config.out.read_bytes()
    trainer = Trainer(dataclasses.replace(config, resume=True), CPU)
    assert trainer.finished
    assert list(trainer.steps()) == []
    assert config.out.read_bytes() == before


def test_a_run_killed_between_its_two_files_has_its_net_again_once_it_is_resumed(config: TrainConfig) -> None:
    fit(dataclasses.replace(config, max_minutes=0.0))
    net = weights(config.out)
    config.out.unlink()
    Trainer(dataclasses.replace(config, resume=True), CPU)
    assert identical(weights(config.out), net)


def test_what_another_kind_of_device_left_can_be_resumed(config: TrainConfig) -> None:
    whole = fit(config)
    fit(dataclasses.replace(config, max_minutes=0.0))
    state = load_state(config.state_path)
    [group] = state.optimizer["param_groups"]
    ours = group["capturable"]
    group |= {"capturable": not ours, "lr": torch.tensor(group["lr"])}  # as a GPU leaves it, to be captured there
    save_state(config.state_path, state)
    trainer = Trainer(dataclasses.replace(config, resume=True), CPU)
    assert [group["capturable"] for group in trainer._learner.optimizer.param_groups] == [ours]
    assert len(list(trainer.steps())) == 7
    assert identical(weights(config.out), whole.state)


def test_an_unfinished_training_is_not_overwritten(config: TrainConfig) -> None:
    fit(dataclasses.replace(config, max_minutes=0.0))
    with pytest.raises(UnfinishedRunError, match="--resume"):
        fit(config)


@pytest.mark.parametrize("finished", [False, True])
def test_another_configuration_is_refused_and_its_differences_named(finished: bool, config: TrainConfig) -> None:
    fit(config if finished else dataclasses.replace(config, max_minutes=0.0))
    other = dataclasses.replace(
        config, resume=True, lr=5e-4, objective=dataclasses.replace(OBJECTIVE, style_weight=9.0), workers=1
    )
    with pytest.raises(ResumeMismatchError) as caught:
        fit(other)
    assert "lr was 0.001, is 0.0005; objective.style_weight was 4.0, is 9.0" in str(caught.value)
    assert "workers" not in str(caught.value)


def test_another_style_or_photograph_is_refused(config: TrainConfig, pictures: Path) -> None:
    fit(dataclasses.replace(config, max_minutes=0.0))
    (pictures / "style.png").write_bytes((pictures / "content" / "photo_0.png").read_bytes())
    (pictures / "content" / "photo_1.png").unlink()
    with pytest.raises(ResumeMismatchError, match="the style is another one; the list of photographs is another one"):
        fit(dataclasses.replace(config, resume=True))


@pytest.mark.parametrize("content", [b"", b"no state", "checkpoint"])
def test_a_damaged_state_is_named(content: bytes | str, config: TrainConfig) -> None:
    fit(config)
    config.state_path.write_bytes(config.out.read_bytes() if isinstance(content, str) else content)
    with pytest.raises(StateUnreadableError, match=r"tiny\.state\.pth"):
        fit(dataclasses.replace(config, resume=True))


# --- killed ----------------------------------------------------------------------------------------------------------


def changed(path: Path, since: float) -> bool:
    return path.exists() and path.stat().st_mtime > since


def kill_at_a_random_moment(process: multiprocessing.process.BaseProcess, config: TrainConfig, wait: float) -> None:
    """SIGKILL, ``wait`` seconds after the process wrote its first checkpoint of its own."""
    started = time.time()
    process.start()
    while process.is_alive() and not changed(config.state_path, started):
        time.sleep(0.002)
    time.sleep(wait)
    assert process.is_alive(), "the training ended before it could be killed"
    process.kill()
    process.join()


def run_to_the_end(process: multiprocessing.process.BaseProcess) -> None:
    process.start()
    process.join()
    assert process.exitcode == 0


def test_killed_five_times_the_weights_are_those_of_an_unbroken_run(config: TrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(
        config, steps=400, checkpoint_every=3, workers=2, ema=0.99, precision="bf16", seed=7, resume=True
    )
    whole = dataclasses.replace(config, out=tmp_path / "whole.pth", checkpoint_every=1000)
    context = multiprocessing.get_context("forkserver")  # each process is a fresh one that has imported torch already
    context.set_forkserver_preload(["tests.nst_train.tiny_training"])
    run_to_the_end(context.Process(target=run_fit, args=(whole,)))
    seconds = load_checkpoint(whole.out).record["seconds"]
    chance = random.Random()
    reached = []
    for _ in range(5):
        process = context.Process(target=run_fit, args=(config,))
        kill_at_a_random_moment(process, config, wait=chance.uniform(0.0, 0.15 * seconds))
        reached.append(load_state(config.state_path).step)
    assert reached == sorted(set(reached))  # each run got further than the one before
    assert 0 < reached[0] < reached[-1] < config.steps
    run_to_the_end(context.Process(target=run_fit, args=(config,)))
    assert identical(weights(config.out), weights(whole.out))
    assert load_checkpoint(config.out).record["losses"] == load_checkpoint(whole.out).record["losses"]
    assert not list(tmp_path.glob(".*"))
    assert not config.state_path.exists()
