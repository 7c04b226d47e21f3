"""Every error that a user of nst_train can meet, each with its remedy."""

from pathlib import Path

from nst_common.errors import UserError

CHECKPOINT_KINDS = (
    "an nst .pth, a pytorch/examples fast_neural_style .pth or a lengstrom/fast-style-transfer .npz"
)


class CheckpointNotFoundError(UserError):
    def __init__(self, path: Path) -> None:
        super().__init__(f"No checkpoint at {path}", "Check the path given with --ckpt")


class CheckpointUnreadableError(UserError):
    """The file is not a container that may be read safely (truncated, of another kind, or with code inside)."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"Cannot read {path} as a checkpoint: {reason}; expected {CHECKPOINT_KINDS}",
            "Fetch the file anew, or save it again as a plain state dict",
        )


class CheckpointMismatchError(UserError):
    """The container was read, but a tensor is missing, superfluous or of another shape."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path} does not fit: {problem}", f"Expected {CHECKPOINT_KINDS}, whole and unaltered")


class PictureTooSmallError(UserError):
    def __init__(self, height: int, width: int, minimum: int) -> None:
        super().__init__(
            f"The picture is {height}x{width} px (height x width), but the network needs at least {minimum}x{minimum}",
            "Give a larger picture",
        )
