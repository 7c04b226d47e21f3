"""What ``--resume`` needs: everything that the next step depends on, in one file beside the trained checkpoint.

No random state is in it: the only chance left after the first weights is in the crops, and those are pure functions of
the seed and the step.
"""

import dataclasses
import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nst_common.atomic_file import atomic_write
from nst_train.config import TrainConfig, differences
from nst_train.errors import ResumeMismatchError, StateUnreadableError
from nst_train.tensor_file import load_tensors

FORMAT = "nst.training-state"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class TrainingState:
    """A training after ``step`` finished steps.

    Attributes:
        config: the TrainConfig as plain values.
        inputs: SHA-256 of what it reads, by name.
        step: finished steps.
        seconds: spent so far, over all runs.
        net, average: state dicts of the net and of the running average of its weights.
        optimizer: Adam's state dict.
        losses: the LossCurve as plain values.
    """

    config: dict[str, Any]
    inputs: dict[str, str]
    step: int
    seconds: float
    net: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: dict[str, Any]
    losses: dict[str, Any]


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
        content = load_tensors(path)
    except (OSError, ValueError, EOFError, RuntimeError, KeyError, pickle.UnpicklingError) as error:
        raise StateUnreadableError(path, "it is damaged or of another kind") from error
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise StateUnreadableError(path, "it is not a training state of nst-train")
    if (version := content.pop("version", None)) != FORMAT_VERSION:
        raise StateUnreadableError(path, f"its format version is {version}, this nst reads {FORMAT_VERSION}")
    if odd := {item.name for item in dataclasses.fields(TrainingState)} ^ set(content):
        raise StateUnreadableError(path, f"its entry {min(odd)!r} is missing or unknown")
    return TrainingState(**content)


def refuse_differences(
    path: Path, config: TrainConfig, inputs: Mapping[str, str], of_path: tuple[dict[str, Any], dict[str, str]]
) -> None:
    """Whether the training in ``path``, of that config and those inputs, is the one that ``config`` asks for.

    Raises:
        ResumeMismatchError: it is not; every difference that would change the weights is named.
    """
    their_config, their_inputs = of_path
    found = differences(config, their_config)
    found += [f"the {name} is another one" for name, sha256 in inputs.items() if their_inputs.get(name) != sha256]
    if found:
        raise ResumeMismatchError(path, "; ".join(found))


def remove_partial_files(*paths: Path) -> None:
    """Removes what a run that was killed while writing ``paths`` has left beside them."""
    for path in paths:
        for partial in path.parent.glob(f".{path.name}.*.part"):
            partial.unlink(missing_ok=True)
