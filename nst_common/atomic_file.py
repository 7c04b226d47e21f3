"""Files that appear whole or not at all."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nst_common.errors import UserError

NO_FILE = "it is a device or a pipe, no file"
LONGEST_NAME = 240  # bytes; file systems allow 255, and the partial file's name adds 15


class CannotWriteError(UserError):
    """A file could not be written; whatever stood at its path before is untouched.

    Attributes:
        disk_full: there is no room for it, nor for what would come next.
    """

    def __init__(self, path: Path, cause: OSError) -> None:
        self.disk_full = cause.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = cause.strerror or str(cause)
        if self.disk_full:
            remedy = "Free some space or choose another place for it"
        elif cause.errno == errno.EEXIST:
            remedy = "Choose another name, or replace it with --overwrite"
        else:
            remedy = "Choose a place that exists and that you may write to"
        super().__init__(f"Cannot write {path}: {reason}", remedy)


def prepare_folder(folder: Path) -> None:
    """Makes sure, before the work that it is for, that files can be written to ``folder``; makes it where needed.

    Raises:
        CannotWriteError: a file stands in its place, or it is not ours to write to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as cause:
        raise CannotWriteError(folder, NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))) from cause
    except OSError as cause:
        raise CannotWriteError(folder, cause) from cause
    if not os.access(folder, os.W_OK | os.X_OK):
        raise CannotWriteError(folder, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


@contextmanager
def atomic_write(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Gives a path beside ``path`` to write to, and renames it to ``path`` once the block ends without an error.

    On any error, also Ctrl-C, the partial file is removed and ``path`` is as it was. A device is never replaced.

    Args:
        overwrite: without it a file that has appeared at ``path`` in the meantime is an error, too.

    Raises:
        CannotWriteError: for every OSError inside the block, with a remedy.
    """
    name = path.name if len(os.fsencode(path.name)) <= LONGEST_NAME else "long-name"
    partial = path.with_name(f".{name}.{os.urandom(4).hex()}.part")
    try:
        _refuse_a_device(path)
        yield partial
        _flush_to_disk(partial)
        if overwrite:
            partial.replace(path)
        else:
            _publish_new(partial, path)
    except OSError as cause:
        raise CannotWriteError(path, cause) from cause
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _refuse_a_device(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR)) if stat.S_ISDIR(mode) else OSError(NO_FILE)


def _publish_new(partial: Path, path: Path) -> None:
    """Gives ``partial`` its final name unless that is taken, in one indivisible step where the file system can."""
    try:
        path.hardlink_to(partial)
    except FileExistsError:
        raise
    except OSError as cause:  # no hard links here, as on FAT
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from cause
        partial.replace(path)


def _flush_to_disk(path: Path) -> None:
    # Without it a power cut after the rename could leave an empty file under the final name.
    descriptor = os.open(path, os.O_RDWR)  # Windows flushes only what it could write to
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
