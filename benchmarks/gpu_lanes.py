"""The ways to run one net on a GPU that benchmarks/gpu.py compares, and what opens and times one of them."""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Engine = Literal["eager", "compile", "onnxruntime", "tensorrt", "rtx"]
Graph = Literal["pytorch", "naive", "nst"]

WARM = 10  # runs before anything is timed
# s of further runs before that: TensorRT-RTX begins a new size with general kernels and compiles its own beside them.
SETTLE: dict[Engine, float] = {"rtx": 3.0}
LONGEST = 200  # characters of why a row was not run; libraries can go on for pages
CPU_DEVICE = "cpu"  # for trying the benchmark itself without a GPU


@dataclass(frozen=True)
class GpuLane:
    """One row of the table.

    Attributes:
        engine: what runs it.
        graph: whose graph it is: PyTorch's own modules, what torch.onnx.export makes of them, or what nst-export makes.
        precision: of weights and activations.
        cuda_graph: run as one.
        options: of ONNX Runtime's CUDA provider, in place of nst's own choice.
    """

    engine: Engine
    graph: Graph
    precision: Literal["fp32", "fp16"] = "fp16"
    cuda_graph: bool = False
    options: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        more = (["cuda-graph"] if self.cuda_graph else []) + [f"{name}={value}" for name, value in self.options]
        return " ".join([self.engine, self.graph, self.precision, *more])

    def file(self, size: tuple[int, int], batch: int) -> str:
        """Name of its model in the work folder."""
        if self.graph == "pytorch":
            return "pytorch.pt"
        if self.engine in ("tensorrt", "rtx"):
            return plan_name(self.graph, self.engine, batch)
        static = f".{size[0]}x{size[1]}" if self.cuda_graph else ""  # ONNX Runtime captures static sizes alone
        return f"{self.graph}.{self.precision}{static}.onnx"

    @property
    def late(self) -> bool:
        """Whether it takes so long to get ready that it comes after all others."""
        return self.engine == "compile"


# What may make ONNX Runtime faster, or once made it slower, each beside the row without: see NEXT in sections.py.
CUDA_OPTIONS = (("use_tf32", "0"), ("prefer_nhwc", "1"), ("cudnn_conv_algo_search", "HEURISTIC"))

LANES = (
    GpuLane("eager", "pytorch", "fp32"),
    GpuLane("eager", "pytorch"),
    *(
        GpuLane("onnxruntime", graph, cuda_graph=captured)
        for graph, captured in (("naive", False), ("nst", False), ("nst", True))
    ),
    *(GpuLane("onnxruntime", "nst", options=(option,)) for option in CUDA_OPTIONS),
    *(
        GpuLane(engine, graph, cuda_graph=captured)
        for engine in ("tensorrt", "rtx")
        for graph in ("naive", "nst")
        for captured in (False, True)
    ),
    GpuLane("compile", "pytorch"),
)


def plan_name(graph: str, flavor: str, max_batch: int) -> str:
    """File of a plan; that for several pictures at once is tuned for so many."""
    many = "" if max_batch == 1 else f".{max_batch}"
    return f"{graph}{many}" + (".rtx.plan" if flavor == "rtx" else ".plan")


class Runner(Protocol):
    """A lane, opened. ``enqueue`` runs what was loaded, from device memory to device memory."""

    def load(self, images: Pixels) -> None: ...
    def enqueue(self) -> None: ...
    def styled(self) -> Pixels: ...
    def host(self, images: Pixels) -> Pixels:
        """From and to the host's memory."""
        ...

    def close(self) -> None: ...


class TorchRunner:
    """PyTorch's defaults with cudnn.benchmark and channels_last.

    Args:
        mode: of torch.compile.
    """

    def __init__(self, model: Path, lane: GpuLane, device: str, mode: str) -> None:
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
        # One size after the other, each for itself: after a second one torch.compile would go over to any size.
        compiled = lane.engine == "compile"
        self._net = torch.compile(deployable, mode=mode, dynamic=False) if compiled else deployable
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

    def close(self) -> None:
        del self._net


class BackendRunner:
    """nst's runtime, with a graph of ours or the naive one."""

    def __init__(self, model: Path, lane: GpuLane) -> None:
        import torch

        from nst_deploy.runtime.backend import open_backend
        from nst_deploy.runtime.ort_gpu import OrtGpuBackend

        self._torch = torch
        self._backend: Any
        if lane.engine == "onnxruntime":
            self._backend = OrtGpuBackend(model, cuda_graph=lane.cuda_graph, cuda_options=dict(lane.options))
        else:
            self._backend = open_backend(model, "tensorrt", cuda_graph=lane.cuda_graph, cache=False)

    def load(self, images: Pixels) -> None:
        self._images = self._torch.from_numpy(images).cuda()
        self._styled = self._torch.empty_like(self._images)
        self._torch.cuda.synchronize()

    def enqueue(self) -> None:
        stream = self._torch.cuda.current_stream()
        self._backend.run_device(self._images, stream=stream, out=self._styled)

    def styled(self) -> Pixels:
        pixels: Pixels = self._styled.cpu().numpy()
        return pixels

    def host(self, images: Pixels) -> Pixels:
        pixels: Pixels = self._backend.run(images)
        return pixels

    def close(self) -> None:
        self._backend.close()


