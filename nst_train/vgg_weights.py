"""The loss network's weights: which convolutions VGG-16 and VGG-19 have, and the files that hold them.

Simonyan & Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015.
"""

import http.client
import pickle
import re
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import safetensors
from torch import Tensor

from nst_train.checkpoints import file_sha256
from nst_train.errors import (
    LayerNotInWeightsError,
    VggDownloadError,
    VggWeightsMismatchError,
    VggWeightsNotFoundError,
    VggWeightsUnreadableError,
)
from nst_train.tensor_file import load_tensors

Architecture = Literal["vgg16", "vgg19"]

_BLOCKS: dict[Architecture, tuple[int, ...]] = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
_CHANNELS = (64, 128, 256, 512, 512)

# Red, green, blue, of pixels in 0..1: what torchvision's classification weights were trained on.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# The Caffe weights that torchvision publishes for VGG-16's features have an input normalisation of their own; the file
# is known by the digits of its SHA-256 that torchvision puts into its name.
_CAFFE_VGG16_SHA256 = "88682ab5"


class Convolution(NamedTuple):
    """One convolution of VGG and the ReLU behind it.

    Attributes:
        layer: the ReLU's name, ``relu3_1``.
        key: torchvision's prefix in the state dict, ``features.10``.
        block: 1..5; between two blocks the resolution halves.
        c_in, c_out: channels.
    """

    layer: str
    key: str
    block: int
    c_in: int
    c_out: int


@dataclass(frozen=True)
class VggWeights:
    """Weights of the first convolutions of a VGG, float32 on the CPU.

    Attributes:
        tensors: torchvision's names (``features.0.weight``) -> tensors.
        mean, std: red, green, blue; the first convolution sees ``(image / 255 - mean) / std``.
    """

    tensors: Mapping[str, Tensor]
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD


def convolutions(architecture: Architecture) -> tuple[Convolution, ...]:
    """All convolutions of VGG-16 or VGG-19, first to last."""
    found: list[Convolution] = []
    index, c_in = 0, 3
    for block, (count, c_out) in enumerate(zip(_BLOCKS[architecture], _CHANNELS, strict=True), start=1):
        for number in range(1, count + 1):
            found.append(Convolution(f"relu{block}_{number}", f"features.{index}", block, c_in, c_out))
            index, c_in = index + 2, c_out  # a convolution and its ReLU
        index += 1  # the pooling that ends a block
    return tuple(found)


def load_vgg_weights(architecture: Architecture, needed: Sequence[Convolution], path: Path | None) -> VggWeights:
    """The weights of the convolutions ``needed`` (the first ones of the network, without a gap).

    Args:
        architecture: whose they are.
        needed: what to load; a file may lack everything behind.
        path: a state dict with torchvision's names, .pth or .safetensors (the content decides, never the name; nothing
            in it is executed), or None for the weights that torchvision publishes, downloaded once.

    Raises:
        VggDownloadError: there is no network, or what came is damaged.
        VggWeightsNotFoundError, VggWeightsUnreadableError: no such file; not a file of tensors.
        LayerNotInWeightsError: the file stops before the last convolution needed.
        VggWeightsMismatchError: a tensor is missing before others that are there, superfluous or misshapen.
    """
    if path is None:
        return _published(architecture, needed)
    if not path.is_file():
        raise VggWeightsNotFoundError(path)
    tensors = _read(path, [f"{conv.key}.{kind}" for conv in needed for kind in ("weight", "bias")])
    _check(path, architecture, needed, tensors)
    chosen = _choose(needed, tensors)
    if architecture == "vgg16" and file_sha256(path).startswith(_CAFFE_VGG16_SHA256):
        return VggWeights(chosen, *_normalisation(_published_entry("vgg16")))
    return VggWeights(chosen)


def deepest_layer(architecture: Architecture, path: Path | None) -> str:
    """Name of the deepest layer that the weights at ``path`` reach (all of the network when None).

    Raises:
        VggWeightsNotFoundError, VggWeightsUnreadableError, VggWeightsMismatchError: as load_vgg_weights.
    """
    every = convolutions(architecture)
    if path is None:
        return every[-1].layer
    if not path.is_file():
        raise VggWeightsNotFoundError(path)
    return _deepest(path, architecture, _read(path, ()))


