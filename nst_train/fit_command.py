"""The command ``nst-train fit``: a training with its monitor, and signals that end it with a checkpoint."""

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from nst_common.outputs import refuse_losses
from nst_train.allocator import keep_freed_memory
from nst_train.config import TrainConfig
from nst_train.distributed import join_processes
from nst_train.errors import ConfigError, UnfinishedRunError
from nst_train.fit_options import add_arguments, config_from
from nst_train.monitor import Monitor
from nst_train.recipe import write_recipe
from nst_train.trainer import Trainer
from nst_train.training_state import remove_partial_files

__all__ = ["add_arguments", "run"]


def run(arguments: argparse.Namespace) -> int:
    """Trains as the parsed ``arguments`` say; returns the exit code."""
    config = config_from(arguments)
    keep_freed_memory()
    with join_processes(config.device) as process:
        process.main_alone(lambda: _prepare_files(config, arguments))
        received = _train(_TrainerAnew(config, process) if arguments.overwrite else Trainer(config, process))
    if received == [signal.SIGINT]:
        raise KeyboardInterrupt
    return 128 + received[0] if received else 0


def _prepare_files(config: TrainConfig, arguments: argparse.Namespace) -> None:
    """Writes the recipe, once nothing would be lost that nobody gave up.

    Raises:
        ConfigError: --resume and --overwrite.
        UnfinishedRunError, OutputExistsError, OutputIsInputError: something would be lost.
        CannotWriteError: the recipe cannot be written.
    """
    recipe: Path | None = arguments.save_recipe
    if config.resume and arguments.overwrite:
        remedy = "Continue with --resume alone, or begin anew with --overwrite --no-resume"
        raise ConfigError("--overwrite", "given together with --resume", remedy)
    if config.state_path.exists() and not (config.resume or arguments.overwrite):
        raise UnfinishedRunError(config.state_path)
    refuse_losses(
        (config.out, config.state_path) if recipe is None else (config.out, config.state_path, recipe),
        inputs=(config.style, config.vgg_weights, config.init, *config.sample),
        overwrite=config.resume or arguments.overwrite,
    )
    if recipe is not None:
        write_recipe(recipe, config)


class _TrainerAnew(Trainer):
    """A training that begins beside an unfinished one, whose state stays until the first own checkpoint replaces it."""

    def _state_to_resume(self) -> None:
        if self.process.is_main:
            remove_partial_files(self.config.state_path, self.config.out)


def _train(trainer: Trainer) -> list[int]:
    """Walks through all steps; returns the signals that ended it before.

    The trainer ends with this function: as long as it lives, so do the threads that connect the processes.
    """
    with _signals_stop(trainer) as received:
        if trainer.process.is_main:
            _watch(trainer)
        else:
            for _report in trainer.steps():
                pass
    return received


def _watch(trainer: Trainer) -> None:
    config = trainer.config
    say = sys.stderr.write
    if trainer.finished:
        say(f"{config.out} is finished already, all {config.steps} steps\n")
        return
    with Monitor(trainer) as monitor:
        monitor.progress.say(_headline(trainer))
        monitor.progress.say(f"Log and samples: {monitor.folder}")
        monitor.name_skipped()
        for report in trainer.steps():
            monitor(report)
    if trainer.step == config.steps:
        say(f"Wrote {config.out}\n")
    else:
        say(f"Stopped after step {trainer.step} of {config.steps}; continue with --resume. {config.out} is as of now\n")


def _headline(trainer: Trainer) -> str:
    config: TrainConfig = trainer.config
    verb = f"Resuming at step {trainer.step}:" if trainer.step else "Training:"
    world = f" × {trainer.process.world}" if trainer.process.world > 1 else ""
    held_out = f" ({trainer.inputs.held_out} held out)" if config.exclude else ""
    return (
        f"{verb} {config.style} on {len(trainer.pictures)} photographs{held_out}, {config.steps} steps of "
        f"{config.batch} crops of {config.crop} px, {config.precision} on {trainer.process.device.type}{world}"
    )


@contextmanager
def _signals_stop(trainer: Trainer) -> Iterator[list[int]]:
    """The first Ctrl-C or SIGTERM ends the training after its step; the second one at once. Yields those received."""
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        trainer.stop()
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, stop)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
