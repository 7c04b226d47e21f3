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
        known = f"bundled are {', '.join(bundled)}" if bundled else "this installation bundles none"
        super().__init__(
            f"No bundled style is called {name!r}: {known}",
            f"Choose one of them or give an engine's path, such as --engine {name}.onnx",
        )


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


class BackendFailedError(UserError):
    """The back end gave up on a picture it had accepted."""

    def __init__(self, backend: str, reason: str) -> None:
        super().__init__(f"{backend} failed: {reason}", "Try a smaller picture with --size")


# --- pictures --------------------------------------------------------------------------------------------------------


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

    def __init__(self, height: int, width: int, need: int, free: int, longest_side: int) -> None:
        super().__init__(
            f"A picture of {width}x{height} px needs about {need / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free",
            f"Make it smaller: --size {longest_side}",
        )


# --- export ----------------------------------------------------------------------------------------------------------


class ParityError(UserError):
    """The engine's pixels differ from PyTorch's by more than its precision allows; no file is left behind."""

    def __init__(self, measured: str, limit: str) -> None:
        super().__init__(
            f"The engine differs from PyTorch by {measured}; allowed is {limit}; nothing was written",
            "Please report it with the checkpoint; --no-verify writes the file all the same",
        )


class ExportFailedError(UserError):
    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The exporter failed: {reason}", "Check the installed versions: pip install --upgrade 'nst[export]'"
        )
