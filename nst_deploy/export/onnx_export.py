"""A deployable net as an ONNX file that keeps the engines' contract."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch

from nst_common.atomic_file import atomic_write
from nst_deploy.contract import INPUT_NAME, METADATA_PREFIX, MIN_SIZE, OUTPUT_NAME, ModelContract
from nst_deploy.errors import ExportFailedError
from nst_deploy.export.deployable import DeployableNet

OPSET = 18  # CUDA kernels for Pad lag behind newer operator sets
EXAMPLE_SIZE = (2, 33, 46)  # N, H, W while tracing; no dynamic size may be 1 or a multiple of 4 there
# Anything else would mean that the exporter started to emit something that was never measured.
EXPECTED_OPERATORS = frozenset(
    {"Add", "Cast", "Clip", "Concat", "Conv", "DepthToSpace", "Div", "Expand", "InstanceNormalization", "Mod", "Mul"}
    | {"Neg", "Pad", "ReduceL2", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Round", "Shape", "Slice", "Sqrt"}
    | {"Squeeze", "Sub", "Tanh", "Transpose"}
)


def to_onnx(deployable: DeployableNet, contract: ModelContract) -> onnx.ModelProto:
    """Traces and checks the graph: opset 18, standard operators only, ``nst.*`` metadata, N/H/W dynamic or static.

    Raises:
        ExportFailedError: torch's exporter failed, or emitted a graph that is not the expected one.
    """
    static = contract.static_size
    height, width = static or EXAMPLE_SIZE[1:]
    example = torch.zeros(EXAMPLE_SIZE[0], height, width, 3, dtype=torch.uint8)
    dynamic = {0: torch.export.Dim("n", min=1)}
    if static is None:
        dynamic |= {1: torch.export.Dim("h", min=MIN_SIZE), 2: torch.export.Dim("w", min=MIN_SIZE)}
    with _quiet():
        try:
            program = torch.onnx.export(
                deployable.eval(),
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes={"image": dynamic},
                verbose=False,
            )
        except Exception as error:  # its exceptions share no base class but Exception
            raise ExportFailedError(str(error).strip().split("\n")[0]) from error
    assert program is not None  # only so without dynamo=True
    model = program.model_proto
    _tidy(model, static)
    set_contract(model, contract)
    _check(model)
    return model


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Writes one self-contained file, atomically."""
    with atomic_write(path) as partial:
        onnx.save_model(model, str(partial))


def set_contract(model: onnx.ModelProto, contract: ModelContract) -> None:
    """Puts the contract's metadata in place of what stands there."""
    kept = {p.key: p.value for p in model.metadata_props if not p.key.startswith(METADATA_PREFIX)}
    onnx.helper.set_model_props(model, kept | contract.to_metadata())


def _tidy(model: onnx.ModelProto, static: tuple[int, int] | None) -> None:
    """Takes out the tracer's notes (source lines, its own names of sizes) and states the contract's shapes."""
    graph = model.graph
    graph.name = "nst"
    for entry in (*graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info, graph):
        entry.ClearField("metadata_props")
    for node in graph.node:
        node.ClearField("doc_string")
        node.name = node.name.removeprefix("node_")
    del graph.value_info[:]  # intermediate shapes in the tracer's symbols; every runtime infers its own
    dims = ("n", *(static or ("h", "w")), 3)
    for value in (*graph.input, *graph.output):
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, onnx.TensorProto.UINT8, dims))


def _check(model: onnx.ModelProto) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportFailedError(f"the graph is not valid ONNX: {error}") from error
    domains = {(entry.domain, entry.version) for entry in model.opset_import}
    if domains != {("", OPSET)}:
        raise ExportFailedError(f"the graph imports {sorted(domains)}, expected opset {OPSET} of the standard domain")
    if unexpected := {node.op_type for node in model.graph.node} - EXPECTED_OPERATORS:
        raise ExportFailedError(f"the graph holds {', '.join(sorted(unexpected))}, which no net of ours needs")


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter talks to its own developers; what concerns the user is raised."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
