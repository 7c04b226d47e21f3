"""Where a training logs: a folder of its own inside --log-dir, found again when it is resumed."""

import itertools
import os
import re
from pathlib import Path

from nst_train.errors import LogFolderError

OWNER = "training.txt"  # in the folder: whose it is, by the path of its checkpoint


def claim_log_folder(log_dir: Path, out: Path, *, resumed: bool) -> Path:
    """The folder that the training of ``out`` logs to: ``log_dir/STEM``, or ``STEM-2``, … where those are taken.

    Two stages whose checkpoints have the same name, or a second training to the same ``out``, would otherwise draw
    their curves on top of each other.

    Args:
        resumed: take the folder that the training had before, where it is still there.

    Raises:
        LogFolderError: it cannot be made.
    """
    try:
        if resumed and (theirs := _folders_of(log_dir, out)):
            return theirs[-1]
        return _new_folder(log_dir, out)
    except OSError as error:
        raise LogFolderError(log_dir, error.strerror or str(error)) from error


def _new_folder(log_dir: Path, out: Path) -> Path:
    log_dir.mkdir(parents=True, exist_ok=True)
    name = as_text(out.stem)
    for number in itertools.count(1):
        folder = log_dir / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        (folder / OWNER).write_bytes(_owner(out))
        return folder
    raise AssertionError("numbers do not end")


def _folders_of(log_dir: Path, out: Path) -> list[Path]:
    """The folders of trainings of ``out``, oldest first."""
    numbered = re.compile(re.escape(as_text(out.stem)) + r"(?:-(\d+))?")
    found: dict[int, Path] = {}
    for owner in log_dir.glob(f"*/{OWNER}"):
        name = numbered.fullmatch(owner.parent.name)
        if name and owner.read_bytes() == _owner(out):
            found[int(name[1] or 1)] = owner.parent
    return [found[number] for number in sorted(found)]


def as_text(name: str) -> str:
    """A file's name as TensorBoard takes it: bytes that are no UTF-8 are replaced."""
    return os.fsencode(name).decode(errors="replace")


def _owner(out: Path) -> bytes:
    return os.fsencode(out.absolute()) + b"\n"  # a path need not be text
