"""Other projects' weights as a TransformNetConfig and a state dict of ours; told apart by what they hold.

Both families carry convolution biases or norms that our net places differently only where it makes no difference:
a bias before an instance norm cancels, so it is dropped.
"""

import re
from collections.abc import Collection, Mapping
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nst_train.transform_net import TransformNet, TransformNetConfig

StateDict: TypeAlias = dict[str, Tensor]

# Both families feed 0..255 to the first convolution.
RAW_INPUT_SCALE, RAW_INPUT_OFFSET = 1.0, 0.0


class ForeignWeightsError(ValueError):
    """A tensor of a recognised family is missing or misshapen; the message names it."""


# --- pytorch/examples fast_neural_style ------------------------------------------------------------------------------


def is_pytorch_examples(tensors: Mapping[str, object]) -> bool:
    """True for a state dict of pytorch/examples' TransformerNet, also under DataParallel's ``module.``."""
    return "conv1.conv2d.weight" in tensors or "module.conv1.conv2d.weight" in tensors


def from_pytorch_examples(tensors: Mapping[str, Tensor]) -> tuple[TransformNetConfig, StateDict]:
    """Renames a fast_neural_style state dict (pytorch/examples, ``neural_style/transformer_net.py``).

    ``running_mean``/``running_var``/``num_batches_tracked`` of files saved by PyTorch before 0.4 are ignored: that
    net never used them, its instance norms have no running statistics.

    Raises:
        ForeignWeightsError: a tensor is missing, unknown or of a wrong shape.
    """
    given = {key.removeprefix("module."): value for key, value in tensors.items()}
    given = {k: v for k, v in given.items() if not k.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    widths = [_tensor(given, f"conv{i}.conv2d.weight").shape[0] for i in (1, 2, 3)]
    blocks = len({key.split(".")[0] for key in given if re.match(r"res\d+\.", key)})
    config = TransformNetConfig(
        widths=(widths[0], widths[1], widths[2]),
        blocks=blocks,
        output="linear",
        input_scale=RAW_INPUT_SCALE,
        input_offset=RAW_INPUT_OFFSET,
    )
    names = _pytorch_examples_names(blocks)
    cancelled = {name.replace("weight", "bias") for name in names if name.endswith("conv2d.weight")} - set(names)
    if unknown := sorted(set(given) - set(names) - cancelled):
        raise ForeignWeightsError(f"unknown tensor {unknown[0]!r} in a fast_neural_style state dict")
    shapes = {name: value.shape for name, value in TransformNet(config).state_dict().items()}
    return config, {ours: _tensor(given, theirs, shapes[ours]).float() for theirs, ours in names.items()}


def _pytorch_examples_names(blocks: int) -> dict[str, str]:
    """Their tensor's name -> ours, for every tensor that we keep."""
    norms = {"in1": "encoder.0", "in2": "encoder.1", "in3": "encoder.2", "in4": "decoder.0", "in5": "decoder.1"}
    convs = {"conv1": "encoder.0", "conv2": "encoder.1", "conv3": "encoder.2", "deconv1": "decoder.0"}
    convs |= {"deconv2": "decoder.1", "deconv3": "head"}
    for i in range(blocks):
        for theirs, ours in (("1", "first"), ("2", "second")):
            convs[f"res{i + 1}.conv{theirs}"] = f"blocks.{i}.{ours}"
            norms[f"res{i + 1}.in{theirs}"] = f"blocks.{i}.{ours}"
    names = {f"{theirs}.conv2d.weight": f"{ours}.conv.weight" for theirs, ours in convs.items()}
    names["deconv3.conv2d.bias"] = "head.conv.bias"
    for theirs, ours in norms.items():
        names |= {f"{theirs}.{kind}": f"{ours}.norm.{kind}" for kind in ("weight", "bias")}
    return names


def _tensor(tensors: Mapping[str, Tensor], name: str, shape: torch.Size | None = None) -> Tensor:
    if name not in tensors:
        raise ForeignWeightsError(f"tensor {name!r} is missing")
    given = tensors[name].shape
    if not given or (shape is not None and given != shape):
        expected = "a kernel" if shape is None else str(list(shape))
        raise ForeignWeightsError(f"tensor {name!r} has shape {list(given)}, expected {expected}")
    return tensors[name]


# --- lengstrom/fast-style-transfer -----------------------------------------------------------------------------------

LENGSTROM_WIDTHS = (32, 64, 128)  # that project builds no other net
LENGSTROM_BLOCKS = 5
_VARIABLE = re.compile(r"Variable(?:_(\d+))?(?::0)?")  # not Variable_3/Adam, an optimiser slot


def is_network_variable(name: str) -> bool:
    """True for ``Variable``, ``Variable_1``, …; false for optimiser slots and whatever else TensorFlow stores."""
    return _VARIABLE.fullmatch(name) is not None


def is_lengstrom(names: Collection[str]) -> bool:
    """True for the variables of fast-style-transfer's ``src/transform.py`` under TensorFlow's own names."""
    return any(is_network_variable(name) for name in names)


def from_lengstrom(variables: Mapping[str, NDArray[np.float32]]) -> tuple[TransformNetConfig, StateDict]:
    """Rebuilds a fast-style-transfer network (lengstrom, 2016) from its 48 TensorFlow variables.

    They come in order of creation (``Variable``, ``Variable_1``, …): for each layer the kernel (HWIO, HWOI when
    transposed), the norm's shift and its scale. Whatever else a TensorFlow checkpoint holds (optimiser slots, the
    global step) is ignored.

    Raises:
        ForeignWeightsError: a variable is missing or of a wrong shape.
    """
    by_number: dict[int, NDArray[np.float32]] = {}
    for name, value in variables.items():
        if match := _VARIABLE.fullmatch(name):
            by_number[int(match[1] or 0)] = value
    config = TransformNetConfig(
        widths=LENGSTROM_WIDTHS,
        blocks=LENGSTROM_BLOCKS,
        padding="same",
        upsampling="transpose",
        norm_eps=1e-3,
        final_norm=True,
        output="tanh",
        output_scale=150.0,
        output_offset=127.5,
        input_scale=RAW_INPUT_SCALE,
        input_offset=RAW_INPUT_OFFSET,
    )
    state: StateDict = {}
    for index, (layer, kernel_shape) in enumerate(_lengstrom_layers().items()):
        c_out = kernel_shape[2] if layer.startswith("decoder") else kernel_shape[3]
        # HWIO -> OIHW for a convolution; HWOI -> IOHW for PyTorch's transposed one: the same permutation.
        state[f"{layer}.conv.weight"] = _variable(by_number, 3 * index, kernel_shape).permute(3, 2, 0, 1).contiguous()
        state[f"{layer}.norm.bias"] = _variable(by_number, 3 * index + 1, (c_out,))
        state[f"{layer}.norm.weight"] = _variable(by_number, 3 * index + 2, (c_out,))
    return config, state


def _lengstrom_layers() -> dict[str, tuple[int, int, int, int]]:
    """Our layer -> the shape of their kernel, in their order of creation."""
    full, half, quarter = LENGSTROM_WIDTHS
    layers = {"encoder.0": (9, 9, 3, full), "encoder.1": (3, 3, full, half), "encoder.2": (3, 3, half, quarter)}
    for i in range(LENGSTROM_BLOCKS):
        layers |= {f"blocks.{i}.{name}": (3, 3, quarter, quarter) for name in ("first", "second")}
    return layers | {"decoder.0": (3, 3, half, quarter), "decoder.1": (3, 3, full, half), "head": (9, 9, full, 3)}


def _variable(by_number: Mapping[int, NDArray[np.float32]], number: int, shape: tuple[int, ...]) -> Tensor:
    name = f"Variable_{number}" if number else "Variable"
    if number not in by_number:
        raise ForeignWeightsError(f"variable {name!r} is missing")
    value = by_number[number]
    if value.shape != shape or value.dtype.kind != "f":
        given = f"{value.dtype} {list(value.shape)}"
        raise ForeignWeightsError(f"variable {name!r} is {given}, expected floating-point {list(shape)}")
    return torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32))
