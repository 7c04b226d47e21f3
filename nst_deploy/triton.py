"""How Triton Inference Server is told to serve an engine: the ``config.pbtxt`` of a model.

The text is written here and not by ``tritonclient``'s generated classes: an exporter would otherwise need gRPC and one
range of protobuf versions, for two dozen fields. The tests parse what is written with those very classes, and load it
into a real server where there is one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from nst_common.errors import UsageError
from nst_deploy.contract import INPUT_NAME, MIN_SIZE, OUTPUT_NAME, ModelContract
from nst_deploy.pbtxt import Field, Message, Symbol, map_of, to_pbtxt
from nst_deploy.plan_sidecar import PlanSidecar

Kind = Literal["auto", "cpu", "gpu"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ANY = -1  # a dimension that differs from request to request
MAX_BATCH, MAX_INSTANCES, MAX_THREADS, MAX_DELAY = 256, 64, 256, 10_000_000  # beyond these it is a slip of the finger
UINT8 = Symbol("TYPE_UINT8")
HEURISTIC = "1"  # how ONNX Runtime's back end numbers cuDNN's ways to choose an algorithm

COMMENT = """\
# Written by nst-export. The contract of the engine stands below as the parameters nst.*
# {batching}
"""
ANY_SIZE = "Pictures of any size: Triton joins requests into one batch only where their H and W are equal."
ONE_SIZE = "Pictures of one size: every request can be joined with any other."
ALONE = "One picture at a time: requests are not joined."


@dataclass(frozen=True)
class TritonOptions:
    """What one may choose of how a model is served.

    Attributes:
        kind: ``auto`` runs on every GPU of the server, on its CPU where it has none; the same folder loads on both.
            ``gpu`` does not load without a GPU, ``cpu`` leaves GPUs alone. CPU and GPU instances side by side are not
            offered: requests that the slow ones happen to take would wait while GPUs idle.
        instances: copies of the model, per GPU or on the CPU.
        threads: CPU threads of each instance; None takes every core.
        max_batch: pictures in one run, joined by the server or sent as one request.
        queue_delay: µs that a picture may wait for others to be joined with.
        warmup_size: (H, W) in px of the frame that is styled before the server says that it is ready; None takes the
            engine's own size where it has one, the photograph's otherwise.
    """

    kind: Kind = "auto"
    instances: int = 1
    threads: int | None = None
    max_batch: int = 4
    queue_delay: int = 1000
    warmup_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        _check("--triton-instances", self.instances, 1, MAX_INSTANCES)
        _check("--triton-threads", 1 if self.threads is None else self.threads, 1, MAX_THREADS)
        _check("--triton-max-batch", self.max_batch, 1, MAX_BATCH)
        _check("--triton-queue-delay", self.queue_delay, 0, MAX_DELAY)
        if self.kind not in KINDS:
            raise UsageError(f"Unknown kind {self.kind!r} of Triton instance", f"Known are {', '.join(KINDS)}")
        if self.warmup_size is not None:
            _check("--triton-warmup-size", min(self.warmup_size), MIN_SIZE, None)


@dataclass(frozen=True)
class WarmupFrame:
    """A real picture that is styled before the model counts as ready.

    Attributes:
        file: in the model's folder ``warmup``: uint8 ``[H, W, 3]``, RGB, nothing else.
    """

    file: str
    height: int
    width: int


def onnx_config(name: str, contract: ModelContract, options: TritonOptions, frame: WarmupFrame) -> str:
    """``config.pbtxt`` of an ONNX engine on Triton's ONNX Runtime back end.

    Args:
        name: of the model, which is its folder's.
    """
    any_size = contract.static_size is None
    parameters: dict[str, str] = {}
    if options.threads is not None:
        parameters["intra_op_thread_count"] = str(options.threads)
    if any_size:
        # What ONNX Runtime keeps for one size seldom fits the next: a server that sees many would grow without end.
        parameters |= {"enable_mem_pattern": "0", "memory.enable_memory_arena_shrinkage": "cpu:0"}
        if options.kind != "cpu":
            parameters["cudnn_conv_algo_search"] = HEURISTIC  # the default tries every algorithm, anew for each size
    message: dict[str, Field] = {"name": name, "backend": "onnxruntime"}
    message |= _shapes(options.max_batch, contract.static_size)
    message |= _scheduling(options.max_batch, options.queue_delay)
    message["instance_group"] = _instances(options.kind, options.instances)
    if contract.precision == "fp32" and options.kind != "cpu":
        message["optimization"] = {"execution_accelerators": {"gpu_execution_accelerator": [_exact_float32()]}}
    message["model_warmup"] = _warmup(frame, [1] if options.kind == "cpu" else [1, *_preferred(options.max_batch)])
    return _text(message, contract, parameters, options.max_batch)


def plan_config(name: str, sidecar: PlanSidecar, options: TritonOptions, frame: WarmupFrame) -> str:
    """``config.pbtxt`` of a plan on Triton's TensorRT back end, which has no CPU: always on GPUs.

    ``max_batch`` is cut to what the plan was built for.
    """
    profile = sidecar.profile
    max_batch = min(options.max_batch, profile.max[0])
    one_size = profile.min[1:] == profile.max[1:]
    message: dict[str, Field] = {"name": name, "platform": "tensorrt_plan"}
    message |= _shapes(max_batch, profile.max[1:] if one_size else None)
    message |= _scheduling(max_batch, options.queue_delay)
    message["instance_group"] = _instances("gpu", options.instances)
    message["model_warmup"] = _warmup(frame, [1, *_preferred(max_batch)])
    parameters = {
        "nst.library_version": sidecar.library_version,
        "nst.gpu_name": sidecar.gpu_name or "",
        "nst.compute_capabilities": ",".join(sidecar.compute_capabilities),
    }
    return _text(message, sidecar.contract, parameters, max_batch)


def _shapes(max_batch: int, static_size: tuple[int, int] | None) -> dict[str, Field]:
    # Where a model has a batch size, Triton itself puts N before these.
    dims = [*(static_size or (ANY, ANY)), 3]
    image: Message = {"name": INPUT_NAME, "data_type": UINT8, "dims": dims}
    styled: Message = {**image, "name": OUTPUT_NAME}
    return {"max_batch_size": max_batch, "input": [image], "output": [styled]}


def _scheduling(max_batch: int, queue_delay: int) -> dict[str, Field]:
    if max_batch == 1:
        return {}
    batching: dict[str, Field] = {"preferred_batch_size": _preferred(max_batch)}
    if queue_delay:
        batching["max_queue_delay_microseconds"] = queue_delay
    return {"dynamic_batching": batching}


def _preferred(max_batch: int) -> list[int]:
    """The powers of two from 2, and the largest batch; such a batch starts at once, any other after the delay."""
    powers = [1 << bit for bit in range(1, max_batch.bit_length()) if 1 << bit < max_batch]
    return [*powers, max_batch] if max_batch > 1 else []


def _instances(kind: Kind, count: int) -> list[Message]:
    # KIND_GPU without a list means every GPU; where there is none the model does not load, while KIND_AUTO turns to
    # the CPU. (Triton settles that before any back end sees it.)
    return [{"count": count, "kind": Symbol(f"KIND_{kind.upper()}")}]


def _exact_float32() -> Message:
    """Otherwise ONNX Runtime computes FP32 convolutions in TF32, which has 10 bits of mantissa.

    Only for float32 models: it would take the Tensor Cores from FP16 ones, too.
    """
    return {"name": "cuda", "parameters": map_of({"use_tf32": "0"})}


def _warmup(frame: WarmupFrame, batches: Sequence[int]) -> list[Message]:
    # Every batch size is another shape, for which a GPU's libraries choose and prepare anew.
    image: Message = {
        "data_type": UINT8,
        "dims": [frame.height, frame.width, 3],
        "input_data_file": frame.file,
    }
    return [
        {"name": f"photograph, batch {batch}", "batch_size": batch, "inputs": map_of({INPUT_NAME: image})}
        for batch in batches
    ]


def _text(message: dict[str, Field], contract: ModelContract, parameters: Mapping[str, str], max_batch: int) -> str:
    entries = {**parameters, **contract.to_metadata()}
    fields: Message = {
        **message,
        "parameters": map_of({key: {"string_value": value} for key, value in entries.items()}),
    }
    batching = ALONE if max_batch == 1 else ANY_SIZE if contract.static_size is None else ONE_SIZE
    return COMMENT.format(batching=batching) + to_pbtxt(fields)


def _check(option: str, value: int, least: int, most: int | None) -> None:
    if value < least or (most is not None and value > most):
        expected = f"from {least} up" if most is None else f"{least}..{most}"
        raise UsageError(f"{option} is {value}, expected {expected}", "Choose another")
