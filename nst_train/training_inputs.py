"""What a training reads: photographs, painting, weights; and their fingerprints."""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nst_train.checkpoints import file_sha256, load_checkpoint
from nst_train.config import TrainConfig
from nst_train.data import PictureStore, find_pictures
from nst_train.errors import ContentEmptyError, InitMismatchError
from nst_train.transform_net import TransformNetConfig

NET_TO_START_FROM = "net to start from"  # among the fingerprints


@dataclass(frozen=True)
class TrainingInputs:
    """The files behind a config.

    Attributes:
        photographs: to train on.
        held_out: how many were found but excluded.
        fingerprints: SHA-256 by the name that an error uses; photographs by name and size, so that folders may move.
    """

    photographs: tuple[Path, ...]
    held_out: int
    fingerprints: dict[str, str]


def find_inputs(config: TrainConfig) -> TrainingInputs:
    """Looks for the photographs and fingerprints every file.

    Raises:
        ContentNotFoundError, ContentEmptyError: no folder; no photograph to train on.
    """
    found = find_pictures(config.content)
    photographs = tuple(path for path in found if path.name not in config.exclude)
    if not photographs:
        names = ", ".join(map(str, config.content))
        raise ContentEmptyError(names, f"all {len(found)} picture files are held out by --exclude")
    return TrainingInputs(photographs, len(found) - len(photographs), _fingerprints(config, photographs))


def _fingerprints(config: TrainConfig, photographs: Sequence[Path]) -> dict[str, str]:
    listing = "\n".join(f"{path.name} {path.stat().st_size}" for path in photographs)
    return {
        "style": _sha256(config.style),
        "list of photographs": hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest(),
        "VGG file": _sha256(config.vgg_weights),
        NET_TO_START_FROM: _sha256(config.init),
    }


def _sha256(path: Path | None) -> str:
    # A file that is not there is for its reader to complain of.
    return file_sha256(path) if path is not None and path.is_file() else ""


def open_photographs(config: TrainConfig, inputs: TrainingInputs, device: torch.device) -> PictureStore:
    """The photographs, decoded on demand and kept on the device.

    Raises:
        ContentEmptyError: none of them is readable.
    """
    # Twice the crop leaves the largest window its detail, and keeps crops of large photographs from being mere texture.
    return PictureStore(inputs.photographs, short_side=2 * config.crop, budget=config.cache_mib << 20, device=device)


def weights_to_start_from(path: Path, wanted: TransformNetConfig) -> dict[str, Tensor]:
    """The state dict of another style's net.

    Raises:
        CheckpointNotFoundError, CheckpointUnreadableError, CheckpointMismatchError: see load_checkpoint.
        InitMismatchError: it is a net of another architecture.
    """
    checkpoint = load_checkpoint(path)
    if checkpoint.config != wanted:
        mine, theirs = dataclasses.asdict(wanted), dataclasses.asdict(checkpoint.config)
        found = "; ".join(
            f"{name} is {theirs[name]}, asked for is {mine[name]}" for name in mine if mine[name] != theirs[name]
        )
        raise InitMismatchError(path, found)
    return checkpoint.build().state_dict()
