"""What a plan says of itself: ``NAME.plan.json`` beside a ``NAME.plan`` that stays a pure TensorRT plan."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, get_args

from nst_common.atomic_file import atomic_write
from nst_deploy.contract import MIN_SIZE, ContractError, ModelContract
from nst_deploy.errors import (
    EngineNotFoundError,
    EngineUnreadableError,
    PlanMismatchError,
    SidecarMalformedError,
    SidecarMissingError,
)

Flavor = Literal["tensorrt", "rtx"]
FLAVORS: tuple[Flavor, ...] = get_args(Flavor)  # in the order of preference
PLAN_SUFFIXES: dict[Flavor, str] = {"tensorrt": ".plan", "rtx": ".rtx.plan"}
PLAN_SUFFIX = ".plan"  # of both, where it only matters that it is no ONNX file

Shape: TypeAlias = tuple[int, int, int]  # N, H, W


@dataclass(frozen=True)
class Profile:
    """The shapes that a plan takes: each of N, H and W between its ``min`` and ``max``, fastest at ``opt``.

    Raises:
        ValueError: they are not in this order, or below 1.
    """

    min: Shape
    opt: Shape
    max: Shape

    def __post_init__(self) -> None:
        if not all(1 <= low <= best <= high for low, best, high in zip(self.min, self.opt, self.max, strict=True)):
            raise ValueError(f"a profile of {self.min}, {self.opt}, {self.max}, expected 1 <= min <= opt <= max")

    def allows(self, shape: Shape) -> bool:
        return all(low <= side <= high for low, side, high in zip(self.min, shape, self.max, strict=True))


DEFAULT_PROFILE = Profile((1, MIN_SIZE, MIN_SIZE), (1, 512, 512), (1, 2160, 3840))  # up to one 4K picture


@dataclass(frozen=True)
class PlanSidecar:
    """Everything that must be known of a plan before, or instead of, deserialising it.

    Attributes:
        contract: as in an ONNX engine's metadata.
        plan_sha256: of the plan's bytes, hex.
        flavor: the library that built it and alone can load it.
        library_version: of that library, as it prints it ("10.13.3.9").
        gpu_name: of the GPU that it was built on; None where there was none.
        compute_capabilities: of the GPUs that it runs on ("8.9"); empty: only those like the one it was built on, or,
            of a portable plan, all from 8.0.
        profile: the shapes that it takes.
        portable: built to run on other GPUs and with later versions of the library too.
        weights_stripped: it holds no weights; they must be refitted from the ONNX engine before it can run.
        build_seconds: how long the build took.
    """

    contract: ModelContract
    plan_sha256: str
    flavor: Flavor
    library_version: str
    gpu_name: str | None
    compute_capabilities: tuple[str, ...]
    profile: Profile
    portable: bool
    weights_stripped: bool
    build_seconds: float

    def to_json(self) -> str:
        """One flat object: the contract's ``nst.*`` keys, and the attributes above by their names."""
        entries: dict[str, object] = {
            **self.contract.to_metadata(),
            "plan_sha256": self.plan_sha256,
            "flavor": self.flavor,
            "library_version": self.library_version,
            "gpu_name": self.gpu_name,
            "compute_capabilities": self.compute_capabilities,
            "profile_min": self.profile.min,
            "profile_opt": self.profile.opt,
            "profile_max": self.profile.max,
            "portable": self.portable,
            "weights_stripped": self.weights_stripped,
            "build_seconds": self.build_seconds,
        }
        return json.dumps(entries, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Inverse of ``to_json``; further keys are ignored.

        Raises:
            ContractError: the message says what is missing or malformed.
        """
        try:
            entries = json.loads(text)
        except ValueError as error:
            raise ContractError(f"it is not JSON: {error}") from error
        if not isinstance(entries, dict):
            raise ContractError(f"it holds a JSON {type(entries).__name__}, expected an object")
        contract = ModelContract.from_metadata({k: v for k, v in entries.items() if isinstance(v, str)})
        try:
            sidecar = cls(
                contract=contract,
                plan_sha256=_typed(entries, "plan_sha256", str),
                flavor=_flavor(entries),
                library_version=_typed(entries, "library_version", str),
                gpu_name=None if entries["gpu_name"] is None else _typed(entries, "gpu_name", str),
                compute_capabilities=tuple(_list_of(entries, "compute_capabilities", str)),
                profile=Profile(*(_shape(entries, f"profile_{name}") for name in ("min", "opt", "max"))),
                portable=_typed(entries, "portable", bool),
                weights_stripped=_typed(entries, "weights_stripped", bool),
                build_seconds=float(_typed(entries, "build_seconds", (int, float))),
            )
        except KeyError as error:
            raise ContractError(f"it lacks {error.args[0]}") from error
        except ValueError as error:
            raise ContractError(str(error)) from error
        size = contract.static_size
        if size is not None and not size == sidecar.profile.min[1:] == sidecar.profile.max[1:]:
            raise ContractError(f"nst.static_size is {size[0]}x{size[1]}, its profile has other sizes")
        return sidecar


def sidecar_path(plan: Path) -> Path:
    """Where a plan's sidecar lies: ``la_muse.plan`` -> ``la_muse.plan.json``."""
    return plan.with_name(plan.name + ".json")


def read_plan(plan: Path) -> tuple[bytes, PlanSidecar]:
    """A plan's bytes and its sidecar, which belong together.

    Raises:
        EngineNotFoundError, EngineUnreadableError: the plan.
        SidecarMissingError, SidecarMalformedError: its sidecar.
        PlanMismatchError: they do not belong together: the plan was replaced or cut short.
    """
    if not plan.is_file():
        raise EngineNotFoundError(plan)
    content = _read(plan)
    path = sidecar_path(plan)
    if not path.is_file():
        raise SidecarMissingError(plan, path)
    try:
        sidecar = PlanSidecar.from_json(_read(path).decode())
    except (ContractError, UnicodeDecodeError) as error:
        raise SidecarMalformedError(path, str(error)) from error
    if sha256(content) != sidecar.plan_sha256:
        raise PlanMismatchError(plan, path)
    return content, sidecar


def read_sidecar(plan: Path) -> PlanSidecar:
    """A plan's sidecar alone; raises what ``read_plan`` does, for the plan must be the one it describes."""
    return read_plan(plan)[1]


def write_sidecar(plan: Path, sidecar: PlanSidecar) -> None:
    """Writes it beside ``plan``, atomically.

    Raises:
        CannotWriteError.
    """
    with atomic_write(sidecar_path(plan)) as partial:
        partial.write_text(sidecar.to_json(), encoding="utf-8")


def write_plan(plan: Path, content: bytes, sidecar: PlanSidecar) -> None:
    """Writes a plan and its sidecar; neither appears without the other.

    Raises:
        CannotWriteError.
    """
    placed = False
    try:
        with atomic_write(sidecar_path(plan)) as described:
            described.write_text(sidecar.to_json(), encoding="utf-8")
            with atomic_write(plan) as partial:
                partial.write_bytes(content)
            placed = True
    except BaseException:
        if placed:  # beside no sidecar, or an older plan's
            plan.unlink(missing_ok=True)
        raise


def sha256(plan: bytes) -> str:
    """As ``plan_sha256`` holds it."""
    return hashlib.sha256(plan).hexdigest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EngineUnreadableError(path, error.strerror or str(error)) from error


def _typed(entries: Mapping[str, Any], key: str, kind: type | tuple[type, ...]) -> Any:
    value = entries[key]
    # JSON's true is not a number, though Python's is.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{key} is {value!r}")
    return value


def _list_of(entries: Mapping[str, Any], key: str, kind: type) -> list[Any]:
    values: list[Any] = _typed(entries, key, list)
    if not all(type(value) is kind for value in values):
        raise ValueError(f"{key} is {values!r}")
    return values


def _shape(entries: Mapping[str, Any], key: str) -> Shape:
    values = _list_of(entries, key, int)
    if len(values) != 3:
        raise ValueError(f"{key} is {values!r}, expected [N, H, W]")
    return values[0], values[1], values[2]


def _flavor(entries: Mapping[str, Any]) -> Flavor:
    given = entries["flavor"]
    for flavor in FLAVORS:
        if given == flavor:
            return flavor
    raise ValueError(f"flavor is {given!r}, expected one of {', '.join(FLAVORS)}")
