"""torchrun's environment -> rank, world, device."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from nst_common.errors import UserError
from nst_train.errors import CannotJoinError, ConnectionLostError, DeviceMissingError


@dataclass(frozen=True)
class Process:
    """One of ``world`` processes that train together; alone without torchrun."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def is_main(self) -> bool:
        """Rank 0 writes files and reports; the others only compute."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """The mean of ``values`` over all processes, the same bits in each of them."""
        if self.world > 1:
            dist.all_reduce(values)
            values /= self.world
        return values

    def main_alone(self, work: Callable[[], None]) -> None:
        """Runs ``work`` in rank 0, while the others wait; where it fails they end too, with its exit code.

        Raises:
            UserError: in rank 0, whatever ``work`` raised.
            SystemExit: in the others.
        """
        failure: UserError | None = None
        if self.is_main:
            try:
                work()
            except UserError as error:
                failure = error
        code = torch.tensor([failure.exit_code if failure else 0], device=self.device)
        if self.world > 1:
            dist.broadcast(code, src=0)
        if failure is not None:
            raise failure
        if code.item():
            sys.exit(int(code.item()))


@contextmanager
def join_processes(device: str = "auto") -> Iterator[Process]:
    """This process among those that torchrun started, or alone; gloo connects CPUs, NCCL GPUs.

    The connection's threads end with the block, or with the last DistributedDataParallel that was made in it.

    Args:
        device: ``auto`` (a GPU where there is one), ``cpu`` or ``cuda``.

    Raises:
        DeviceMissingError: no such device.
        CannotJoinError: the processes do not find each other.
        ConnectionLostError: one of the others ended before the block did.
    """
    rank, world, local = _place_among_processes()
    chosen = _choose_device(device, local)
    if world == 1:
        yield Process(chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    _import_what_would_keep_the_group()
    try:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", rank=rank, world_size=world)
    except (ValueError, RuntimeError) as error:
        raise CannotJoinError(rank, world, str(error)) from error
    try:
        yield Process(chosen, rank, world)
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):  # gloo's errors have no class of their own
            raise ConnectionLostError(rank, world) from error
        raise
    finally:
        dist.destroy_process_group()


def _import_what_would_keep_the_group() -> None:
    """DistributedDataParallel's late import, done before there is a group.

    The functions in there take the default group of the moment as a default argument. A group held like that outlives
    ``destroy_process_group``, its threads run on, and one that lets go of a tensor after Python has ended aborts the
    process.
    """
    import torch.distributed.nn.functional  # noqa: F401, PLC0415  (a training alone does without it)


_TORCHRUN = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}


def _place_among_processes() -> tuple[int, int, int]:
    """Rank, number of processes, and rank among those on this machine."""
    given = {name: os.environ.get(name, alone) for name, alone in _TORCHRUN.items()}
    try:
        rank, world, local = (int(value) for value in given.values())
    except ValueError as error:
        raise CannotJoinError(given["RANK"], given["WORLD_SIZE"], str(error)) from error
    return rank, world, local


def _choose_device(device: str, local_rank: int) -> torch.device:
    count = torch.cuda.device_count()
    if device == "cpu" or (device == "auto" and not count):
        return torch.device("cpu")
    if not count:
        raise DeviceMissingError(device, f"PyTorch {torch.__version__} finds no GPU")
    if local_rank >= count:
        raise DeviceMissingError(device, f"process {local_rank} has no GPU of its own, {count} found")
    return torch.device("cuda", local_rank)
