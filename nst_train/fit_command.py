"""The command ``nst-train fit``: a training with its monitor, and signals that end it with a checkpoint."""

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from nst_train.allocator import keep_freed_memory
from nst_train.config import TrainConfig
from nst_train.distributed import join_processes
from nst_train.fit_options import add_arguments, config_from
from nst_train.monitor import Monitor
from nst_train.recipe import write_recipe
from nst_train.trainer import Trainer

__all__ = ["add_arguments", "run"]


def run(arguments: argparse.Namespace) -> int:
    """Trains as the parsed ``arguments`` say; returns the exit code."""
    config = config_from(arguments)
    if arguments.save_recipe:
        write_recipe(arguments.save_recipe, config)
    keep_freed_memory()
    with join_processes(config.device) as process:
        trainer = Trainer(config, process)
        with _signals_stop(trainer) as received:
            if process.is_main:
                _watch(trainer)
            else:
                for _report in trainer.steps():
                    pass
    if received == [signal.SIGINT]:
        raise KeyboardInterrupt
    return 128 + received[0] if received else 0


def _watch(trainer: Trainer) -> None:
    config = trainer.config
    say = sys.stderr.write
    if trainer.finished:
        say(f"{config.out} is finished already, all {config.steps} steps\n")
        return
    with Monitor(trainer) as monitor:
        monitor.progress.say(_headline(trainer))
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