class Clock(Protocol):
    """What times a lane."""

    def seconds(self, work: Callable[[], None]) -> tuple[float, float]:
        """Until it is done, and until the call returns."""
        ...

    def used_memory(self) -> int:
        """Bytes of the device, by all that is on it."""
        ...

    def empty(self) -> None:
        """Gives back memory that is only kept for later."""
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

    def empty(self) -> None:
        self._torch.cuda.synchronize()
        self._torch.cuda.empty_cache()


class CpuClock:
    """Wall time, for trying the benchmark itself."""

    def seconds(self, work: Callable[[], None]) -> tuple[float, float]:
        started = time.perf_counter()
        work()
        seconds = time.perf_counter() - started
        return seconds, seconds

    def used_memory(self) -> int:
        return 0

    def empty(self) -> None: ...


@dataclass(frozen=True)
class Task:
    """A lane at one size.

    Attributes:
        folder: where the models lie.
        size: (H, W) in px.
        batches: pictures at once; the first counts for everything but the best batch.
    """

    folder: str
    image: str  # .npy of uint8 [1, H, W, 3]
    styled: str  # .npy to be written, the same
    size: tuple[int, int]
    batches: tuple[int, ...]


class Bench:
    """One lane in the process that measures it.

    Args:
        device: ``cuda``, or CPU_DEVICE.
        mode: of torch.compile.
    """

    def __init__(self, lane: GpuLane, device: str = "cuda", mode: str = "max-autotune") -> None:
        self._lane, self._device, self._mode = lane, device, mode
        self._clock: Clock = CpuClock() if device == CPU_DEVICE else CudaClock()
        self._runner: Runner | None = None

    def prepare(self, task: Task) -> dict[str, Any]:
        """Opens the lane, warms it up, writes its picture; bytes of the device that it takes, s that it took."""
        started, before = time.perf_counter(), self._clock.used_memory()
        self._task, self._image = task, np.load(task.image)
        self._runner = self._open(task.batches[0])
        self._images = np.repeat(self._image, task.batches[0], 0)
        self._warm(self._runner, self._images)
        np.save(task.styled, self._runner.styled()[:1])
        taken = self._clock.used_memory() - before
        return {"device_bytes": taken, "ready_s": time.perf_counter() - started}

    def time(self, runs: int) -> dict[str, list[float]]:
        """s for all pictures of the first batch: on the device, of the call, and with both copies."""
        assert self._runner is not None
        runner, images = self._runner, self._images
        timed = [self._clock.seconds(runner.enqueue) for _ in range(runs)]
        copied = [self._clock.seconds(lambda: _ignore(runner.host(images)))[0] for _ in range(runs)]
        return {"device": [a for a, _ in timed], "called": [b for _, b in timed], "copied": copied}

    def many(self, runs: int) -> dict[str, Any]:
        """Median s for each picture by their number at once; why not, where that many do not run."""
        found: dict[str, float | str] = {}
        try:
            self.release()  # both together might not fit
            runner = self._runner = self._open(self._task.batches[-1])
            for batch in self._task.batches[1:]:
                self._warm(runner, np.repeat(self._image, batch, 0))
                timed = [self._clock.seconds(runner.enqueue)[0] for _ in range(runs)]
                found[str(batch)] = float(np.median(timed)) / batch
        except Exception as error:  # noqa: BLE001  (most often the memory; what was measured stands)
            found["beyond"] = reason(error)
        return {"batches": found}

    def release(self) -> dict[str, Any]:
        """Gives the device's memory back."""
        if self._runner is not None:
            self._runner.close()
        self._runner = None
        gc.collect()
        self._clock.empty()
        return {}

    def _open(self, batch: int) -> Runner:
        model = Path(self._task.folder) / self._lane.file(self._task.size, batch)
        if not model.exists():
            raise RuntimeError(why_missing(model) or f"there is no {model.name}")
        if self._lane.graph == "pytorch":
            return TorchRunner(model, self._lane, self._device, self._mode)
        return BackendRunner(model, self._lane)

    def _warm(self, runner: Runner, images: Pixels) -> None:
        runner.load(images)
        settle = 0.0 if self._lane.cuda_graph else SETTLE.get(self._lane.engine, 0.0)
        started, runs = time.perf_counter(), 0
        while runs < WARM or time.perf_counter() - started < settle:
            self._clock.seconds(runner.enqueue)
            runs += 1
        runner.host(images)
        runner.load(images)
        runner.enqueue()


def why_missing(model: Path) -> str | None:
    """What kept a model from being made."""
    why = model.with_name(model.name + ".missing")
    return why.read_text() if why.exists() else None


def reason(error: BaseException) -> str:
    """One short line: of nst's own errors what is wrong without what to do, of others the first line."""
    from nst_common.errors import UserError

    said = error.problem if isinstance(error, UserError) else f"{type(error).__name__}: {error}".split("\n")[0]
    return said if len(said) <= LONGEST else said[:LONGEST].rsplit(" ", 1)[0] + " …"


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


def only(lanes: Sequence[GpuLane], words: Sequence[str], without: Sequence[str] = ()) -> tuple[GpuLane, ...]:
    """Those whose name holds one of the words (all without any) and none of ``without``."""
    kept = [lane for lane in lanes if not words or any(word in lane.name for word in words)]
    return tuple(lane for lane in kept if not any(word in lane.name for word in without))
