"""Files that appear whole or not at all."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nst_common.errors import UserError


class CannotWriteError(UserError):
    """A file could not be written; whatever stood at its path before is untouched."""

    def __init__(self, path: Path, cause: OSError) -> None:
        reason = cause.strerror or str(cause)
        remedy = (
            "Free some space or choose another place with --out"
            if cause.errno in (errno.ENOSPC, errno.EDQUOT)
            else "Choose a place with --out that exists and that you may write to"
        )
        super().__init__(f"Cannot write {path}: {reason}", remedy)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Gives a path beside ``path`` to write to, and renames it to ``path`` once the block ends without an error.

    On any error, also Ctrl-C, the partial file is removed and ``path`` is as it was.

    Raises:
        CannotWriteError: for every OSError inside the block, with a remedy.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield partial
        _flush_to_disk(partial)
        partial.replace(path)
    except OSError as cause:
        raise CannotWriteError(path, cause) from cause
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _flush_to_disk(path: Path) -> None:
    # Without it a power cut after the rename could leave an empty file under the final name.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
