"""The training loop: one feed-forward net per style, after Johnson, Alahi & Fei-Fei 2016; prints nothing."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from nst_train.allocator import keep_freed_memory
from nst_train.checkpoints import Checkpoint
from nst_train.config import Precision, TrainConfig
from nst_train.data import CropLoader, CropPlan, load_style
from nst_train.distributed import Process, join_processes
from nst_train.errors import BatchNotDivisibleError, DivergedError
from nst_train.objective import PerceptualObjective
from nst_train.pictures import check_folder
from nst_train.schedule import average_decay, learning_rate
from nst_train.training_files import TrainingFiles
from nst_train.training_inputs import find_inputs, open_photographs
from nst_train.training_step import CapturedStep, Step, TrainingStep

LOOK_EVERY = 20  # steps on a GPU; each look leaves it idle for a moment


@dataclass(frozen=True)
class StepReport:
    """One finished step; losses are means over the whole batch, before their weights (``total``: the weighted sum).

    Attributes:
        step: finished steps.
        lr: learning rate that the step took.
        grad_norm: of the whole gradient, before clipping.
        seconds: spent on this training, over all runs.
    """

    step: int
    content: float
    style: float
    total_variation: float
    grid: float
    total: float
    lr: float
    grad_norm: float
    seconds: float


class Trainer:
    """A training that can be walked through step by step, stopped and resumed.

    Args:
        config: everything about it.
        process: this process among those that train together.
        overwrite: begin anew, also beside an unfinished training; see TrainingFiles.

    Attributes:
        inputs: the files that it reads.
        pictures: the photographs, with those found unreadable so far.

    Raises:
        UserError: whatever is wrong with the pictures, the VGG file, the place to write to or the state to resume.
    """

    def __init__(self, config: TrainConfig, process: Process, *, overwrite: bool = False) -> None:
        if config.batch % process.world:
            raise BatchNotDivisibleError(config.batch, process.world)
        check_folder(config.out)
        self.config = dataclasses.replace(config, precision=_precision(config, process.device))
        self.process = process
        self._stop = False
        self.inputs = find_inputs(config)
        self._files = TrainingFiles(self.config, process, self.inputs, overwrite=overwrite)
        self.pictures = open_photographs(config, self.inputs, process.device)
        plan = CropPlan(config.seed, config.batch, config.crop, config.max_scale, config.flip)
        self._loader = CropLoader(self.pictures, plan, rank=process.rank, world=process.world, workers=config.workers)
        styles = load_style(config.style, config.style_size)
        objective = PerceptualObjective(config.objective, styles, vgg_weights=config.vgg_weights)
        if process.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # every step has the same shapes
            torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False  # Gram matrices are long sums
        self._learner = TrainingStep(self.config, process, objective)
        self._course = self._files.take_up(self._learner)

    # --- the loop ---------------------------------------------------------------------------------------------------

    def steps(self) -> Iterator[StepReport]:
        """Trains, and yields a report after each step; checkpoints are written on the way and at the end.

        Raises:
            DivergedError: the losses left the finite numbers or rose far; the last checkpoint stays.
            CannotWriteError: a full disk; the checkpoint before stays.
            CannotCompileError: torch.compile failed.
        """
        started, before = time.monotonic(), self._course.seconds
        deadline = math.inf if self.config.max_minutes is None else started + 60 * self.config.max_minutes
        with closing(self._loader.batches(self.step, self.config.steps)) as batches:
            for rows in self._bursts(batches, deadline):
                everyone_goes_on = all(row[-1] == 0.0 for row in rows)
                reports, failure = self._take_in([row[:-1] for row in rows])
                self._course.seconds = before + time.monotonic() - started
                is_due = self.finished or not everyone_goes_on or self.step % self.config.checkpoint_every == 0
                if failure is None and is_due:
                    self.save()
                for report in reports:
                    yield dataclasses.replace(report, seconds=self._course.seconds)
                if failure is not None:
                    raise failure
                if not everyone_goes_on:
                    return

    def _bursts(self, batches: Iterator[Tensor], deadline: float) -> Iterator[list[list[float]]]:
        """Trains, and looks at several steps at once: a Step's values for each, and whether any process wants to end.

        The caller takes them in, so that ``self.step`` is what was looked at.
        """
        config = self.config
        step, together = self._step()  # before the first batch: the loader's threads may use the GPU
        waiting: list[Tensor] = []  # values of steps that were begun and not yet looked at
        for crops in batches:
            number = self.step + len(waiting)
            values = step(crops, learning_rate(config, number), average_decay(config, number))
            stop = values.new_full((1,), float(self._stop or time.monotonic() >= deadline))
            waiting.append(self.process.mean(torch.cat([values, stop])))
            due = self._ends_burst(number + 1) or self._stop or time.monotonic() >= deadline
            if len(waiting) == together or due:
                rows: list[list[float]] = torch.stack(waiting).tolist()
                waiting.clear()
                yield rows

    def _ends_burst(self, step: int) -> bool:
        """Whether the weights after ``step`` are wanted, so that no step behind it may have changed them."""
        config = self.config
        sampled = config.sample_every > 0 and step % config.sample_every == 0
        return step == config.steps or step % config.checkpoint_every == 0 or sampled

    def stop(self) -> None:
        """Ends ``steps`` with a checkpoint after the step that is under way; safe in a signal handler."""
        self._stop = True

    @property
    def step(self) -> int:
        """Finished steps."""
        return self._course.step

    @property
    def finished(self) -> bool:
        """All steps are done."""
        return self.step == self.config.steps

    def _step(self) -> tuple[Step, int]:
        """What trains, and after how many steps their values are looked at: to look is to wait for the device."""
        config, learner = self.config, self._learner
        if self.process.device.type != "cuda" or self.process.world > 1 or self.finished:
            return learner, 1
        return CapturedStep(learner, config.batch, config.crop), LOOK_EVERY

    def _take_in(self, rows: Sequence[Sequence[float]]) -> tuple[list[StepReport], DivergedError | None]:
        """The reports of finished steps, up to the first that failed; each row is a Step's, of the whole batch."""
        reports: list[StepReport] = []
        for row in rows:
            try:
                reports.append(self._report(row))
            except DivergedError as failure:
                return reports, failure
        return reports, None

    def _report(self, values: Sequence[float]) -> StepReport:
        content, style, variation, grid, total, grad_norm = values
        course = self._course
        if problem := course.losses.problem(total, grad_norm):
            raise self._files.diverged(course.step + 1, problem)
        lr = learning_rate(self.config, course.step)
        course.step += 1
        course.losses.add(course.step, self.config.steps, (content, style, variation, grid, total))
        return StepReport(course.step, content, style, variation, grid, total, lr, grad_norm, 0.0)

    # --- what it leaves ---------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Writes ``out``, the averaged weights so far, and what a later ``--resume`` needs as long as steps are left.

        Raises:
            DivergedError: the weights left the finite numbers; nothing is written.
            CannotWriteError: an unwritable place or a full disk; older files stay as they were.
        """
        self._files.save(self._learner, self._course)

    def checkpoint(self) -> Checkpoint:
        """The net as it would be shipped now: averaged weights, and the record of how they came about."""
        return self._files.checkpoint(self._learner, self._course)

    @torch.no_grad()
    def stylize(self, picture: Tensor) -> Tensor:
        """uint8 ``[3, H, W]`` -> the same shape, by the averaged weights so far."""
        content = picture[None].to(self.process.device).float().contiguous(memory_format=self._learner.memory_format)
        styled: Tensor = self._learner.average(content)[0]
        return styled.round().to(torch.uint8).cpu()


def fit(config: TrainConfig, watch: Callable[[StepReport], object] | None = None) -> Checkpoint:
    """Trains as ``config`` says, alone or among the processes that torchrun started, and writes ``config.out``.

    From here on the process keeps freed memory for itself (see allocator.py).

    Args:
        watch: called after each step.

    Returns:
        The trained checkpoint, unfinished where ``max_minutes`` ended it before (``record["step"]`` tells).

    Raises:
        UserError: what a user can mend, with the remedy.
    """
    keep_freed_memory()
    with join_processes(config.device) as process:
        trainer = Trainer(config, process)
        for report in trainer.steps():
            if watch is not None:
                watch(report)
        return trainer.checkpoint()


def _precision(config: TrainConfig, device: torch.device) -> Precision:
    if config.precision != "auto":
        return config.precision
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:  # elsewhere oneDNN imitates bf16, slower than fp32
        native = any(torch.cpu.get_capabilities().get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    return "bf16" if native else "fp32"
