"""What a command may write over: nothing unasked, and never what it reads."""

import os
from collections.abc import Iterable
from pathlib import Path

from nst_common.errors import UsageError


class OutputExistsError(UsageError):
    """Something would be replaced that nobody said may be.

    Args:
        first: the first output that exists.
        count: how many of them exist.
        total: how many outputs there would be; 0 says nothing of it.
        remedy: what to do about them.
    """

    def __init__(
        self,
        first: Path,
        count: int = 1,
        total: int = 0,
        remedy: str = "Replace it with --overwrite, or choose another name",
    ) -> None:
        more = f", as do {count - 1} more" if count > 1 else ""
        of_all = f" of {total} outputs" if more and total else ""
        super().__init__(f"{first} exists already{more}{of_all}", remedy)


class OutputIsInputError(UsageError):
    def __init__(self, source: Path, target: Path, remedy: str = "Choose another name") -> None:
        problem = f"{source} would be written onto {'itself' if source == target else f'{target}, another input'}"
        super().__init__(problem, remedy)


class OutputIsNoFileError(UsageError):
    def __init__(self, path: Path) -> None:
        what = "a folder" if path.is_dir() else "a device or a pipe"
        super().__init__(f"{path} is {what}, expected the name of a file to write", "Choose another name")


def refuse_losses(outputs: Iterable[Path], *, inputs: Iterable[Path | None] = (), overwrite: bool) -> None:
    """Makes sure, before the work, that none of ``outputs`` costs the user a file.

    Args:
        inputs: what the work reads; None where nothing is read.
        overwrite: outputs that exist may be replaced, but still no input.

    Raises:
        OutputIsInputError, OutputExistsError: something would be lost.
        OutputIsNoFileError: a folder or a device is in the way.
    """
    wanted = list(outputs)
    read = {os.path.realpath(path) for path in inputs if path is not None}
    for path in wanted:
        if os.path.realpath(path) in read:
            raise OutputIsInputError(path, path)
        if path.exists() and not path.is_file():
            raise OutputIsNoFileError(path)
    existing = [] if overwrite else [path for path in wanted if os.path.lexists(path)]
    if existing:
        raise OutputExistsError(existing[0], len(existing))
