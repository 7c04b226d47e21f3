"""What an engine promises to whoever embeds it, and how the file says so."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self, get_args

FORMAT_VERSION = 1
INPUT_NAME = "image"  # uint8 [N, H, W, 3], RGB, 0..255
OUTPUT_NAME = "styled"  # uint8 [N, H, W, 3], RGB, same H and W
MIN_SIZE = 8  # px: at a quarter of the resolution a reflection needs 2
SIZE_MULTIPLE = 4  # px: two stride-2 convolutions; the graph pads right and bottom by reflection and crops again
METADATA_PREFIX = "nst."

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
DEFAULT_PRECISIONS: tuple[Precision, ...] = ("fp32",)  # fp16 is for GPUs, CPUs run it slowly; int8 is not as exact


@dataclass(frozen=True)
class Parity:
    """How far an engine's pixels are from PyTorch's, over every picture and size that was compared.

    Attributes:
        max_levels: largest difference of any value, levels of 0..255.
        identical: share of values that are equal, 0..1.
        psnr_db: of all values together; None when all are equal (JSON knows no infinity).
        backend: what ran the engine.
    """

    max_levels: int
    identical: float
    psnr_db: float | None
    backend: str


class ContractError(ValueError):
    """The metadata is absent, incomplete or of an unknown version; the message says which."""


@dataclass(frozen=True)
class ModelContract:
    """The part of the contract that differs between engines; the constants above are the same for all.

    Attributes:
        style: name of the style.
        precision: of every number between the two casts, ``fp32`` or ``fp16``; ``int8`` of what the large convolutions
            multiply, the rest being left to whoever runs it.
        checkpoint_sha256: of the checkpoint it was exported from, hex.
        package_version: of the nst that exported it.
        working_bytes_per_pixel: estimated peak memory of a run, bytes per pixel of the batch.
        static_size: (H, W) in px of an engine that takes only this size; None for any size from 8 px.
        parity: measured at export; None when that was skipped.
        norm_scales: by what each convolution before an instance norm was multiplied, in their order, so that values
            stay near 1 in half precision; empty where none was.
    """

    style: str
    precision: Precision
    checkpoint_sha256: str
    package_version: str
    working_bytes_per_pixel: int
    static_size: tuple[int, int] | None = None
    parity: Parity | None = None
    norm_scales: tuple[float, ...] = ()

    def to_metadata(self) -> dict[str, str]:
        """``nst.*`` keys for ONNX ``metadata_props`` or a plan's sidecar."""
        entries = {
            "format_version": str(FORMAT_VERSION),
            "style": self.style,
            "precision": self.precision,
            "checkpoint_sha256": self.checkpoint_sha256,
            "package_version": self.package_version,
            "working_bytes_per_pixel": str(self.working_bytes_per_pixel),
            "static_size": "x".join(map(str, self.static_size)) if self.static_size else "",
            "parity": json.dumps(dataclasses.asdict(self.parity)) if self.parity else "",
            "norm_scales": json.dumps(self.norm_scales) if self.norm_scales else "",
        }
        return {METADATA_PREFIX + key: value for key, value in entries.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Self:
        """Inverse of ``to_metadata``; keys without the prefix are ignored.

        Raises:
            ContractError: a key is missing, malformed, or the format version is not ours.
        """
        entries = {k.removeprefix(METADATA_PREFIX): v for k, v in metadata.items() if k.startswith(METADATA_PREFIX)}
        if not entries:
            raise ContractError("it carries no nst.* metadata")
        if entries.get("format_version") != str(FORMAT_VERSION):
            version = entries.get("format_version", "missing")
            raise ContractError(f"its format version is {version}, this nst reads {FORMAT_VERSION}")
        try:
            return cls(
                style=entries["style"],
                precision=_parse_precision(entries["precision"]),
                checkpoint_sha256=entries["checkpoint_sha256"],
                package_version=entries["package_version"],
                working_bytes_per_pixel=int(entries["working_bytes_per_pixel"]),
                static_size=_parse_size(entries["static_size"]),
                parity=Parity(**json.loads(entries["parity"])) if entries["parity"] else None,
                norm_scales=tuple(map(float, json.loads(entries["norm_scales"] or "[]"))),
            )
        except KeyError as error:
            raise ContractError(f"its metadata lacks nst.{error.args[0]}") from error
        except (TypeError, ValueError) as error:
            raise ContractError(f"its metadata is malformed: {error}") from error


def _parse_precision(text: str) -> Precision:
    for precision in PRECISIONS:
        if text == precision:
            return precision
    raise ValueError(f"precision {text!r}, expected one of {', '.join(PRECISIONS)}")


def _parse_size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    height, width = text.split("x")
    return int(height), int(width)
