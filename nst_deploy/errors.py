"""Every error that a user of nst_deploy can meet, each with its remedy."""

from collections.abc import Sequence
from pathlib import Path

from nst_common import outputs
from nst_common.errors import UsageError, UserError

# --- engines ---------------------------------------------------------------------------------------------------------


class EngineNotFoundError(UserError):
    def __init__(self, path: Path) -> None:
        super().__init__(f"No engine at {path}", "Check the path, or make one: nst-export --ckpt CHECKPOINT")


class UnknownStyleError(UsageError):
    def __init__(self, name: str, bundled: Sequence[str]) -> None:
        if bundled:
            problem = f"No bundled style is called {name!r}: bundled are {', '.join(bundled)}"
            remedy = f"Choose one of them, or give an engine's path such as --engine {name}.onnx"
        else:
            problem = f"No style is bundled with this installation, so there is no {name!r}"
            remedy = "Make an engine with nst-export --ckpt CHECKPOINT and give its path, such as --engine NAME.onnx"
        super().__init__(problem, remedy)


class EngineUnreadableError(UserError):
    """Not an ONNX file, or a damaged one."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"Cannot load {path} as an engine: {reason}", "Copy it anew, or export it again: nst-export")


class NotAnEngineError(UserError):
    """A valid model that does not keep the engines' contract."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{path} is not an nst engine: {reason}", "Engines are made from checkpoints: nst-export --ckpt CHECKPOINT"
        )


class SidecarMissingError(UserError):
    def __init__(self, plan: Path, sidecar: Path) -> None:
        super().__init__(
            f"{plan} has no {sidecar.name} beside it, which says what it takes and what can run it",
            "Copy that too, or build the plan again: nst-export --format plan --ckpt CHECKPOINT",
        )


class SidecarMalformedError(UserError):
    def __init__(self, sidecar: Path, reason: str) -> None:
        super().__init__(
            f"{sidecar} does not describe a plan: {reason}",
            "Build the plan again: nst-export --format plan --ckpt CHECKPOINT",
        )


class PlanMismatchError(UserError):
    """The sidecar describes another file than the plan beside it."""

    def __init__(self, plan: Path, sidecar: Path) -> None:
        super().__init__(
            f"{plan} is not the file that {sidecar.name} describes: it was replaced or cut short",
            "Copy both anew, or build the plan again: nst-export --format plan --ckpt CHECKPOINT",
        )


class BackendMissingError(UserError):
    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed", f"Install it: pip install 'nst[{extra}]'")


class BackendBrokenError(UserError):
    """The package is there but does not load: a half-made installation, or a system library that it lacks."""

    def __init__(self, package: str, reason: str) -> None:
        super().__init__(
            f"{package} is installed but cannot be loaded: {reason}",
            f"Install it anew: pip install --force-reinstall {package}",
        )


class PrecisionUnavailableError(UserError):
    def __init__(self, precision: str) -> None:
        super().__init__(
            f"This CPU does not compute in {precision}", "Leave --precision away: the engine's own runs everywhere"
        )


class PrecisionUnknownError(UsageError):
    """A back end was asked for a precision that it has on no machine."""

    def __init__(self, device: str, precision: str, known: str) -> None:
        super().__init__(
            f"--device {device} does not compute in {precision}", f"Choose --device {known}, or leave --precision away"
        )


class Int8EngineMissingError(UserError):
    """INT8 engines are files of their own, and there is none beside the engine that was given."""

    def __init__(self, engine: Path, expected: Path) -> None:
        super().__init__(
            f"Computing {engine} in int8 takes an engine made for it, and there is no {expected}",
            "Make it: nst-export --precision int8 --ckpt CHECKPOINT",
        )


class Int8EngineForeignError(UserError):
    """The INT8 engine beside an engine was made from another checkpoint."""

    def __init__(self, engine: Path, beside: Path) -> None:
        super().__init__(
            f"{beside} was not made from the checkpoint of {engine}: their SHA-256 differ",
            "Export both anew: nst-export --precision fp32,int8 --ckpt CHECKPOINT",
        )


class BackendFailedError(UserError):
    """The back end gave up on a picture it had accepted."""

    def __init__(self, backend: str, reason: str) -> None:
        super().__init__(f"{backend} failed: {reason}", "Try a smaller picture with --size")


# --- GPUs and plans ---------------------------------------------------------------------------------------------------


class GpuUnavailableError(UserError):
    def __init__(self, reason: str) -> None:
        super().__init__(
            f"No CUDA GPU can be used here: {reason}", "Look at what nvidia-smi shows, or run it without: --device cpu"
        )


