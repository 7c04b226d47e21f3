"""The ways to run one net on a GPU that benchmarks/gpu.py compares, each in a process of its own.

A lane that cannot run says why, and takes no other one with it: not even where its process dies.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Engine = Literal["eager", "compile", "onnxruntime", "tensorrt", "rtx"]
Graph = Literal["pytorch", "naive", "nst"]

WARM = 10  # runs before anything is timed
PATIENCE = 1800  # s for one lane at one size: max-autotune and large builds take their time
CPU_DEVICE = "cpu"  # for trying the benchmark itself without a GPU


@dataclass(frozen=True)
class GpuLane:
    """One row of the table.

    Attributes:
        engine: what runs it.
        graph: whose graph it is: PyTorch's own modules, what torch.onnx.export makes of them, or what nst-export makes.
        precision: of weights and activations.
        cuda_graph: run as one.
    """

    engine: Engine
    graph: Graph
    precision: Literal["fp32", "fp16"] = "fp16"
    cuda_graph: bool = False

    @property
    def name(self) -> str:
        return f"{self.engine} {self.graph} {self.precision}" + (" cuda-graph" if self.cuda_graph else "")

    def file(self, size: tuple[int, int], batch: int) -> str:
        """Name of its model in the work folder."""
        if self.graph == "pytorch":
            return "pytorch.pt"
        if self.engine in ("tensorrt", "rtx"):
            many = "" if batch == 1 else ".many"
            return f"{self.graph}{many}" + (".rtx.plan" if self.engine == "rtx" else ".plan")
        static = f".{size[0]}x{size[1]}" if self.cuda_graph else ""  # ONNX Runtime captures static sizes alone
        return f"{self.graph}.{self.precision}{static}.onnx"


LANES = (
    GpuLane("eager", "pytorch", "fp32"),
    GpuLane("eager", "pytorch"),
    GpuLane("compile", "pytorch"),
    *(
        GpuLane("onnxruntime", graph, cuda_graph=captured)
        for graph, captured in (("naive", False), ("nst", False), ("nst", True))
    ),
    *(
        GpuLane(engine, graph, cuda_graph=captured)
        for engine in ("tensorrt", "rtx")
        for graph in ("naive", "nst")
        for captured in (False, True)
    ),
)


class Runner(Protocol):
    """A lane, opened. ``enqueue`` runs what was loaded, from device memory to device memory."""

    def load(self, images: Pixels) -> None: ...
    def enqueue(self) -> None: ...
    def styled(self) -> Pixels: ...
    def host(self, images: Pixels) -> Pixels:
        """From and to the host's memory."""
        ...


class TorchRunner:
    """PyTorch's defaults with cudnn.benchmark and channels_last."""

    def __init__(self, model: Path, lane: GpuLane, device: str) -> None:
        import torch

        from nst_deploy.export.deployable import DeployableNet
        from nst_train.transform_net import TransformNet, TransformNetConfig

        torch.backends.cudnn.benchmark = True
        content = torch.load(model, weights_only=True)
        net = TransformNet(TransformNetConfig(**content["config"]))
        net.load_state_dict(content["state"])
        dtype = torch.float32 if lane.precision == "fp32" else torch.float16
        net = net.to(device=device, dtype=dtype, memory_format=torch.channels_last)
        deployable: Any = DeployableNet(net, dtype).eval()
        self._net = torch.compile(deployable, mode="max-autotune") if lane.engine == "compile" else deployable
        self._torch, self._device = torch, device

    def load(self, images: Pixels) -> None:
        self._images = self._torch.from_numpy(images).to(self._device)

    def enqueue(self) -> None:
        with self._torch.inference_mode():
            self._styled = self._net(self._images)

    def styled(self) -> Pixels:
        pixels: Pixels = self._styled.cpu().numpy()
        return pixels

    def host(self, images: Pixels) -> Pixels:
        self.load(images)
        self.enqueue()
        return self.styled()


