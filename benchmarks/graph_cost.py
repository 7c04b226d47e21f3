"""The least that a graph costs a GPU: its arithmetic and its traffic, counted from the ONNX file.

Counted are convolutions alone, each with one read of its input, one write of its output and one read of its weights:
everything between two of them could run while they read or write. Norms must see a whole plane before they change it,
so no engine gets there; the figure is a floor, not a promise.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import onnx
from onnx import helper, shape_inference

from nst_deploy.contract import INPUT_NAME, OUTPUT_NAME

Shapes = dict[str, tuple[tuple[int, ...], int]]  # name -> dimensions, bytes of one element


@dataclass(frozen=True)
class LayerCost:
    """
    Attributes:
        operations: multiplications and additions, both counted.
        moved: bytes.
    """

    operations: int
    moved: int

    def seconds(self, operations_per_second: float, bytes_per_second: float) -> float:
        """The longer of the two."""
        return max(self.operations / operations_per_second, self.moved / bytes_per_second)


def count(model: onnx.ModelProto, batch: int = 1) -> list[LayerCost]:
    """The cost of every convolution.

    Args:
        model: of one static size.

    Raises:
        ValueError: a shape cannot be inferred.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in (*fixed.graph.input, *fixed.graph.output):
        if value.name in (INPUT_NAME, OUTPUT_NAME):
            value.type.tensor_type.shape.dim[0].Clear()
            value.type.tensor_type.shape.dim[0].dim_value = batch
    inferred = shape_inference.infer_shapes(fixed, strict_mode=True, data_prop=True)
    shapes = _shapes(inferred)
    return list(_convolutions(inferred.graph, shapes))


def floor_seconds(costs: list[LayerCost], operations_per_second: float, bytes_per_second: float) -> float:
    """Layer after layer, each at the speed of what it needs most."""
    return sum(cost.seconds(operations_per_second, bytes_per_second) for cost in costs)


def _convolutions(graph: onnx.GraphProto, shapes: Shapes) -> Iterator[LayerCost]:
    for node in graph.node:
        if node.op_type not in ("Conv", "ConvTranspose"):
            continue
        try:
            (source, bytes_in), (weight, bytes_weight) = shapes[node.input[0]], shapes[node.input[1]]
            target, bytes_out = shapes[node.output[0]]
        except KeyError as error:
            raise ValueError(f"the shape of {error.args[0]} in {node.name} is not known") from error
        # Every element of the weights is used once for each pixel: of the output, or of a transposed one's input.
        n, _, *pixels = target if node.op_type == "Conv" else source
        macs = n * prod(pixels) * prod(weight)
        moved = prod(source) * bytes_in + prod(target) * bytes_out + prod(weight) * bytes_weight
        yield LayerCost(2 * macs, moved)


def _shapes(model: onnx.ModelProto) -> Shapes:
    """Of all tensors whose dimensions are known."""
    graph = model.graph
    shapes: Shapes = {t.name: (tuple(t.dims), _itemsize(t.data_type)) for t in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        tensor = value.type.tensor_type
        dims = [d.dim_value for d in tensor.shape.dim]
        if tensor.HasField("shape") and all(dims):
            shapes[value.name] = (tuple(dims), _itemsize(tensor.elem_type))
    return shapes


def _itemsize(element: int) -> int:
    return int(helper.tensor_dtype_to_np_dtype(element).itemsize)
