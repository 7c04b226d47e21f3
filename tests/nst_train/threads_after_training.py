"""A tiny training for torchrun: ``threads_after_training.py FOLDER VGG``.

Prints, for each process, how many threads it had more than before while it trained, and how many of those are left.
"""

import os
import sys
from pathlib import Path

from nst_train.trainer import fit
from tests.nst_train.tiny_training import tiny_config


def threads() -> set[str]:
    """The kernel's numbers of this process's threads, gloo's too, which Python does not know of."""
    return set(os.listdir("/proc/self/task"))  # noqa: PTH208  (names, not paths)


def main(folder: str, vgg: str) -> None:
    before, during = threads(), set[str]()
    fit(tiny_config(Path(folder), Path(vgg), steps=2), lambda report: during.update(threads()))
    started = during - before
    sys.stdout.write(f"{len(started)} more, {len(started & threads())} left\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