class BackendRunner:
    """nst's runtime, with a graph of ours or the naive one."""

    def __init__(self, model: Path, lane: GpuLane) -> None:
        import torch

        from nst_deploy.runtime.backend import open_backend

        self._torch = torch
        device = "cuda" if lane.engine == "onnxruntime" else "tensorrt"
        self._backend: Any = open_backend(model, device, cuda_graph=lane.cuda_graph, cache=False)
        # ONNX Runtime replays its graph with the pictures of its own, which run() fills: see OrtGpuBackend.
        self._through_host = lane.engine == "onnxruntime" and lane.cuda_graph

    def load(self, images: Pixels) -> None:
        self._host_images = images
        self._images = self._torch.from_numpy(images).cuda()
        self._styled = self._torch.empty_like(self._images)
        self._torch.cuda.synchronize()

    def enqueue(self) -> None:
        if self._through_host:
            self._host_styled = self._backend.run(self._host_images)
        else:
            stream = self._torch.cuda.current_stream()
            self._backend.run_device(self._images, stream=stream, out=self._styled)

    def styled(self) -> Pixels:
        pixels: Pixels = self._host_styled if self._through_host else self._styled.cpu().numpy()
        return pixels

    def host(self, images: Pixels) -> Pixels:
        pixels: Pixels = self._backend.run(images)
        return pixels


class Clock(Protocol):
    """What times a lane."""

    def seconds(self, work: Callable[[], None]) -> tuple[float, float]:
        """Until it is done, and until the call returns."""
        ...

    def used_memory(self) -> int:
        """Bytes of the device, by all that is on it."""
        ...


class CudaClock:
    """CUDA events round the work, on a stream that is not the default one."""

    def __init__(self) -> None:
        import torch

        self._torch = torch
        torch.cuda.set_stream(torch.cuda.Stream())
        self._start, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def seconds(self, work: Callable[[], None]) -> tuple[float, float]:
        self._torch.cuda.synchronize()
        called = time.perf_counter()
        self._start.record()
        work()
        self._end.record()
        returned = time.perf_counter() - called
        self._end.synchronize()
        return self._start.elapsed_time(self._end) / 1e3, returned

    def used_memory(self) -> int:
        free, total = self._torch.cuda.mem_get_info()
        return int(total - free)


class CpuClock:
    """Wall time, for trying the benchmark itself."""

    def seconds(self, work: Callable[[], None]) -> tuple[float, float]:
        started = time.perf_counter()
        work()
        seconds = time.perf_counter() - started
        return seconds, seconds

    def used_memory(self) -> int:
        return 0


@dataclass(frozen=True)
class Task:
    """What one process is for.

    Attributes:
        size: (H, W) in px.
        batches: pictures at once; the first counts for everything but the best batch.
        device: ``cuda``, or CPU_DEVICE.
    """

    lane: GpuLane
    folder: str
    image: str  # .npy of uint8 [1, H, W, 3]
    styled: str  # .npy to be written, the same
    size: tuple[int, int]
    batches: tuple[int, ...]
    runs: int
    device: str = "cuda"


def measure_apart(task: Task) -> dict[str, Any]:
    """``measure`` in a process of its own; the reason under ``not_run`` where that fails, however it fails."""
    return run_apart(measure, task)


def run_apart(work: Callable[..., dict[str, Any]], *arguments: object) -> dict[str, Any]:
    """What ``work`` returns in a process of its own, or why it did not, under ``not_run``."""
    context = multiprocessing.get_context("spawn")
    near, far = context.Pipe()
    process = context.Process(target=_serve, args=(far, work, arguments), daemon=True)
    process.start()
    far.close()
    try:
        row: dict[str, Any] = near.recv() if near.poll(PATIENCE) else {"not_run": f"no answer in {PATIENCE} s"}
    except EOFError:
        process.join(10)
        row = {"not_run": f"its process ended with code {process.exitcode}"}
    finally:
        process.kill()
        process.join()
    return row


def _serve(pipe: Connection, work: Callable[..., dict[str, Any]], arguments: tuple[object, ...]) -> None:
    try:
        pipe.send(work(*arguments))
    except Exception as error:  # noqa: BLE001  (whatever a runtime raises is why this was not run)
        pipe.send({"not_run": f"{type(error).__name__}: {error}".split("\n")[0]})