class DriverTooOldError(UserError):
    """The GPU's driver knows an earlier CUDA than the installed packages are made for; versions are (major, minor)."""

    def __init__(self, supported: tuple[int, int], needed: tuple[int, int]) -> None:
        super().__init__(
            f"The NVIDIA driver supports CUDA {_version(supported)} at most, the installed packages need "
            f"{_version(needed)}",
            "Update the driver, or run it without: --device cpu",
        )


class OutOfDeviceMemoryError(UserError):
    """The GPU's memory does not suffice; sizes in bytes, ``need`` None where the library does not say."""

    def __init__(self, need: int | None, free: int, total: int) -> None:
        asked = "more" if need is None else _gib(need)
        super().__init__(
            f"Out of GPU memory: {asked} needed, {_gib(free)} of {_gib(total)} were free",
            "Make the picture smaller (--size), give fewer at once, or close other programs on the GPU",
        )


class CannotCaptureError(UserError):
    def __init__(self, reason: str) -> None:
        super().__init__(f"The engine could not be captured as a CUDA graph: {reason}", "Leave --cuda-graph away")


class NoCudaGraphError(UsageError):
    """A CUDA graph was asked for where there is none to be had."""

    def __init__(self, where: str) -> None:
        super().__init__(
            f"{where} runs without CUDA graphs",
            "Leave --cuda-graph away, or choose --device tensorrt with a plan, or --device cuda with a --static export",
        )


class WrongKindOfEngineError(UsageError):
    """A plan where an ONNX engine is needed, or the other way round."""

    def __init__(self, engine: Path, given: str, remedy: str) -> None:
        super().__init__(f"{engine} is {given}", remedy)


class PlanElsewhereError(UserError):
    """A plan that was built for another library, version or GPU than what is here."""

    def __init__(self, plan: Path, built_for: str, here: str, flavor: str) -> None:
        super().__init__(
            f"{plan} was built for {built_for}, here is {here}",
            f"Build it here: nst-export --format plan --trt-flavor {flavor} --ckpt CHECKPOINT",
        )


class RtxUnsupportedError(UserError):
    """TensorRT-RTX runs nothing on this GPU, whatever a plan was built for.

    Args:
        what: the plan, or what was asked for.
        gpu: its name.
        capability: its compute capability, such as ``9.0``.
        version: of TensorRT-RTX.
        known: the compute capabilities that it runs on.
    """

    def __init__(self, what: str, gpu: str, capability: str, version: str, known: Sequence[str]) -> None:
        super().__init__(
            f"{what} cannot run on {gpu}: TensorRT-RTX {version} runs on GPUs of compute capability "
            f"{', '.join(known)}, not {capability}",
            "Run the FP16 engine there (nst-export --precision fp16) with --device cuda, or a plan of TensorRT itself: "
            "nst-export --format plan --trt-flavor tensorrt --ckpt CHECKPOINT",
        )


class PlanWeightsMissingError(UserError):
    """A stripped plan whose weights are not at hand."""

    def __init__(self, plan: Path, looked_for: str, reason: str) -> None:
        super().__init__(
            f"{plan} holds no weights, and {looked_for} does not give them: {reason}",
            "Put the ONNX engine that it was built from beside it, or build it without --strip-weights",
        )


class PackagesCollideError(UserError):
    """Both wheels of ONNX Runtime are installed; they own the same files, so that one of them is broken."""

    def __init__(self) -> None:
        super().__init__(
            "Both onnxruntime and onnxruntime-gpu are installed, and they overwrite each other's files",
            "Keep one: pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'nst[gpu]'",
        )


class ProviderUnavailableError(UserError):
    """An execution provider of ONNX Runtime that is not part of the wheel, or does not load."""

    def __init__(self, provider: str, reason: str, remedy: str) -> None:
        super().__init__(f"ONNX Runtime's {provider} cannot be used: {reason}", remedy)


class ProviderPrecisionError(UsageError):
    def __init__(self, switch: str) -> None:
        super().__init__(
            "ONNX Runtime's TensorRT provider would compute this float32 engine in TF32, which has 10 bits of 23",
            f"Give it an FP16 engine (nst-export --precision fp16), set {switch}=0, or choose --device cuda",
        )


class NotADeviceArrayError(UsageError):
    def __init__(self, given: str) -> None:
        super().__init__(
            f"Expected a C-contiguous uint8 array [H, W, 3] or [N, H, W, 3] in the memory of the engine's GPU; "
            f"got {given}",
            "Arrays of torch, CuPy and pycuda qualify: whatever has __cuda_array_interface__ or __dlpack__",
        )


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


