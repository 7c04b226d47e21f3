"""Checkpoints: a file that rebuilds its own net. Ours (.pth), and other projects' through nst_train.foreign."""

import dataclasses
import hashlib
import io
import math
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nst_common.atomic_file import atomic_write
from nst_train import foreign
from nst_train.errors import CheckpointMismatchError, CheckpointNotFoundError, CheckpointUnreadableError
from nst_train.tensor_file import load_tensors
from nst_train.transform_net import TransformNet, TransformNetConfig

FORMAT = "nst.checkpoint"
FORMAT_VERSION = 1
MAX_STYLE_NAME = 100  # characters
STYLE_NAME = re.compile(rf"\w[\w.-]{{0,{MAX_STYLE_NAME - 1}}}")
MAX_VARIABLE_BYTES = 1 << 20  # in an .npz; a network's largest is 590 kB, and a compressed archive can claim anything


@dataclass(frozen=True)
class Checkpoint:
    """A trained net with what is known of it.

    Attributes:
        config: rebuilds the net.
        state: the net's state dict, on the CPU.
        style: name of the style, the file's stem unless the file says otherwise.
        origin: ``nst``, ``pytorch/examples`` or ``lengstrom``.
        record: how it was trained (plain numbers, strings, lists, dicts); empty for foreign files.
        sha256: of the file it came from, hex; empty before it was saved.
    """

    config: TransformNetConfig
    state: dict[str, Tensor]
    style: str
    origin: str = "nst"
    record: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""

    def build(self) -> TransformNet:
        """The net in evaluation mode, float32, on the CPU; its weights are copies.

        Raises:
            StateMismatchError: a tensor is missing, superfluous, misshapen or not one of real numbers.
        """
        with torch.device("meta"):  # takes no memory, so that a config alone can claim none
            net = TransformNet(self.config)
        _check_state(self.state, {name: value.shape for name, value in net.state_dict().items()})
        state = {name: value.to(torch.float32).contiguous().clone() for name, value in self.state.items()}
        net.load_state_dict(state, assign=True)
        return net.eval()


class StateMismatchError(ValueError):
    """A state dict is not that of the net; the message names the tensor."""


def _check_state(state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> None:
    for name, shape in shapes.items():
        if name not in state:
            raise StateMismatchError(f"tensor {name!r} is missing")
        value = state[name]
        if value.shape != shape:
            raise StateMismatchError(f"tensor {name!r} has shape {list(value.shape)}, expected {list(shape)}")
        if not value.is_floating_point() or value.layout != torch.strided:
            raise StateMismatchError(
                f"tensor {name!r} holds {value.dtype}, {value.layout}; expected real numbers, dense"
            )
        if not torch.isfinite(value).all():
            raise StateMismatchError(f"tensor {name!r} holds values that are infinite or not numbers")
    if surplus := sorted(set(state) - set(shapes)):
        raise StateMismatchError(f"tensor {surplus[0]!r} belongs to no layer")


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes ``path`` atomically: config, weights and training record, readable with ``weights_only=True``.

    Raises:
        CannotWriteError: an unwritable place or a full disk; an older file at ``path`` stays as it was.
    """
    content = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "config": dataclasses.asdict(checkpoint.config),
        "state": checkpoint.state,
        "style": checkpoint.style,
        "record": checkpoint.record,
    }
    buffer = io.BytesIO()  # torch's own file writer turns a full disk into a RuntimeError without its reason
    torch.save(content, buffer)
    with atomic_write(path) as partial:
        partial.write_bytes(buffer.getbuffer())


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads our .pth, a fast_neural_style state dict, or lengstrom's .npz; the content decides, never the name.

    Nothing in the file is executed.

    Raises:
        CheckpointNotFoundError: no such file.
        CheckpointUnreadableError: not a container of any known kind, truncated, or with code inside.
        CheckpointMismatchError: a tensor is missing, superfluous or misshapen (it is named).
    """
    if not path.is_file():
        raise CheckpointNotFoundError(path)
    content = _read_container(path)
    try:
        checkpoint = _interpret(path, content)
        checkpoint.build()  # every tensor is there and fits, or the error below names the one that does not
    except (foreign.ForeignWeightsError, StateMismatchError) as error:
        raise CheckpointMismatchError(path, str(error)) from error
    return checkpoint


def _read_container(path: Path) -> Mapping[str, Any]:
    """The dict inside a .pth, or the arrays of an .npz by name."""
    try:
        if _is_npz(path):
            return _read_npz(path)
        content = load_tensors(path)
    except pickle.UnpicklingError as error:
        reason = "it holds Python objects other than tensors, which are never loaded"
        if not zipfile.is_zipfile(path) and not _starts_like_pickle(path):
            reason = "it is not a PyTorch file"
        raise CheckpointUnreadableError(path, reason) from error
    except (OSError, ValueError, EOFError, RuntimeError, KeyError, zipfile.BadZipFile) as error:
        reason = "the file is empty" if path.stat().st_size == 0 else "it is damaged, cut short or of another kind"
        raise CheckpointUnreadableError(path, reason) from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise CheckpointUnreadableError(path, f"it holds a {type(content).__name__}, not a dict of named tensors")
    return content


def _is_npz(path: Path) -> bool:
    # A .pth is a zip archive too, but holds no .npy members.
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith(".npy") for name in archive.namelist())


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The network's variables; whatever else a TensorFlow checkpoint holds stays unread."""
    variables = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if foreign.is_network_variable(name):
                with archive.open(member) as file:
                    variables[name] = _read_array(file)
    return variables


