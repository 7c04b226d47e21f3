"""The ways to run one net that benchmarks/export.py compares, each in a process of its own.

A thread pool that is not at work still spins or holds memory, so lanes in one process would disturb each other; as
processes they are told to run one at a time, and the peak memory of each is its own.
"""

import multiprocessing
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Run = Callable[[Pixels], Pixels]  # uint8 [N, H, W, 3] -> the same
Clock = Callable[[], float]  # seconds: time.perf_counter, or time.process_time
Engine = Literal["eager", "compile", "autocast", "onnxruntime", "openvino"]

SETTLE = 0.03  # seconds between two lanes, after which the first one's threads sleep


@dataclass(frozen=True)
class Lane:
    """One row of the table.

    Attributes:
        engine: what runs it.
        precision: of the arithmetic, ``f32`` or ``bf16``; of an INT8 file, of what it leaves in floating point.
        file: name of the model in the work folder: a checkpoint for PyTorch, an ONNX file otherwise.
    """

    engine: Engine
    precision: Literal["f32", "bf16"]
    file: str

    @property
    def name(self) -> str:
        return f"{Path(self.file).stem} {self.engine} {self.precision}"


def open_lane(lane: Lane, folder: Path, threads: int) -> Run:
    model = folder / lane.file
    if lane.engine == "onnxruntime":
        return _onnxruntime(model, threads)
    if lane.engine == "openvino":
        return _openvino(model, lane.precision, threads)
    return _torch(model, lane.engine, threads)


def _onnxruntime(model: Path, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"image": images})[0]  # type: ignore[no-any-return]


def _openvino(model: Path, precision: str, threads: int) -> Run:
    import openvino as ov

    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = ov.Core().compile_model(str(model), "CPU", options).create_infer_request()
    return lambda images: request.infer({"image": images})["styled"]  # type: ignore[no-any-return]


def _torch(model: Path, engine: Engine, threads: int) -> Run:
    import torch

    from nst_deploy.export.deployable import DeployableNet
    from nst_train.transform_net import TransformNet, TransformNetConfig

    torch.set_num_threads(threads)
    content = torch.load(model, weights_only=True)
    net = TransformNet(TransformNetConfig(**content["config"]))
    net.load_state_dict(content["state"])
    deployable: Any = DeployableNet(net.to(memory_format=torch.channels_last) if engine == "autocast" else net).eval()
    if engine == "compile":
        deployable = torch.compile(deployable)

    def run(images: Pixels) -> Pixels:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=engine == "autocast"):
            styled: Pixels = deployable(torch.from_numpy(images)).numpy()
        return styled

    return run


class LaneProcess:
    """A lane that waits for orders. Usable with ``with``."""

    def __init__(self, lane: Lane, folder: Path, threads: int, clock: Clock) -> None:
        context = multiprocessing.get_context("spawn")
        self.lane = lane
        self._pipe, far = context.Pipe()
        self._process = context.Process(target=_serve, args=(far, lane, folder, threads, clock), daemon=True)
        self._process.start()
        far.close()

    def __enter__(self) -> "LaneProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join(10)
        self._process.kill()

    def prepare(self, images: Pixels) -> tuple[Pixels, float]:
        """Opens the model if need be and runs it twice. Returns its picture, and its peak resident memory in MiB."""
        self._pipe.send(images)
        styled, mib = self._receive()
        return styled, mib

    def seconds(self) -> float:
        """Of one run on the picture that was prepared."""
        time.sleep(SETTLE)
        self._pipe.send(None)
        return float(self._receive())

    def _receive(self) -> Any:
        answer = self._pipe.recv()
        if isinstance(answer, str):
            sys.exit(f"{self.lane.name}: {answer}")
        return answer


def _serve(pipe: Connection, lane: Lane, folder: Path, threads: int, clock: Clock) -> None:
    run: Run | None = None
    images = np.zeros((1, 8, 8, 3), np.uint8)
    while True:
        try:
            order = pipe.recv()
        except EOFError:
            return
        try:
            if order is None:
                assert run is not None
                started = clock()
                run(images)
                pipe.send(clock() - started)
            else:
                images = order
                run = run or open_lane(lane, folder, threads)
                _reset_peak()
                run(images)
                pipe.send((run(images).copy(), _peak_mib()))
        except Exception as error:  # noqa: BLE001  (whatever a runtime raises: the parent reports it and ends)
            pipe.send(f"{type(error).__name__}: {error}")


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")  # see proc(5): VmHWM starts anew from what is resident now


def _peak_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