def _version(number: tuple[int, int]) -> str:
    return ".".join(map(str, number))


# --- pictures --------------------------------------------------------------------------------------------------------


class PictureNotFoundError(UserError):
    def __init__(self, path: Path) -> None:
        super().__init__(f"No picture at {path}", "Check the path")


class EmptyPathError(UsageError):
    def __init__(self, option: str) -> None:
        super().__init__(f"{option} is empty, expected a path", "Perhaps a variable of your shell is not set")


class NoPicturesError(UserError):
    """A folder or a glob in which there is no picture."""

    def __init__(self, given: str) -> None:
        super().__init__(f"No picture found in {given}", "Give picture files, a folder that holds some, or a glob")


class PictureUnreadableError(UserError):
    """Not a picture, a damaged one, or one of a kind that Pillow does not read."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"Cannot read {path} as a picture: {reason}", "Fetch it anew, or convert it to PNG or JPEG first"
        )


class PictureTooLargeError(UserError):
    """The header claims more pixels than Pillow agrees to decode: most often a file made to exhaust the memory."""

    def __init__(self, path: Path, limit: int) -> None:
        super().__init__(
            f"{path} claims more than {limit} pixels, as decompression bombs do",
            "If it is genuine, reduce it with another program first",
        )


class UnknownFormatError(UsageError):
    def __init__(self, path: Path, suffix: str, known: Sequence[str]) -> None:
        given = f"with suffix {suffix!r}" if suffix else "without a suffix"
        super().__init__(
            f"Cannot write {path}: no picture format {given} is known here",
            f"Use one of {' '.join(known)}; a folder ends with /",
        )


class CannotEncodeError(UserError):
    """The format cannot hold this picture."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"Cannot write {path}: {reason}", "Choose another format, such as .png, or a smaller --size")


class PictureSizeError(UserError):
    def __init__(self, height: int, width: int, expected: str, remedy: str) -> None:
        super().__init__(f"The picture is {width}x{height} px (width x height), expected {expected}", remedy)


class NotAPictureError(UsageError):
    """A value of the wrong type, shape or dtype was given to the Python API."""

    def __init__(self, given: str) -> None:
        super().__init__(
            f"Expected a PIL.Image, a uint8 array [H, W, 3] or [N, H, W, 3], or a list of these; got {given}",
            "Convert it first, for example numpy.asarray(picture.convert('RGB'))",
        )


class NotEnoughMemoryError(UserError):
    """Refused before the work: the estimated need exceeds what is free."""

    def __init__(self, height: int, width: int, need: int, free: int, longest_side: int | None) -> None:
        super().__init__(
            f"A picture of {width}x{height} px needs about {need / 2**30:.2f} GiB, {free / 2**30:.2f} GiB are free",
            f"Make it smaller: --size {longest_side}" if longest_side else "Close other programs",
        )


# --- outputs ---------------------------------------------------------------------------------------------------------


class OutputPatternError(UsageError):
    def __init__(self, out: str, field: str, known: Sequence[str]) -> None:
        super().__init__(f"--out {out} has the field {field}", f"The fields are {' '.join(known)}")


class OutputIsOneFileError(UsageError):
    def __init__(self, out: str, count: int) -> None:
        super().__init__(
            f"--out {out} is one file, but there are {count} pictures",
            "Give a folder (end it with /) or a pattern such as 'styled/{stem}.{ext}'",
        )


class OutputCollisionError(UsageError):
    def __init__(self, first: Path, second: Path, target: Path) -> None:
        super().__init__(
            f"{first} and {second} would both be written to {target}",
            "Tell them apart with a pattern, such as --out '{stem}.{style}.{ext}'",
        )


class OutputIsInputError(outputs.OutputIsInputError):
    def __init__(self, source: Path, target: Path) -> None:
        super().__init__(source, target, "Choose another folder or pattern with --out")


class OutputExistsError(outputs.OutputExistsError):
    def __init__(self, first: Path, count: int, total: int) -> None:
        remedy = "Replace with --overwrite, keep with --skip-existing, or choose another --out"
        super().__init__(first, count, total, remedy)


# --- export ----------------------------------------------------------------------------------------------------------


class ParityError(UserError):
    """The engine's pixels differ from PyTorch's by more than its precision allows; no file is written for it."""

    def __init__(self, measured: str, limit: str) -> None:
        super().__init__(
            f"The engine differs from PyTorch by {measured}; allowed is {limit}; nothing was written",
            "Please report it with the checkpoint; an export with --no-verify writes the file all the same",
        )


