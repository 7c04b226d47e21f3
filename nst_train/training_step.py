"""What one step does to a net in training, and the same as a CUDA graph."""

import copy
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nst_train.allocator import ran_out_of_memory
from nst_train.config import TrainConfig
from nst_train.distributed import Process
from nst_train.errors import CannotCompileError
from nst_train.fast_forms import use_fast_forms
from nst_train.objective import ObjectiveValue, PerceptualObjective
from nst_train.training_inputs import weights_to_start_from
from nst_train.transform_net import TransformNet

Placed = TypeVar("Placed", bound=nn.Module)

CAPTURE_WARM_UP = 3  # steps before a capture: libraries choose their kernels and make their workspaces in them


class Step(Protocol):
    """Trains once on ``crops``, uint8 ``[N, 3, crop, crop]``, RGB, with that rate and that decay of the average.

    Returns float32 ``[6]`` on the device, of this process's crops: the terms of ObjectiveValue, the weighted sum last,
    and the norm of the whole gradient before clipping. It may still be computed when the call returns.
    """

    def __call__(self, crops: Tensor, rate: float, decay: float) -> Tensor: ...


class TrainingStep:
    """A net, the running average of its weights, its optimizer and its objective.

    Args:
        config: everything about the training; its ``precision`` is no longer ``auto``.
        process: where the step runs, and with how many others.
        objective: on the CPU.

    Attributes:
        net: the net that learns.
        average: the same with the averaged weights, in evaluation mode.
        objective: on the device.
        optimizer: Adam.

    Raises:
        UserError: whatever is wrong with the net to start from.
    """

    def __init__(self, config: TrainConfig, process: Process, objective: PerceptualObjective) -> None:
        self._config, self._process = config, process
        use_fast_forms(objective)
        self.objective = self._place(objective)
        self.net = self._place(_first_net(config)).train()
        self.average = copy.deepcopy(self.net).requires_grad_(False).eval()
        self._parameters: list[Tensor] = list(self.net.parameters())
        self._averages: list[Tensor] = list(self.average.parameters())
        # On the device where a graph is to read them: what a graph was captured with as numbers stays as it was.
        self._rate, self._keep_less = (torch.zeros((), device=process.device) for _ in range(2))
        on_gpu = process.device.type == "cuda"
        captured = on_gpu and process.world == 1
        self.optimizer = torch.optim.Adam(
            self._parameters, lr=self._rate if on_gpu else config.lr, fused=True, capturable=captured
        )
        wrapped: nn.Module = self.net
        self._targets: Callable[..., dict[str, Tensor]] = self.objective.targets
        self._compare: Callable[..., ObjectiveValue] = self.objective.forward
        if config.compile:
            wrapped = cast("nn.Module", torch.compile(wrapped, dynamic=False))
            self._targets = torch.compile(self._targets, dynamic=False)
            self._compare = torch.compile(self._compare, dynamic=False)
        self.wrapped = DistributedDataParallel(wrapped) if process.world > 1 else wrapped

    @property
    def memory_format(self) -> torch.memory_format:
        """Of pictures and of the convolutions' weights."""
        return torch.channels_last if self._config.channels_last else torch.contiguous_format

    def __call__(self, crops: Tensor, rate: float, decay: float) -> Tensor:
        """See Step."""
        self.set(rate, decay)
        return self.run(crops.to(self._process.device))

    def set(self, rate: float, decay: float) -> None:
        """The rate and the decay that ``run`` takes."""
        self._keep_less.fill_(1.0 - decay)
        self._rate.fill_(rate)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate if self._rate.is_cuda else rate

    def run(self, crops: Tensor) -> Tensor:
        """The step itself, without a wait for the device; ``crops`` lie on it."""
        value = self._losses_of(crops.to(dtype=torch.float32, memory_format=self.memory_format))
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(value.total)
        norm = nn.utils.clip_grad_norm_(self._parameters, self._config.grad_clip or math.inf)
        self.optimizer.step()
        self._update_average()
        return torch.stack([part.detach().float() for part in (*value, norm)])

    def load(self, net: Mapping[str, Any], average: Mapping[str, Any], optimizer: Mapping[str, Any]) -> None:
        """Takes over the state dicts of a TrainingStep, also of one on another kind of device."""
        self.net.load_state_dict(net)
        self.average.load_state_dict(average)
        capturable = self.optimizer.defaults["capturable"]
        self.optimizer.load_state_dict(dict(optimizer))
        for group in self.optimizer.param_groups:
            group["capturable"] = capturable  # the other device's would keep a GPU from capturing this one's step

    def is_finite(self) -> bool:
        """Whether every weight of the average is a finite number; waits for the device."""
        return all(bool(value.isfinite().all()) for value in self._averages)

    def state_tensors(self) -> list[Tensor]:
        """Everything that ``run`` changes, as far as it is there yet: Adam makes its own in the first step."""
        of_adam = [value for state in self.optimizer.state.values() for value in state.values()]
        return [*self._parameters, *self._averages, *of_adam]

    def _losses_of(self, content: Tensor) -> ObjectiveValue:
        """Of the net's output for ``content``, float ``[N, 3, crop, crop]``, 0..255."""
        with torch.autocast(content.device.type, torch.bfloat16, enabled=self._config.precision == "bf16"):
            try:
                targets = self._targets(content)
                return self._compare(self.wrapped(content), targets)
            except RuntimeError as error:
                if not self._config.compile or ran_out_of_memory(error):
                    raise
                raise CannotCompileError(str(error)) from error

    @torch.no_grad()
    def _update_average(self) -> None:
        moved = torch._foreach_sub(self._parameters, self._averages)
        torch._foreach_mul_(moved, self._keep_less)
        torch._foreach_add_(self._averages, moved)

    def _place(self, module: Placed) -> Placed:
        return module.to(self._process.device).to(memory_format=self.memory_format)


class CapturedStep:
    """A TrainingStep on a GPU as one CUDA graph: the processor launches once instead of some two thousand times.

    The net is as it was after construction; from then on only calls may change it. No other thread may use the GPU
    during the construction.

    Args:
        step: alone, not one of several processes'.
        count, side: of the crops: uint8 ``[count, 3, side, side]``.
    """

    def __init__(self, step: TrainingStep, count: int, side: int) -> None:
        self._step = step
        device = next(step.net.parameters()).device
        noise = torch.Generator(device).manual_seed(0)
        self._crops = torch.randint(256, (count, 3, side, side), dtype=torch.uint8, device=device, generator=noise)
        before = [value.detach().clone() for value in step.state_tensors()]
        step.set(0.0, 1.0)
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")  # it will be
            for _ in range(CAPTURE_WARM_UP):
                step.run(self._crops)
        torch.cuda.current_stream(device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._values = step.run(self._crops)
        step.optimizer.zero_grad(set_to_none=True)  # replays need the graph's memory, and nothing else may hold it
        _restore(step.state_tensors(), before)

    def __call__(self, crops: Tensor, rate: float, decay: float) -> Tensor:
        """See Step."""
        self._step.set(rate, decay)
        self._crops.copy_(crops, non_blocking=True)
        self._graph.replay()
        return self._values.clone()


@torch.no_grad()
def _restore(tensors: list[Tensor], before: list[Tensor]) -> None:
    """In place; what was not there before was zero."""
    for number, tensor in enumerate(tensors):
        if number < len(before):
            tensor.copy_(before[number])
        else:
            tensor.zero_()


def _first_net(config: TrainConfig) -> TransformNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net = TransformNet(config.net)
    if config.init is not None:
        net.load_state_dict(weights_to_start_from(config.init, config.net))
    use_fast_forms(net)
    return net
