"""The command ``nst-train fit``: a training with its monitor, and signals that end it with a checkpoint."""

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from nst_common.outputs import refuse_losses
from nst_train.allocator import keep_freed_memory, ran_out_of_memory
from nst_train.config import TrainConfig
from nst_train.distributed import Process, join_processes
from nst_train.errors import ConfigError, TrainingOutOfMemoryError, UnfinishedRunError
from nst_train.fit_options import add_arguments, config_from
from nst_train.monitor import Monitor
from nst_train.pictures import check_folder
from nst_train.recipe import write_recipe
from nst_train.trainer import Trainer

__all__ = ["add_arguments", "run"]


def run(arguments: argparse.Namespace) -> int:
    """Trains as the parsed ``arguments`` say; returns the exit code."""
    config = config_from(arguments)
    keep_freed_memory()
    with join_processes(config.device) as process:
        process.main_alone(lambda: _check_outputs(config, arguments))
        with _explain_out_of_memory(config):
            received = _train(config, process, arguments)
    if received == [signal.SIGINT]:
        raise KeyboardInterrupt
    return 128 + received[0] if received else 0


@contextmanager
def _explain_out_of_memory(config: TrainConfig) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or ran_out_of_memory(error):
            raise TrainingOutOfMemoryError(config.batch, config.crop) from error
        raise


def _check_outputs(config: TrainConfig, arguments: argparse.Namespace) -> None:
    """Makes sure that nothing is lost that nobody gave up.

    Raises:
        ConfigError: --resume and --overwrite; an --out without a name.
        UnfinishedRunError, OutputExistsError, OutputIsInputError, OutputIsNoFileError: something would be lost.
    """
    recipe: Path | None = arguments.save_recipe
    if not config.out.name:
        raise ConfigError("--out", f"{str(config.out)!r} names no file", "Give a name such as --out my_style.pth")
    if config.resume and arguments.overwrite:
        remedy = "Continue with --resume alone, or begin anew with --overwrite --no-resume"
        raise ConfigError("--overwrite", "given together with --resume", remedy)
    if config.state_path.exists() and not (config.resume or arguments.overwrite):
        raise UnfinishedRunError(config.state_path)
    refuse_losses(
        (config.out, config.state_path) if recipe is None else (config.out, config.state_path, recipe),
        inputs=(config.style, config.vgg_weights, None if config.starts_from_out else config.init, *config.sample),
        overwrite=config.resume or arguments.overwrite,
    )
    if recipe is not None:
        check_folder(recipe)


def _save_recipe(path: Path | None, config: TrainConfig) -> None:
    if path is not None and not (config.resume and path.exists()):
        write_recipe(path, config)


def _train(config: TrainConfig, process: Process, arguments: argparse.Namespace) -> list[int]:
    """Walks through all steps; returns the signals that ended it before.

    The trainer ends with this function: while it lives, the threads that connect the processes do too.
    """
    trainer = Trainer(config, process, overwrite=arguments.overwrite)
    with _signals_stop(trainer) as received:
        if process.is_main:
            _watch(trainer, lambda: _save_recipe(arguments.save_recipe, config))
        else:
            for _report in trainer.steps():
                pass
    return received


def _watch(trainer: Trainer, begin: Callable[[], None]) -> None:
    """Calls ``begin`` once nothing that was given can be wrong any more, and shows the training from there."""
    config = trainer.config
    say = sys.stderr.write
    if trainer.finished:
        begin()
        say(f"{config.out} is finished already, all {config.steps} steps\n")
        return
    with Monitor(trainer) as monitor:
        begin()
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
