"""What ``--resume`` needs: everything that the next step depends on, in one file beside the trained checkpoint.

No random state is in it: the only chance left after the first weights is in the crops, and those are pure functions of
the seed and the step.
"""

import dataclasses
import io
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nst_common.atomic_file import atomic_write
from nst_train.errors import StateUnreadableError

FORMAT = "nst.training-state"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class TrainingState:
    """A training after ``step`` finished steps.

    Attributes:
        config: the TrainConfig as plain values.
        inputs: SHA-256 of the style, of the list of photographs and of the VGG file, by name.
        step: finished steps.
        seconds: spent so far, over all runs.
        net, average: state dicts of the net and of the running average of its weights.
        optimizer: Adam's state dict.
        losses: rows of (step, content, style, total variation, total), means since the row before.
        pending: the unfinished next row: how many steps it holds, and their sums.
        smoothed: running mean of the total loss, and the least that it has been.
    """

    config: dict[str, Any]
    inputs: dict[str, str]
    step: int
    seconds: float
    net: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: dict[str, Any]
    losses: list[list[float]] = field(default_factory=list)
    pending: list[float] = field(default_factory=list)
    smoothed: list[float] = field(default_factory=list)


def save_state(path: Path, state: TrainingState) -> None:
    """Writes ``path`` whole or not at all.

    Raises:
        CannotWriteError: an unwritable place or a full disk; the state before stays as it was.
    """
    values = {item.name: getattr(state, item.name) for item in dataclasses.fields(state)}
    buffer = io.BytesIO()  # torch's own file writer turns a full disk into a RuntimeError without its reason
    torch.save({"format": FORMAT, "version": FORMAT_VERSION, **values}, buffer)
    with atomic_write(path) as partial:
        partial.write_bytes(buffer.getbuffer())


def load_state(path: Path) -> TrainingState:
    """Reads what ``save_state`` wrote, onto the CPU; nothing in the file is executed.

    Raises:
        StateUnreadableError: damaged, or another kind or version of file.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, ValueError, EOFError, RuntimeError, KeyError, pickle.UnpicklingError) as error:
        raise StateUnreadableError(path, "it is damaged or of another kind") from error
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise StateUnreadableError(path, "it is not a training state of nst-train")
    if (version := content.pop("version", None)) != FORMAT_VERSION:
        raise StateUnreadableError(path, f"its format version is {version}, this nst reads {FORMAT_VERSION}")
    if missing := {item.name for item in dataclasses.fields(TrainingState)} ^ set(content):
        raise StateUnreadableError(path, f"its entry {min(missing)!r} is missing or unknown")
    return TrainingState(**content)
