"""The two files of a training: ``out``, its averaged net, and beside it the state that ``--resume`` continues from."""

import dataclasses
import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from nst_common import package_version
from nst_train.checkpoints import Checkpoint, load_checkpoint, save_checkpoint, style_of
from nst_train.config import TrainConfig, as_plain
from nst_train.distributed import Process
from nst_train.errors import DivergedError, UnfinishedRunError
from nst_train.loss_curve import LossCurve
from nst_train.training_inputs import NET_TO_START_FROM, TrainingInputs
from nst_train.training_state import TrainingState, load_state, refuse_differences, remove_partial_files, save_state
from nst_train.training_step import TrainingStep

GENTLER = 4  # times less is the learning rate that is proposed after a divergence


@dataclass
class Course:
    """How far a training has come.

    Attributes:
        step: finished steps.
        seconds: spent on it, over all runs.
        losses: of its steps.
    """

    step: int = 0
    seconds: float = 0.0
    losses: LossCurve = field(default_factory=LossCurve)


class TrainingFiles:
    """What a training finds of an earlier run of its own, and what it leaves; rank 0 alone writes.

    Args:
        config: everything about the training; its ``precision`` is no longer ``auto``.
        process: this process among those that train together.
        inputs: the files that it reads.
        overwrite: begin anew; the state of an unfinished training stays until the first checkpoint replaces it.

    Raises:
        UnfinishedRunError: a state is there, which nobody said to resume or to overwrite.
        StateUnreadableError, CheckpointUnreadableError, CheckpointMismatchError: what is to be resumed is damaged.
        ResumeMismatchError: what is to be resumed is another training.
    """

    def __init__(
        self, config: TrainConfig, process: Process, inputs: TrainingInputs, *, overwrite: bool = False
    ) -> None:
        self._config, self._process, self._inputs = config, process, inputs
        self._fingerprints = inputs.fingerprints
        self._earlier: TrainingState | None = None
        self._done_before = False
        self._written: int | None = None  # the step that ``out`` is of, once this training has written it
        path, resume = config.state_path, config.resume and not overwrite
        if path.exists() and not (resume or overwrite):
            raise UnfinishedRunError(path)
        if process.is_main:
            remove_partial_files(path, config.out)
        if resume:
            self._find_earlier()

    def take_up(self, learner: TrainingStep) -> Course:
        """Brings ``learner`` to where the run before has left it; says how far that is.

        Raises:
            CannotWriteError: an unwritable place or a full disk.
        """
        if self._earlier is None:
            return Course(self._config.steps if self._done_before else 0)
        state, self._earlier = self._earlier, None
        learner.load(state.net, state.average, state.optimizer)
        course = Course(state.step, state.seconds, LossCurve(**state.losses))
        self._save_net(learner, course)  # a run that was killed between its two files has left an older net
        return course

    def save(self, learner: TrainingStep, course: Course) -> None:
        """Writes ``out`` and, as long as steps are left, the state.

        Raises:
            DivergedError: the weights left the finite numbers; nothing is written.
            CannotWriteError: an unwritable place or a full disk; older files stay as they were.
        """
        finished = course.step == self._config.steps
        if not learner.is_finite():
            raise self.diverged(course.step, "the weights are no longer finite numbers")
        if self._process.is_main and not finished:
            save_state(self._config.state_path, self._state(learner, course))
        self._save_net(learner, course)
        if self._process.is_main and finished:
            self._config.state_path.unlink(missing_ok=True)

    def checkpoint(self, learner: TrainingStep, course: Course) -> Checkpoint:
        """The net as it would be shipped now: averaged weights, and the record of how they came about."""
        state = {
            name: value.detach().cpu().contiguous().clone() for name, value in learner.average.state_dict().items()
        }
        record = {
            "config": as_plain(self._config, folders=False),
            "inputs": self._fingerprints,
            "photographs": len(self._inputs.photographs),
            "step": course.step,
            "seconds": course.seconds,
            "losses": course.losses.rows,
            "device": _device_name(self._process),
            "versions": {
                "nst": package_version(),
                "torch": str(torch.__version__),
                "python": platform.python_version(),
            },
        }
        return Checkpoint(self._config.net, state, style_of(self._config.out), record=record)

    def diverged(self, step: int, problem: str) -> DivergedError:
        """The error of a training whose ``step`` failed: it names the last good net, and how to start from that."""
        config = self._config
        if self._written is None:
            return DivergedError(step, problem)
        rate = f"{config.lr / GENTLER:g}"
        options = ["--no-resume"] if config.resume else []
        options += ["--init", str(config.out), "--overwrite", "--lr", rate]
        if config.final_lr > float(rate):
            options += ["--final-lr", rate]
        return DivergedError(step, problem, (config.out, self._written), _typed(options))

    def _save_net(self, learner: TrainingStep, course: Course) -> None:
        if self._process.is_main:
            save_checkpoint(self._config.out, self.checkpoint(learner, course))
        self._written = course.step

    def _state(self, learner: TrainingStep, course: Course) -> TrainingState:
        return TrainingState(
            config=as_plain(self._config),
            inputs=self._fingerprints,
            step=course.step,
            seconds=course.seconds,
            net=learner.net.state_dict(),
            average=learner.average.state_dict(),
            optimizer=learner.optimizer.state_dict(),
            losses=dataclasses.asdict(course.losses),
        )

    def _find_earlier(self) -> None:
        path, out = self._config.state_path, self._config.out
        if path.exists():
            state = load_state(path)
            self._fingerprints = self._fingerprints_beside(state.inputs)
            refuse_differences(path, self._config, self._fingerprints, (state.config, state.inputs))
            self._earlier = state
        elif out.exists():  # all is done and must not be done again
            record = load_checkpoint(out).record
            theirs: dict[str, Any] = record.get("inputs", {})
            self._fingerprints = self._fingerprints_beside(theirs)
            refuse_differences(out, self._config, self._fingerprints, (record.get("config", {}), theirs))
            self._done_before = True

    def _fingerprints_beside(self, theirs: dict[str, str]) -> dict[str, str]:
        """Ours, to compare with those of a run before; it has replaced the net to start from where that was ``out``."""
        replaced = theirs.get(NET_TO_START_FROM) if self._config.starts_from_out else None
        ours = self._inputs.fingerprints
        return ours | {NET_TO_START_FROM: replaced} if replaced else ours


def _typed(words: Sequence[str]) -> str:
    """As one types them into this system's shell."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def _device_name(process: Process) -> str:
    name = torch.cuda.get_device_name(process.device) if process.device.type == "cuda" else platform.machine()
    return f"{process.world} × {name}" if process.world > 1 else name
