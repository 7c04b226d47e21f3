"""Tiny engines that keep the contract and whose output is known by a formula."""

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, checker, helper, numpy_helper, save

from nst_deploy.contract import INPUT_NAME, OUTPUT_NAME, ModelContract

# Inverts and reverses the channels, so that a mix-up of RGB and BGR, of styled and original, or of 0 and 255 shows.
MIX = np.array([[0, 0, -1], [0, -1, 0], [-1, 0, 0]], dtype=np.float32)
OFFSET = np.float32(255)

CONTRACT = ModelContract(
    style="negative",
    precision="fp32",
    checkpoint_sha256="0" * 64,
    package_version="0.0.test",
    working_bytes_per_pixel=100,
)


def negative(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What the engine computes, written independently: uint8 ``[..., 3]`` -> the same shape."""
    return 255 - image[..., ::-1]


def write_engine(
    path: Path, *, metadata: dict[str, str] | None = None, element: int = TensorProto.UINT8, **contract: object
) -> Path:
    """Writes an engine; the keywords change its contract, ``metadata`` replaces what it says of itself."""
    shape = ["n", "h", "w", 3]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", [INPUT_NAME], ["float"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["float", "mix"], ["mixed"]),
            helper.make_node("Add", ["mixed", "offset"], ["shifted"]),
            helper.make_node("Clip", ["shifted", "low", "high"], ["clipped"]),
            helper.make_node("Round", ["clipped"], ["rounded"]),
            helper.make_node("Cast", ["rounded"], [OUTPUT_NAME], to=element),
        ],
        "negative",
        [helper.make_tensor_value_info(INPUT_NAME, element, shape)],
        [helper.make_tensor_value_info(OUTPUT_NAME, element, shape)],
        [
            numpy_helper.from_array(MIX, "mix"),
            numpy_helper.from_array(OFFSET, "offset"),
            numpy_helper.from_array(np.float32(0), "low"),
            numpy_helper.from_array(np.float32(255), "high"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    entries = dataclasses.replace(CONTRACT, **contract).to_metadata() if metadata is None else metadata
    helper.set_model_props(model, entries)
    checker.check_model(model)
    save(model, path)
    return path
