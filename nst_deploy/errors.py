"""Every error that a user of nst_deploy can meet, each with its remedy."""

from collections.abc import Sequence
from pathlib import Path

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


class OutputIsInputError(UsageError):
    def __init__(self, source: Path, target: Path) -> None:
        problem = f"{source} would be written onto {'itself' if source == target else f'{target}, another input'}"
        super().__init__(problem, "Choose another folder or pattern with --out")


class OutputExistsError(UsageError):
    def __init__(self, first: Path, count: int, total: int) -> None:
        problem = f"{first} exists already" + (f", as do {count - 1} more of {total} outputs" if count > 1 else "")
        super().__init__(problem, "Replace with --overwrite, keep with --skip-existing, or choose another --out")


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
