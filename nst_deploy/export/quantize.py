"""Convolutions of an ONNX graph in 8 bits, by pairs of QuantizeLinear and DequantizeLinear (opset 18)."""

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from nst_deploy.export.int8 import WEIGHT_STEPS, Site

# They repeat values, so that they may follow the rounding and move a quarter of the bytes.
EXACT_PADS = (b"reflect", b"edge")


def quantize(model: onnx.ModelProto, sites: Mapping[str, Site]) -> None:
    """Rounds activations and weights of the convolutions whose weight ``sites`` names; in place.

    Raises:
        KeyError: the graph has no convolution with such a weight.
    """
    graph = model.graph
    convolutions = {node.input[1]: node for node in graph.node if node.op_type == "Conv"}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    before: dict[str, list[onnx.NodeProto]] = {}  # by the first output of the node that they precede
    for name, site in sites.items():
        convolution = convolutions[name]
        reader = producers.get(convolution.input[0], convolution)
        if reader.op_type != "Pad" or _mode(reader) not in EXACT_PADS:
            reader = convolution
        nodes = before.setdefault(reader.output[0], [])
        nodes += _rounded_activations(graph, reader, site)
        if reader is not convolution:
            before.setdefault(convolution.output[0], [])
        before[convolution.output[0]].append(_rounded_weight(graph, convolution, weights[name], site))
        graph.initializer.remove(weights[name])
    nodes = [new for node in graph.node for new in (*before.get(node.output[0], ()), node)]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)


def _mode(pad: onnx.NodeProto) -> bytes:
    return next((bytes(attribute.s) for attribute in pad.attribute if attribute.name == "mode"), b"constant")


def _rounded_activations(graph: onnx.GraphProto, reader: onnx.NodeProto, site: Site) -> list[onnx.NodeProto]:
    """Lets ``reader`` read levels; where the output shall be whole, their distances from zero as they are."""
    name = f"{reader.name}.levels"
    zero = _constant(graph, f"{name}.zero", np.array(site.zero, np.uint8))
    step = _constant(graph, f"{name}.step", np.array(site.step, np.float32))
    unit = _constant(graph, f"{name}.unit", np.array(1, np.float32)) if site.whole else step
    quantized = helper.make_node("QuantizeLinear", [reader.input[0], step, zero], [name], name=name)
    dequantized = helper.make_node("DequantizeLinear", [name, unit, zero], [f"{name}.values"], name=f"{name}.values")
    reader.input[0] = dequantized.output[0]
    return [quantized, dequantized]


def _rounded_weight(
    graph: onnx.GraphProto, convolution: onnx.NodeProto, tensor: onnx.TensorProto, site: Site
) -> onnx.NodeProto:
    """Lets the convolution read int8 weights with a step for each output channel, or whole ones as they are."""
    weight = numpy_helper.to_array(tensor).astype(np.float64)  # [C_out, C_in, k, k]
    if site.whole:
        levels, steps = weight * site.step, np.ones(len(weight))  # see _scale_to_whole
    else:
        steps = np.abs(weight).max((1, 2, 3)) / WEIGHT_STEPS
        steps[steps == 0] = 1.0  # a channel of zeros
        levels = weight / steps[:, None, None, None]
    whole = _constant(graph, f"{tensor.name}.levels", np.rint(levels).astype(np.int8))
    step = _constant(graph, f"{tensor.name}.step", steps.astype(np.float32))
    values = f"{tensor.name}.values"
    convolution.input[1] = values
    return helper.make_node("DequantizeLinear", [whole, step], [values], name=values, axis=0)


def _constant(graph: onnx.GraphProto, name: str, value: NDArray[np.generic]) -> str:
    graph.initializer.append(numpy_helper.from_array(value, name))
    return name