def _read_array(file: IO[bytes]) -> NDArray[Any]:
    """One .npy of bounded size: neither its header nor its compression can claim more memory than a kernel takes."""
    content = io.BytesIO(file.read(MAX_VARIABLE_BYTES + 1))
    version = np.lib.format.read_magic(content)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(content)
    if math.prod(shape) * dtype.itemsize > MAX_VARIABLE_BYTES:
        raise ValueError("larger than any variable of the network")
    content.seek(0)
    array: NDArray[Any] = np.lib.format.read_array(content, allow_pickle=False)
    return array


def _starts_like_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) == b"\x80"


def _interpret(path: Path, content: Mapping[str, Any]) -> Checkpoint:
    sha256 = file_sha256(path)
    if content.get("format") == FORMAT:
        return _interpret_ours(path, content, sha256)
    tensors = content.get("state_dict", content)  # some training scripts wrap the state dict once more
    if isinstance(tensors, Mapping) and foreign.is_pytorch_examples(tensors):
        config, state = foreign.from_pytorch_examples(_only_tensors(path, tensors))
        return Checkpoint(config, state, style_of(path), "pytorch/examples", sha256=sha256)
    if foreign.is_lengstrom(content):
        config, state = foreign.from_lengstrom(content)
        return Checkpoint(config, state, style_of(path), "lengstrom", sha256=sha256)
    some = ", ".join(sorted(map(str, content))[:3]) or "nothing"
    raise CheckpointUnreadableError(path, f"its tensors belong to no known network (it holds {some}, …)")


def _interpret_ours(path: Path, content: Mapping[str, Any], sha256: str) -> Checkpoint:
    if content.get("version") != FORMAT_VERSION:
        reason = f"its format version is {content.get('version')}, this nst reads {FORMAT_VERSION}"
        raise CheckpointUnreadableError(path, reason)
    missing = [key for key in ("config", "state", "style", "record") if key not in content]
    if missing:
        raise CheckpointMismatchError(path, f"its entry {missing[0]!r} is missing")
    if not isinstance(content["record"], dict):
        raise CheckpointMismatchError(path, "its training record is not a dict")
    return Checkpoint(
        config=_config_from(path, content["config"]),
        state=_only_tensors(path, content["state"]),
        style=_style_from(path, content["style"]),
        record=content["record"],
        sha256=sha256,
    )


def _style_from(path: Path, style: object) -> str:
    # It becomes a file's name: one that leads elsewhere must never be believed.
    if not isinstance(style, str) or not STYLE_NAME.fullmatch(style):
        given = ascii(style)[:80]
        raise CheckpointMismatchError(path, f"its style is {given}, expected a name of letters, digits and . _ - signs")
    return style


def style_of(path: Path) -> str:
    """A style's name from its file's; what such a name cannot hold is replaced by ``_``."""
    name = re.sub(r"[^\w.-]", "_", path.stem).lstrip(".-")[:MAX_STYLE_NAME]
    return name or "style"


def _config_from(path: Path, values: object) -> TransformNetConfig:
    fields = [field.name for field in dataclasses.fields(TransformNetConfig)]
    if not isinstance(values, Mapping) or set(values) != set(fields):
        raise CheckpointMismatchError(path, f"its config must have exactly the fields {', '.join(fields)}")
    widths = values["widths"]
    try:
        return TransformNetConfig(**{**values, "widths": tuple(widths) if isinstance(widths, list) else widths})
    except (TypeError, ValueError) as error:
        raise CheckpointMismatchError(path, f"its config has {error}") from error


def _only_tensors(path: Path, values: object) -> dict[str, Tensor]:
    if not isinstance(values, Mapping):
        raise CheckpointMismatchError(path, f"its weights are a {type(values).__name__}, not a dict of tensors")
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointMismatchError(path, f"{name!r} is a {type(value).__name__}, not a tensor")
    return dict(values)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
