"""Every error that a user of nst_train can meet, each with its remedy."""

from collections.abc import Sequence
from pathlib import Path

from nst_common.errors import UsageError, UserError

CHECKPOINT_KINDS = "an nst .pth, a pytorch/examples fast_neural_style .pth or a lengstrom/fast-style-transfer .npz"


class CheckpointNotFoundError(UserError):
    def __init__(self, path: Path) -> None:
        super().__init__(f"No checkpoint at {path}", "Check the path")


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


# --- training --------------------------------------------------------------------------------------------------------


class ConfigError(UsageError):
    """A training option, on the command line, in a recipe or from Python, that cannot be meant."""

    def __init__(self, option: str, problem: str, remedy: str = "Run nst-train fit --help for the options") -> None:
        super().__init__(f"{option}: {problem}", remedy)


class RecipeError(UsageError):
    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"Cannot use the recipe {path}: {problem}", "See nst-train fit --help for names and values")


class RecipeTextError(UserError):
    def __init__(self, path: Path, text: str) -> None:
        super().__init__(
            f"Cannot save the recipe {path}: {text!a} holds bytes that are no UTF-8, which TOML requires",
            "Rename that file, or leave out --save-recipe",
        )


class ContentNotFoundError(UserError):
    def __init__(self, path: Path) -> None:
        super().__init__(f"No folder of photographs at {path}", "Check the path given with --content")


class ContentEmptyError(UserError):
    """No picture is left to train on: none there, all held out, or all unreadable."""

    def __init__(self, folders: str, reason: str) -> None:
        super().__init__(f"{folders}: {reason}", "Give --content a folder with photographs (JPEG, PNG, WebP, …)")


class StyleUnreadableError(UserError):
    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"Cannot read the style picture {path}: {reason}", "Give --style a JPEG, PNG or WebP file")


class InitMismatchError(UserError):
    """The net to start from has another architecture than the one to train."""

    def __init__(self, path: Path, found: str) -> None:
        super().__init__(
            f"Cannot start from {path}: its {found}", "Start from a net of the same kind, or train without --init"
        )


class ResumeMismatchError(UserError):
    """A training state belongs to another configuration; each difference is named."""

    def __init__(self, path: Path, differences: str) -> None:
        super().__init__(
            f"{path} belongs to another configuration: {differences}",
            "Repeat the options of that run, or train to another --out",
        )


class StateUnreadableError(UserError):
    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"Cannot resume from {path}: {reason}", "Delete that file to train from the beginning")


class UnfinishedRunError(UsageError):
    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} holds an unfinished training",
            "Continue it with --resume, begin anew with --overwrite or by deleting it, or train to another --out",
        )


class DivergedError(UserError):
    """The losses or the weights of a training left the finite numbers, or its losses rose far.

    Args:
        step: the one that failed.
        problem: what is wrong with it.
        last_good: the file of the last good net, and its step; None where nothing was written yet.
        options: what to add to the command to start from that net.
    """

    def __init__(self, step: int, problem: str, last_good: tuple[Path, int] | None = None, options: str = "") -> None:
        kept = "nothing was written yet"
        remedy = "Train with a lower --lr, a longer --warmup or --precision fp32"
        if last_good is not None:
            path, good_step = last_good
            kept = f"the last good net, of step {good_step}, is in {path}"
            remedy = f"Start from that one with a lower --lr: repeat the command with {options}"
        super().__init__(f"Training diverged at step {step}: {problem}; {kept}", remedy)


class DeviceMissingError(UsageError):
    def __init__(self, device: str, problem: str) -> None:
        super().__init__(f"--device {device}: {problem}", "Use --device cpu, or install a PyTorch that sees the GPU")


class CannotJoinError(UserError):
    """The environment says that there are other processes, but they cannot be reached."""

    def __init__(self, rank: int | str, world: int | str, reason: str) -> None:
        super().__init__(
            f"Process {rank} of {world} cannot join the others: {reason}",
            "Start them with torchrun; to train alone, unset WORLD_SIZE",
        )


class ConnectionLostError(UserError):
    def __init__(self, rank: int, world: int) -> None:
        super().__init__(
            f"Process {rank} of {world} lost the connection to another one",
            "See above what ended that one; start all of them again, with --resume where there is a checkpoint",
        )


class TrainingOutOfMemoryError(UserError):
    def __init__(self, batch: int, crop: int) -> None:
        super().__init__(
            f"Out of memory while training with a batch of {batch} crops of {crop} px",
            "Lower --batch, --crop, --style-size or --cache-mib, or close other programs",
        )


class BatchNotDivisibleError(UsageError):
    def __init__(self, batch: int, world: int) -> None:
        super().__init__(
            f"A batch of {batch} crops cannot be shared evenly by {world} processes",
            "--batch counts the crops of all processes together: choose a multiple of their number",
        )