def _published(architecture: Architecture, needed: Sequence[Convolution]) -> VggWeights:
    entry = _published_entry(architecture)
    try:
        tensors = entry.get_state_dict(progress=sys.stderr.isatty(), check_hash=True)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise VggDownloadError(architecture, entry.url, error) from error
    return VggWeights(_choose(needed, tensors), *_normalisation(entry))


def _published_entry(architecture: Architecture) -> Any:
    """torchvision's own record of the weights: address, hash, input normalisation."""
    from torchvision.models import VGG16_Weights, VGG19_Weights  # noqa: PLC0415  (seconds, and rarely needed)

    return VGG16_Weights.IMAGENET1K_FEATURES if architecture == "vgg16" else VGG19_Weights.DEFAULT


def _normalisation(entry: Any) -> tuple[Sequence[float], Sequence[float]]:
    transforms = entry.transforms()
    return transforms.mean, transforms.std


def _choose(needed: Sequence[Convolution], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = [f"{conv.key}.{kind}" for conv in needed for kind in ("weight", "bias")]
    return {name: tensors[name].detach().float().clone() for name in names}


def _check(
    path: Path, architecture: Architecture, needed: Sequence[Convolution], tensors: Mapping[str, Tensor | None]
) -> None:
    deepest = _deepest(path, architecture, tensors)
    reached = [conv.layer for conv in convolutions(architecture)].index(deepest) + 1
    if reached < len(needed):
        raise LayerNotInWeightsError(path, needed[-1].layer, deepest)
    for conv in needed:
        expected = {f"{conv.key}.weight": [conv.c_out, conv.c_in, 3, 3], f"{conv.key}.bias": [conv.c_out]}
        for name, shape in expected.items():
            tensor = tensors[name]
            if tensor is None or list(tensor.shape) != shape:
                given = "no shape" if tensor is None else f"shape {list(tensor.shape)}"
                raise VggWeightsMismatchError(path, architecture, f"{name!r} has {given}, not {shape}")


def _deepest(path: Path, architecture: Architecture, tensors: Mapping[str, Tensor | None]) -> str:
    """The last layer before the file's end; a gap before later layers, or a stranger among them, is an error."""
    every = convolutions(architecture)
    names = [f"{conv.key}.{kind}" for conv in every for kind in ("weight", "bias")]
    given = {name for name in tensors if name.startswith("features.")}
    if not given:
        some = ", ".join(sorted(map(str, tensors))[:3]) or "nothing"
        raise VggWeightsMismatchError(path, architecture, f"it has no 'features.N.weight' (it holds {some}, …)")
    if strangers := sorted(given - set(names), key=_by_number):
        raise VggWeightsMismatchError(path, architecture, f"it holds {strangers[0]!r}, which {architecture} has not")
    last = max(index for index, name in enumerate(names) if name in given)
    if missing := [name for name in names[: (last | 1) + 1] if name not in given]:
        raise VggWeightsMismatchError(path, architecture, f"{missing[0]!r} is missing")
    return every[last // 2].layer


def _by_number(name: str) -> tuple[int, str]:
    digits = re.search(r"\d+", name)
    return (int(digits[0]) if digits else -1, name)


# --- containers ------------------------------------------------------------------------------------------------------


def _read(path: Path, wanted: Sequence[str]) -> dict[str, Any]:
    """Every name in the file; the tensor for names in ``wanted`` (and for others where it costs nothing)."""
    try:
        if _is_safetensors(path):
            with safetensors.safe_open(path, framework="pt") as file:
                names = list(file.keys())
                return {name: file.get_tensor(name) if name in wanted else None for name in names}
        # A VGG with its classifier is half a gigabyte: mapped, only what is used is read.
        content = load_tensors(path, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise VggWeightsUnreadableError(path, "it is no file of tensors, or holds other Python objects") from error
    except (OSError, ValueError, EOFError, RuntimeError, KeyError, safetensors.SafetensorError) as error:
        reason = "the file is empty" if path.stat().st_size == 0 else "it is damaged, cut short or of another kind"
        raise VggWeightsUnreadableError(path, reason) from error
    if not isinstance(content, Mapping):
        raise VggWeightsUnreadableError(path, f"it holds a {type(content).__name__}, not a dict of tensors")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _is_safetensors(path: Path) -> bool:
    # Eight bytes with the length of the header, and the header is a JSON object.
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"
