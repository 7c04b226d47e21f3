"""The training loop: one feed-forward net per style, after Johnson, Alahi & Fei-Fei 2016; prints nothing."""

import copy
import dataclasses
import math
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nst_common import package_version
from nst_train.allocator import keep_freed_memory
from nst_train.checkpoints import Checkpoint, load_checkpoint, save_checkpoint, style_of
from nst_train.config import Precision, TrainConfig, as_plain
from nst_train.data import CropLoader, CropPlan, load_style
from nst_train.distributed import Process, join_processes
from nst_train.errors import BatchNotDivisibleError, CannotCompileError, DivergedError, UnfinishedRunError
from nst_train.fast_forms import use_fast_forms
from nst_train.loss_curve import LossCurve
from nst_train.objective import ObjectiveValue, PerceptualObjective
from nst_train.pictures import check_folder
from nst_train.schedule import average_decay, learning_rate
from nst_train.training_inputs import find_inputs, open_photographs, weights_to_start_from
from nst_train.training_state import TrainingState, load_state, refuse_differences, remove_partial_files, save_state
from nst_train.transform_net import TransformNet

Module = TypeVar("Module", bound=nn.Module)


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
    total: float
    lr: float
    grad_norm: float
    seconds: float


class Trainer:
    """A training that can be walked through step by step, stopped and resumed.

    Args:
        config: everything about it.
        process: this process among those that train together.

    Attributes:
        inputs: the files that it reads.
        pictures: the photographs, with those found unreadable so far.
        step: finished steps.

    Raises:
        UserError: whatever is wrong with the pictures, the VGG file, the place to write to or the state to resume.
    """

    def __init__(self, config: TrainConfig, process: Process) -> None:
        if config.batch % process.world:
            raise BatchNotDivisibleError(config.batch, process.world)
        check_folder(config.out)
        self.config = dataclasses.replace(config, precision=_precision(config, process.device))
        self.process = process
        self.step = 0
        self._stop = False
        self._state_written = False
        self._seconds = 0.0
        self._losses = LossCurve()
        self.inputs = find_inputs(config)
        earlier = self._state_to_resume()
        self.pictures = open_photographs(config, self.inputs, process.device)
        plan = CropPlan(config.seed, config.batch, config.crop, config.max_scale, config.flip)
        self._loader = CropLoader(self.pictures, plan, rank=process.rank, world=process.world, workers=config.workers)
        styles = load_style(config.style, config.style_size)
        self._objective = self._place(PerceptualObjective(config.objective, styles, vgg_weights=config.vgg_weights))
        self._build_net()
        if earlier is not None:
            self._restore(earlier)

    @property
    def _memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.config.channels_last else torch.contiguous_format

    def _place(self, module: Module) -> Module:
        return module.to(self.process.device).to(memory_format=self._memory_format)

    def _build_net(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            net = TransformNet(self.config.net)
        if self.config.init is not None:
            net.load_state_dict(weights_to_start_from(self.config.init, self.config.net))
        use_fast_forms(net)
        self._net = self._place(net).train()
        self._average = copy.deepcopy(self._net).requires_grad_(False).eval()
        self._parameters = list(self._net.parameters())
        self._optimizer = torch.optim.Adam(self._parameters, lr=self.config.lr, fused=True)
        wrapped: nn.Module = self._net
        if self.config.compile:
            wrapped = cast("nn.Module", torch.compile(wrapped))
        self._wrapped = DistributedDataParallel(wrapped) if self.process.world > 1 else wrapped

    # --- the loop ---------------------------------------------------------------------------------------------------

    def steps(self) -> Iterator[StepReport]:
        """Trains, and yields a report after each step; checkpoints are written on the way and at the end.

        Raises:
            DivergedError: the losses left the finite numbers or rose far; the last checkpoint stays.
            CannotWriteError: a full disk; the checkpoint before stays.
            CannotCompileError: torch.compile failed.
        """
        config = self.config
        started, before = time.monotonic(), self._seconds
        deadline = math.inf if config.max_minutes is None else started + 60 * config.max_minutes
        for crops in self._loader.batches(self.step, config.steps):
            stop = self._stop or time.monotonic() >= deadline
            report, everyone_goes_on = self._train_on(crops, stop)
            self._seconds = before + time.monotonic() - started
            if self.finished or not everyone_goes_on or self.step % config.checkpoint_every == 0:
                self.save()
            yield dataclasses.replace(report, seconds=self._seconds)
            if not everyone_goes_on:
                return

    def stop(self) -> None:
        """Ends ``steps`` with a checkpoint after the step that is under way; safe in a signal handler."""
        self._stop = True

    @property
    def finished(self) -> bool:
        """All steps are done."""
        return self.step == self.config.steps

    def _train_on(self, crops: Tensor, stop: bool) -> tuple[StepReport, bool]:
        """One step; ``crops`` is uint8 ``[batch / world, 3, crop, crop]``. Also whether no process wants to stop."""
        config, device = self.config, self.process.device
        value = self._losses_of(crops.to(device).to(dtype=torch.float32, memory_format=self._memory_format))
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(value.total)
        grad_norm = float(nn.utils.clip_grad_norm_(self._parameters, config.grad_clip or math.inf))
        shared = [part.detach().float() for part in value] + [torch.tensor(float(stop), device=device)]
        content, style, variation, total, stops = self.process.mean(torch.stack(shared)).tolist()
        if problem := self._losses.problem(total, grad_norm):
            raise self._diverged(problem)
        lr = learning_rate(config, self.step)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        self._update_average()
        self.step += 1
        self._losses.add(self.step, config.steps, (content, style, variation, total))
        return StepReport(self.step, content, style, variation, total, lr, grad_norm, 0.0), stops == 0.0

    def _losses_of(self, content: Tensor) -> ObjectiveValue:
        """Of the net's output for ``content``, float ``[N, 3, crop, crop]``, 0..255."""
        with torch.autocast(content.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            targets = self._objective.targets(content)
            try:
                styled = self._wrapped(content)
            except RuntimeError as error:
                if not self.config.compile:
                    raise
                raise CannotCompileError(str(error)) from error
            return cast("ObjectiveValue", self._objective(styled, targets))

    @torch.no_grad()
    def _update_average(self) -> None:
        weight = 1.0 - average_decay(self.config, self.step)
        for average, current in zip(self._average.parameters(), self._parameters, strict=True):
            average.lerp_(current, weight)

    def _diverged(self, problem: str) -> DivergedError:
        kept = f"the checkpoint in {self.config.state_path} stays" if self._state_written else "nothing was written yet"
        return DivergedError(self.step + 1, problem, kept)

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Writes ``out``, the averaged weights so far, and what a later ``--resume`` needs as long as steps are left.

        Raises:
            CannotWriteError: an unwritable place or a full disk; older files stay as they were.
        """
        if not self.process.is_main:
            return
        if not self.finished:
            save_state(self.config.state_path, self._state())
        self._state_written = True
        save_checkpoint(self.config.out, self.checkpoint())
        if self.finished:
            self.config.state_path.unlink(missing_ok=True)

    def checkpoint(self) -> Checkpoint:
        """The net as it would be shipped now: averaged weights, and the record of how they came about."""
        state = {name: value.detach().cpu().contiguous().clone() for name, value in self._average.state_dict().items()}
        record = {
            "config": as_plain(self.config, folders=False),
            "inputs": self.inputs.fingerprints,
            "photographs": len(self.inputs.photographs),
            "step": self.step,
            "seconds": self._seconds,
            "losses": self._losses.rows,
            "device": _device_name(self.process),
            "versions": {
                "nst": package_version(),
                "torch": str(torch.__version__),
                "python": platform.python_version(),
            },
        }
        return Checkpoint(self.config.net, state, style_of(self.config.out), record=record)

    def _state(self) -> TrainingState:
        return TrainingState(
            config=as_plain(self.config),
            inputs=self.inputs.fingerprints,
            step=self.step,
            seconds=self._seconds,
            net=self._net.state_dict(),
            average=self._average.state_dict(),
            optimizer=self._optimizer.state_dict(),
            losses=dataclasses.asdict(self._losses),
        )

    def _state_to_resume(self) -> TrainingState | None:
        path, out = self.config.state_path, self.config.out
        if path.exists() and not self.config.resume:
            raise UnfinishedRunError(path)
        if self.process.is_main:
            remove_partial_files(path, out)
        if not self.config.resume:
            return None
        if path.exists():
            state = load_state(path)
            refuse_differences(path, self.config, self.inputs.fingerprints, (state.config, state.inputs))
            return state
        if out.exists():  # all is done and must not be done again
            record = load_checkpoint(out).record
            theirs = (record.get("config", {}), record.get("inputs", {}))
            refuse_differences(out, self.config, self.inputs.fingerprints, theirs)
            self.step = self.config.steps
        return None

    def _restore(self, state: TrainingState) -> None:
        self._net.load_state_dict(state.net)
        self._average.load_state_dict(state.average)
        self._optimizer.load_state_dict(state.optimizer)
        self.step, self._seconds = state.step, state.seconds
        self._losses = LossCurve(**state.losses)
        self._state_written = True

    @torch.no_grad()
    def stylize(self, picture: Tensor) -> Tensor:
        """uint8 ``[3, H, W]`` -> the same shape, by the averaged weights so far."""
        content = picture[None].to(self.process.device).float().contiguous(memory_format=self._memory_format)
        styled: Tensor = self._average(content)[0]
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


def _device_name(process: Process) -> str:
    name = torch.cuda.get_device_name(process.device) if process.device.type == "cuda" else platform.machine()
    return f"{process.world} × {name}" if process.world > 1 else name