# --- the loss network ------------------------------------------------------------------------------------------------

VGG_FILE_KINDS = "a torchvision VGG state dict (features.N.weight and .bias) as .pth or .safetensors"


class UnknownLayerError(UsageError):
    def __init__(self, layer: str, architecture: str, known: Sequence[str]) -> None:
        super().__init__(
            f"{architecture} has no layer {layer!r}; its layers are {', '.join(known)}", "Name one or more of these"
        )


class LayerNotInWeightsError(UserError):
    """The weights stop before the layer that was asked for."""

    def __init__(self, path: Path, layer: str, deepest: str) -> None:
        super().__init__(
            f"{path} stops at {deepest}, but layer {layer} was asked for",
            f"Choose layers up to {deepest}, or give a fuller file with --vgg-weights",
        )


class VggWeightsNotFoundError(UserError):
    def __init__(self, path: Path) -> None:
        super().__init__(f"No VGG weights at {path}", "Check the path given with --vgg-weights")


class VggWeightsUnreadableError(UserError):
    """The file is not a container that may be read safely (truncated, of another kind, or with code inside)."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"Cannot read {path} as VGG weights: {reason}; expected {VGG_FILE_KINDS}",
            "Fetch the file anew, or leave --vgg-weights out to let torchvision download the published weights",
        )


class VggWeightsMismatchError(UserError):
    """The container was read, but a tensor is missing, superfluous or of another shape."""

    def __init__(self, path: Path, architecture: str, problem: str) -> None:
        super().__init__(
            f"{path} does not fit {architecture}: {problem}; expected {VGG_FILE_KINDS}",
            "Give the file that belongs to the architecture, or fetch it anew",
        )


class VggDownloadError(UserError):
    def __init__(self, architecture: str, url: str, cause: Exception) -> None:
        super().__init__(
            f"Cannot download the {architecture} weights from {url}: {cause}",
            "Connect to the network, or fetch that file elsewhere and give it with --vgg-weights FILE",
        )


class StyleTooSmallError(UserError):
    def __init__(self, height: int, width: int, layer: str, minimum: int) -> None:
        super().__init__(
            f"The style picture is {height}x{width} px (height x width), but layer {layer} needs at least "
            f"{minimum}x{minimum}",
            "Give a larger style picture or a larger --style-size, or choose shallower layers or fewer octaves",
        )


# --- the slow optimisation -------------------------------------------------------------------------------------------


class DescentDivergedError(UserError):
    def __init__(self, iteration: int, total: float) -> None:
        super().__init__(
            f"The optimisation diverged at iteration {iteration}: the objective is {total:g}",
            "Lower the weights of the objective, or with --optimizer adam lower --adam-lr",
        )


class SampleUnreadableError(UserError):
    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"Cannot read the sample picture {path}: {reason}", "Give --sample a JPEG, PNG or WebP file")


class LogFolderError(UserError):
    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(f"Cannot write the log to {folder}: {reason}", "Choose another folder with --log-dir")


class DescentOutOfMemoryError(UserError):
    def __init__(self, height: int, width: int) -> None:
        super().__init__(
            f"Out of memory while optimising a picture of {height}x{width} px (height x width)",
            "Work at a smaller --size, or close other programs",
        )


# --- single pictures -------------------------------------------------------------------------------------------------


class PictureNotFoundError(UserError):
    def __init__(self, path: Path, option: str) -> None:
        what = "is a folder, expected a picture" if path.is_dir() else "does not exist"
        super().__init__(f"{option}: {path} {what}", f"Give {option} a picture file")


class PictureUnreadableError(UserError):
    def __init__(self, path: Path, option: str, reason: str) -> None:
        super().__init__(f"{option}: cannot read {path}: {reason}", "Give a JPEG, PNG or WebP file that is whole")


class TooLargeForFormatError(UserError):
    def __init__(self, path: Path, width: int, height: int, limit: int) -> None:
        super().__init__(
            f"Cannot write {path}: {width}x{height} px (width x height), "
            f"but {path.suffix} holds at most {limit} a side",
            "End it in .png, or make the picture smaller with --size",
        )


class SuffixError(UsageError):
    def __init__(self, path: Path, option: str, known: Sequence[str]) -> None:
        super().__init__(f"{option}: {path} has no known suffix", f"End it in one of {', '.join(known)}")


class CannotCompileError(UserError):
    def __init__(self, reason: str) -> None:
        first = next((line for line in reason.splitlines() if line.strip()), "no reason given")
        super().__init__(f"torch.compile failed: {first.strip()}", "Leave out --compile, or install a C++ compiler")