class ReferenceFailedError(UserError):
    """PyTorch could not compute the pictures that an engine is compared with."""

    def __init__(self, height: int, width: int, reason: str) -> None:
        super().__init__(
            f"PyTorch failed on the {width}x{height} px picture to compare with: {reason}",
            "Compare on smaller pictures with --verify-images, or skip it with --no-verify",
        )


class WrongCheckpointError(UserError):
    def __init__(self, engine: Path, checkpoint: Path) -> None:
        super().__init__(
            f"{engine} was not made from {checkpoint}: their SHA-256 differ", "Give the checkpoint that it came from"
        )


class ExportFailedError(UserError):
    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The exporter failed: {reason}", "Check the installed versions: pip install --upgrade 'nst[export]'"
        )


# --- plans -----------------------------------------------------------------------------------------------------------


class BuilderMissingError(UserError):
    def __init__(self) -> None:
        super().__init__(
            "Nothing that builds plans is installed",
            "Install TensorRT-RTX, which needs no GPU to build: pip install 'nst[rtx]'; "
            "or TensorRT for the GPU of this machine: pip install 'nst[tensorrt]'",
        )


class ParserFailedError(UserError):
    """The builder does not understand the ONNX model; the message holds all that its parser says."""

    def __init__(self, library: str, reason: str) -> None:
        super().__init__(
            f"{library} cannot read the ONNX model: {reason}",
            "Update it, or report this with the checkpoint and its version",
        )


class BuildFailedError(UserError):
    def __init__(self, library: str, reason: str, remedy: str) -> None:
        super().__init__(f"{library} could not build the plan: {reason}", remedy)


class BuildNeedsGpuError(UserError):
    def __init__(self, library: str, reason: str) -> None:
        super().__init__(
            f"{library} needs a GPU to build this plan, and none can be used here: {reason}",
            "Build it on a machine that has one; TensorRT-RTX builds plans that hold their weights without: "
            "--trt-flavor rtx",
        )


class BuildOutOfMemoryError(UserError):
    """
    Args:
        memory: (free, total) of the GPU, bytes, after the build gave up; None where it cannot be asked.
    """

    def __init__(self, library: str, reason: str, memory: tuple[int, int] | None) -> None:
        free = f"; {memory[0] / 2**30:.2f} of {memory[1] / 2**30:.2f} GiB of the GPU are free" if memory else ""
        super().__init__(
            f"{library} ran out of memory while it built the plan: {reason}{free}",
            "Lower --max-size, --max-batch or --workspace, or close other programs",
        )


# --- Triton ----------------------------------------------------------------------------------------------------------


class ModelExistsError(outputs.OutputExistsError):
    """The repository has a model of this name already."""


class NotAModelError(UsageError):
    """What stands at a model's place is something else, and is not ours to remove."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} exists and is no model of a Triton repository (it holds no config.pbtxt)",
            "Move it away, or choose another --out",
        )


class PlanNotServableError(UserError):
    """Triton's TensorRT back end could not load this plan, or not keep its contract."""

    def __init__(self, plan: Path, reason: str, remedy: str) -> None:
        super().__init__(f"Triton cannot serve {plan}: {reason}", remedy)


class ServerAddressError(UsageError):
    def __init__(self, address: str) -> None:
        super().__init__(
            f"{address!r} is not the address of a served model",
            "Expected grpc://HOST:8001/MODEL or http://HOST:8000/MODEL",
        )


class ServerUnreachableError(UserError):
    def __init__(self, address: str, reason: str) -> None:
        super().__init__(
            f"No server answers at {address}: {reason}",
            "Start it, or check host and port (Triton's own are 8000 for HTTP, 8001 for gRPC)",
        )


class ServerTimeoutError(UserError):
    def __init__(self, address: str, seconds: float) -> None:
        super().__init__(
            f"{address} did not answer within {seconds:g} s",
            "Give it more time with --timeout, or smaller or fewer pictures at once",
        )


class ModelNotReadyError(UserError):
    def __init__(self, address: str, reason: str) -> None:
        super().__init__(
            f"{address} is not ready: {reason}",
            "The server's log says why; a model that is missing is made with nst-export --format triton",
        )


class NotAServedEngineError(UserError):
    """A model that is served, but does not keep the engines' contract."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(
            f"{address} is not an nst engine: {reason}", "Serve a model made by nst-export --format triton"
        )


class ServerFailedError(UserError):
    """The server refused a request, or answered with something else than styled pictures."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"{address} failed: {reason}", "The server's log says more")