def measure(task: Task) -> dict[str, Any]:
    """One lane at one size; times in ms for each picture, memory in bytes."""
    clock: Clock = CpuClock() if task.device == CPU_DEVICE else CudaClock()
    image: Pixels = np.load(task.image)
    before = clock.used_memory()
    runner = open_lane(task, task.batches[0])
    row = _time_batch(runner, clock, np.repeat(image, task.batches[0], 0), task.runs)
    np.save(task.styled, runner.styled()[:1])
    row["device_bytes"] = clock.used_memory() - before
    row["batches"] = {str(task.batches[0]): row["ms"], **_other_batches(task, clock, image)}
    timed = {batch: ms for batch, ms in row["batches"].items() if isinstance(ms, float)}
    row["best_batch"] = int(min(timed, key=lambda batch: timed[batch]))
    row["best_ms"] = timed[str(row["best_batch"])]
    return row


def _other_batches(task: Task, clock: Clock, image: Pixels) -> dict[str, float | str]:
    """ms for each picture by their number at once; why not, where that many do not run."""
    found: dict[str, float | str] = {}
    if len(task.batches) > 1:
        try:
            runner = open_lane(task, task.batches[-1])
            for batch in task.batches[1:]:
                found[str(batch)] = _time_batch(runner, clock, np.repeat(image, batch, 0), task.runs)["ms"]
        except Exception as error:  # noqa: BLE001  (most often the memory; what was measured stands)
            found["beyond"] = f"{type(error).__name__}: {error}".split("\n")[0]
    return found


def _time_batch(runner: Runner, clock: Clock, images: Pixels, runs: int) -> dict[str, Any]:
    count = len(images)
    runner.load(images)
    for _ in range(WARM):
        runner.enqueue()
    device, called = zip(*(clock.seconds(runner.enqueue) for _ in range(runs)), strict=True)
    runner.host(images)
    copied = [clock.seconds(lambda: _drop(runner.host(images)))[0] for _ in range(runs)]
    return {
        "ms": 1e3 * statistics.median(device) / count,
        "p95_ms": 1e3 * float(np.percentile(device, 95)) / count,
        "call_ms": 1e3 * statistics.median(called) / count,
        "with_copies_ms": 1e3 * statistics.median(copied) / count,
        "with_copies_p95_ms": 1e3 * float(np.percentile(copied, 95)) / count,
    }


def _drop(_: Pixels) -> None:
    """For what is wanted only as done."""


def open_lane(task: Task, batch: int) -> Runner:
    model = Path(task.folder) / task.lane.file(task.size, batch)
    if not model.exists():
        why = model.with_name(model.name + ".missing")
        raise RuntimeError(why.read_text() if why.exists() else f"there is no {model.name}")
    if task.lane.graph == "pytorch":
        return TorchRunner(model, task.lane, task.device)
    return BackendRunner(model, task.lane)


def peaks(runs: int = 20) -> dict[str, float]:
    """What the GPU moves and computes at most: bytes/s of a copy within it, operations/s of large FP16 products."""
    import torch

    clock = CudaClock()
    block = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    copy = torch.empty_like(block)
    a, b = (torch.randn(8192, 8192, dtype=torch.float16, device="cuda") for _ in range(2))
    product = torch.empty_like(a)

    def best(work: Callable[[], object]) -> float:
        work()
        return min(clock.seconds(lambda: _ignore(work()))[0] for _ in range(runs))

    return {
        "bytes_per_second": 2 * block.numel() / best(lambda: copy.copy_(block)),
        "fp16_operations_per_second": 2 * 8192**3 / best(lambda: torch.matmul(a, b, out=product)),
    }


def _ignore(_: object) -> None:
    """For work whose result nobody wants."""


def only(lanes: Sequence[GpuLane], words: Sequence[str]) -> tuple[GpuLane, ...]:
    """Those whose name holds one of the words; all without any."""
    return tuple(lane for lane in lanes if not words or any(word in lane.name for word in words))
