"""The training loop: one feed-forward net per style, after Johnson, Alahi & Fei-Fei 2016; prints nothing."""

import copy
import dataclasses
import hashlib
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nst_common import package_version
from nst_train.allocator import keep_freed_memory
from nst_train.checkpoints import Checkpoint, file_sha256, load_checkpoint, save_checkpoint
from nst_train.config import TrainConfig, as_plain, differences
from nst_train.data import CropLoader, CropPlan, PictureStore, find_pictures, load_style
from nst_train.distributed import Process, join_processes
from nst_train.errors import (
    BatchNotDivisibleError,
    DivergedError,
    InitMismatchError,
    ResumeMismatchError,
    UnfinishedRunError,
)
from nst_train.fast_forms import use_fast_forms
from nst_train.objective import PerceptualObjective
from nst_train.training_state import TrainingState, load_state, save_state
from nst_train.transform_net import TransformNet, TransformNetConfig

Module = TypeVar("Module", bound=nn.Module)

LOSS_ROWS = 200  # of the training record
SMOOTHING = 0.98  # of the loss that is watched for divergence: about the last 50 steps
DIVERGED = 5.0  # times the least smoothed loss; good trainings stay within a few tenths of it


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


def learning_rate(config: TrainConfig, step: int) -> float:
    """Of the step after ``step`` finished ones: grows linearly over ``warmup`` steps, then falls linearly to
    ``final_lr`` at the last one. A function of the step alone, so that interruptions leave no trace."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    last = config.steps - 1
    progress = (step - config.warmup) / max(last - config.warmup, 1)
    return config.lr + (config.final_lr - config.lr) * min(progress, 1.0)


def average_decay(config: TrainConfig, step: int) -> float:
    """Decay of the running average of the weights; shorter at first, when the first weights are still in it."""
    return min(config.ema, (1 + step) / (10 + step))


class Trainer:
    """A training that can be walked through step by step, stopped and resumed.

    Args:
        config: everything about it.
        process: this process among those that train together.

    Raises:
        UserError: whatever is wrong with the pictures, the VGG file, or the state to resume from.
    """

    def __init__(self, config: TrainConfig, process: Process) -> None:
        if config.batch % process.world:
            raise BatchNotDivisibleError(config.batch, process.world)
        self.config = dataclasses.replace(config, precision=_precision(config, process.device))
        self.process = process
        self.step = 0
        self._stop = False
        self._finished_before = False
        self._state_written = False
        self._seconds = 0.0
        self._losses: list[list[float]] = []
        self._pending = [0.0] * 5
        self._smoothed = [math.nan, math.inf]
        paths = find_pictures(config.content, config.exclude)
        self._inputs = _fingerprints(config, paths)
        earlier = self._state_to_resume()
        self.pictures = _store(config, paths, process.device)
        plan = CropPlan(config.seed, config.batch, config.crop, config.max_scale, config.flip)
        self._loader = CropLoader(self.pictures, plan, rank=process.rank, world=process.world, workers=config.workers)
        objective = PerceptualObjective(
            config.objective, load_style(config.style, config.style_size), vgg_weights=config.vgg_weights
        )
        self._objective = self._place(objective)
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
            net.load_state_dict(_weights_to_start_from(self.config.init, self.config.net))
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
        """
        config = self.config
        started, before = time.monotonic(), self._seconds
        deadline = math.inf if config.max_minutes is None else started + 60 * config.max_minutes
        for crops in self._loader.batches(self.step, config.steps):
            stop = self._stop or time.monotonic() >= deadline
            report, everyone_goes_on = self._train_on(crops, stop)
            self._seconds = before + time.monotonic() - started
            due = self.step % config.checkpoint_every == 0 or self.step == config.steps
            if due or not everyone_goes_on:
                self.save()
            yield dataclasses.replace(report, seconds=self._seconds)
            if not everyone_goes_on:
                return

    def stop(self) -> None:
        """Ends ``steps`` with a checkpoint after the step that is under way; safe in a signal handler."""
        self._stop = True

    @property
    def finished(self) -> bool:
        return self.step == self.config.steps

    def _train_on(self, crops: Tensor, stop: bool) -> tuple[StepReport, bool]:
        """One step; ``crops`` is uint8 ``[batch / world, 3, crop, crop]``. Also whether no process wants to stop."""
        config, device = self.config, self.process.device
        content = crops.to(device).to(dtype=torch.float32, memory_format=self._memory_format)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            targets = self._objective.targets(content)
            value = self._objective(self._wrapped(content), targets)
        self._optimizer.zero_grad(set_to_none=True)
        value.total.backward()
        grad_norm = nn.utils.clip_grad_norm_(self._parameters, config.grad_clip or math.inf)
        shared = torch.stack([part.detach().float() for part in value] + [torch.tensor(float(stop), device=device)])
        content_loss, style_loss, variation, total, stops = self.process.mean(shared).tolist()
        self._check(total, float(grad_norm))
        lr = learning_rate(config, self.step)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        self._update_average()
        self.step += 1
        self._note((content_loss, style_loss, variation, total))
        report = StepReport(self.step, content_loss, style_loss, variation, total, lr, float(grad_norm), 0.0)
        return report, stops == 0.0

    @torch.no_grad()
    def _update_average(self) -> None:
        weight = 1.0 - average_decay(self.config, self.step)
        for average, current in zip(self._average.parameters(), self._parameters, strict=True):
            average.lerp_(current, weight)

    def _check(self, total: float, grad_norm: float) -> None:
        """Before the weights change: is this step's loss one of a healthy training?"""
        if not math.isfinite(total) or not math.isfinite(grad_norm):
            raise self._diverged(f"the loss is {total:g} and the norm of its gradient {grad_norm:g}")
        smoothed, least = self._smoothed
        smoothed = total if math.isnan(smoothed) else SMOOTHING * smoothed + (1 - SMOOTHING) * total
        if smoothed > DIVERGED * least:
            raise self._diverged(f"the loss rose to {smoothed:.3g} after it had been {least:.3g}")
        self._smoothed = [smoothed, min(least, smoothed)]

    def _diverged(self, problem: str) -> DivergedError:
        kept = f"the checkpoint in {self.config.state_path} stays" if self._state_written else "nothing was written yet"
        return DivergedError(self.step + 1, problem, kept)

    def _note(self, losses: Sequence[float]) -> None:
        """Gathers the loss curve for the record, in about LOSS_ROWS rows."""
        self._pending = [a + b for a, b in zip(self._pending, (1.0, *losses), strict=True)]
        if self.step % math.ceil(self.config.steps / LOSS_ROWS) == 0 or self.finished:
            count, *sums = self._pending
            self._losses.append([float(self.step), *(total / count for total in sums)])
            self._pending = [0.0] * 5

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
            "inputs": self._inputs,
            "step": self.step,
            "seconds": self._seconds,
            "losses": self._losses,
            "device": _device_name(self.process),
            "versions": {
                "nst": package_version(),
                "torch": str(torch.__version__),
                "python": platform.python_version(),
            },
        }
        return Checkpoint(self.config.net, state, self.config.out.stem, record=record)

    def _state(self) -> TrainingState:
        return TrainingState(
            config=as_plain(self.config),
            inputs=self._inputs,
            step=self.step,
            seconds=self._seconds,
            net=self._net.state_dict(),
            average=self._average.state_dict(),
            optimizer=self._optimizer.state_dict(),
            losses=self._losses,
            pending=self._pending,
            smoothed=self._smoothed,
        )

    def _state_to_resume(self) -> TrainingState | None:
        path = self.config.state_path
        if not self.config.resume:
            if path.exists():
                raise UnfinishedRunError(path)
            return None
        for stale in path.parent.glob(f".{path.name}.*.part"):  # of a run that was killed while writing
            stale.unlink(missing_ok=True)
        if path.exists():
            state = load_state(path)
            self._refuse_differences(path, state.config, state.inputs)
            return state
        self._recognise_finished()
        return None

    def _recognise_finished(self) -> None:
        """Nothing to resume: either nothing was written yet, or all is done and must not be done again."""
        if self.config.out.exists():
            record = load_checkpoint(self.config.out).record
            self._refuse_differences(self.config.out, record.get("config", {}), record.get("inputs", {}))
            self.step = self.config.steps

    def _refuse_differences(self, path: Path, config: dict[str, Any], inputs: dict[str, str]) -> None:
        found = differences(self.config, config)
        found += [f"the {name} is another one" for name, sha in self._inputs.items() if inputs.get(name) != sha]
        if found:
            raise ResumeMismatchError(path, "; ".join(found))

    def _restore(self, state: TrainingState) -> None:
        self._net.load_state_dict(state.net)
        self._average.load_state_dict(state.average)
        self._optimizer.load_state_dict(state.optimizer)
        self.step, self._seconds = state.step, state.seconds
        self._losses, self._pending, self._smoothed = state.losses, state.pending, state.smoothed
        self._state_written = True

    @torch.no_grad()
    def stylize(self, picture: Tensor) -> Tensor:
        """uint8 ``[3, H, W]`` -> the same shape, by the averaged weights so far."""
        content = picture[None].to(self.process.device).float().contiguous(memory_format=self._memory_format)
        styled: Tensor = self._average(content)[0]
        return styled.round().to(torch.uint8).cpu()


