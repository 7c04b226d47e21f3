"""How a plan is built: its sizes, what it may use and where it must run."""

from dataclasses import dataclass
from typing import TypeAlias

from nst_common.errors import UsageError
from nst_deploy.contract import MIN_SIZE
from nst_deploy.plan_sidecar import DEFAULT_PROFILE, Flavor, Profile

Size: TypeAlias = tuple[int, int]  # H, W in px

DEFAULT_MIN_SIZE: Size = DEFAULT_PROFILE.min[1:]
DEFAULT_OPT_SIZE: Size = DEFAULT_PROFILE.opt[1:]
DEFAULT_MAX_SIZE: Size = DEFAULT_PROFILE.max[1:]
MAX_SIZE = 8192  # px along a side: what is above it would overflow TensorRT's 2^31 elements of one tensor
MAX_BATCH = 1024
OPTIMIZATION_LEVELS = range(6)  # TensorRT's
CURRENT_GPU = "current"  # in place of a compute capability: the one of the GPU that builds
# What TensorRT-RTX can build for, and what it does build for unless told: Turing costs the others speed.
RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
RTX_DEFAULT_CAPABILITIES = RTX_CAPABILITIES[1:]


@dataclass(frozen=True)
class BuildOptions:
    """Options of a plan; those that only one flavour has are refused for the other by ``check_flavor``.

    Attributes:
        min_size, opt_size, max_size: (H, W) in px that the plan takes at least, is fastest at, takes at most; without
            ``opt_size`` it is 512x512, or what of the range is nearest to that.
        max_batch: pictures at once; the plan takes 1 to this many and is fastest at this many.
        workspace_bytes: scratch memory that a layer may use; None: all that the GPU has.
        optimization_level: 0 (built fastest) to 5 (runs fastest); None: the library's own choice. TensorRT alone.
        portable: runs on every GPU from compute capability 8.0 and with later releases of TensorRT, somewhat slower.
        strip_weights: leave the weights out; they are read from the FP16 ONNX engine when the plan is opened.
        compute_capabilities: of the GPUs to build for, such as "8.9", or "current"; empty: RTX's own choice.

    Raises:
        UsageError: a value that no plan can have.
    """

    min_size: Size = DEFAULT_MIN_SIZE
    opt_size: Size | None = None
    max_size: Size = DEFAULT_MAX_SIZE
    max_batch: int = DEFAULT_PROFILE.max[0]
    workspace_bytes: int | None = None
    optimization_level: int | None = None
    portable: bool = False
    strip_weights: bool = False
    compute_capabilities: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("min_size", "opt_size", "max_size"):
            size = getattr(self, name)
            if size is not None and not all(MIN_SIZE <= side <= MAX_SIZE for side in size):
                expected = f"HxW of {MIN_SIZE}..{MAX_SIZE} px"
                raise UsageError(f"{_flag(name)} is {_text(size)}, expected {expected}", "Choose another")
        self._check_order()
        if not 1 <= self.max_batch <= MAX_BATCH:
            raise UsageError(f"--max-batch is {self.max_batch}, expected 1..{MAX_BATCH}", "Choose another")
        if self.workspace_bytes is not None and self.workspace_bytes < 1:
            raise UsageError(
                f"--workspace is {self.workspace_bytes} bytes, expected more than 0",
                "Leave it away to use all there is",
            )
        level = self.optimization_level
        if level is not None and level not in OPTIMIZATION_LEVELS:
            raise UsageError(f"--opt-level is {level}, expected 0..{OPTIMIZATION_LEVELS[-1]}", "Choose another")
        self._check_capabilities()

    def _check_order(self) -> None:
        opt = self.opt_size or self._default_opt()
        for lower, low, higher, high in (
            ("min_size", self.min_size, "max_size", self.max_size),
            ("min_size", self.min_size, "opt_size", opt),
            ("opt_size", opt, "max_size", self.max_size),
        ):
            if any(a > b for a, b in zip(low, high, strict=True)):
                raise UsageError(
                    f"{_flag(lower)} is {_text(low)}, {_flag(higher)} {_text(high)} (HxW), expected min <= opt <= max",
                    f"Change {_flag(lower)} or {_flag(higher)}",
                )

    def _check_capabilities(self) -> None:
        given = self.compute_capabilities
        for capability in given:
            if capability not in (*RTX_CAPABILITIES, CURRENT_GPU):
                known = ", ".join(RTX_CAPABILITIES)
                raise UsageError(
                    f"--compute-capability {capability} is unknown to TensorRT-RTX", f"Known are {known}, {CURRENT_GPU}"
                )
        if CURRENT_GPU in given and len(given) > 1:
            raise UsageError(
                f"--compute-capability {','.join(given)} mixes {CURRENT_GPU} with others", "Give one or the other"
            )

    def check_flavor(self, flavor: Flavor) -> None:
        """
        Raises:
            UsageError: an option that the flavour does not have.
        """
        if flavor == "tensorrt" and self.compute_capabilities:
            raise UsageError(
                "--compute-capability is for TensorRT-RTX: TensorRT builds for the GPU that it runs on",
                "Leave it away, give --portable for GPUs of other kinds, or choose --trt-flavor rtx",
            )
        if flavor == "rtx" and self.portable:
            raise UsageError(
                "--portable is for TensorRT: every RTX plan runs on GPUs of several kinds, and with one release only",
                "Leave it away, or choose --trt-flavor tensorrt; --compute-capability says which GPUs",
            )
        if flavor == "rtx" and self.optimization_level is not None:
            raise UsageError(
                "--opt-level is for TensorRT: TensorRT-RTX optimises where the plan runs",
                "Leave it away, or choose --trt-flavor tensorrt",
            )

    def profile(self, static_size: Size | None = None) -> Profile:
        """The shapes that the plan will take.

        Args:
            static_size: (H, W) of a graph that takes only this size.

        Raises:
            UsageError: it comes with sizes of its own.
        """
        if static_size is None:
            low, best, high = self.min_size, self.opt_size or self._default_opt(), self.max_size
        else:
            self._refuse_sizes(static_size)
            low = best = high = static_size
        return Profile((1, *low), (self.max_batch, *best), (self.max_batch, *high))

    def _refuse_sizes(self, static_size: Size) -> None:
        defaults = BuildOptions()
        for name in ("min_size", "opt_size", "max_size"):
            if getattr(self, name) != getattr(defaults, name):
                raise UsageError(
                    f"--static {_text(static_size)} leaves no choice of sizes, {_flag(name)} was given as well",
                    f"Leave {_flag(name)} or --static away",
                )

    def _default_opt(self) -> Size:
        height, width = (
            min(max(best, low), high)
            for low, best, high in zip(self.min_size, DEFAULT_OPT_SIZE, self.max_size, strict=True)
        )
        return height, width


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