def fit(config: TrainConfig, watch: Callable[[StepReport], object] | None = None) -> Checkpoint:
    """Trains as ``config`` says, alone or among the processes that torchrun started, and writes ``config.out``.

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


def _precision(config: TrainConfig, device: torch.device) -> Any:
    if config.precision != "auto":
        return config.precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() and torch.cpu._is_avx512_bf16_supported() else "fp32"


def _store(config: TrainConfig, paths: Sequence[Path], device: torch.device) -> PictureStore:
    # Twice the crop leaves the largest window its detail, and keeps crops of large photographs from being mere texture.
    short_side = round(2 * config.crop)
    return PictureStore(paths, short_side=short_side, budget=config.cache_mib << 20, device=device)


def _fingerprints(config: TrainConfig, paths: Sequence[Path]) -> dict[str, str]:
    """SHA-256 of what a training reads; photographs by name and size, so that folders may move."""
    listing = "\n".join(f"{path.name} {path.stat().st_size}" for path in paths)
    return {
        "style": file_sha256(config.style) if config.style.is_file() else "",
        "list of photographs": hashlib.sha256(listing.encode()).hexdigest(),
        "VGG file": file_sha256(config.vgg_weights) if config.vgg_weights and config.vgg_weights.is_file() else "",
        "net to start from": file_sha256(config.init) if config.init and config.init.is_file() else "",
    }


def _weights_to_start_from(path: Path, wanted: TransformNetConfig) -> dict[str, Tensor]:
    checkpoint = load_checkpoint(path)
    if checkpoint.config != wanted:
        mine, theirs = dataclasses.asdict(wanted), dataclasses.asdict(checkpoint.config)
        found = "; ".join(
            f"{name} is {theirs[name]}, asked for is {mine[name]}" for name in mine if mine[name] != theirs[name]
        )
        raise InitMismatchError(path, found)
    return checkpoint.build().state_dict()


def _device_name(process: Process) -> str:
    name = torch.cuda.get_device_name(process.device) if process.device.type == "cuda" else platform.machine()
    return f"{process.world} × {name}" if process.world > 1 else name
