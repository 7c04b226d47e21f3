"""Models that OpenVINO has compiled, kept for the next process: it opens them three times as fast.

OpenVINO's own cache (``CACHE_DIR``) is keyed by path, size and time. Wheels give every file the same time and nets of
one shape the same size, so after an upgrade it would go on running the old style; hence one by content.
"""

import hashlib
import os
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nst_common.atomic_file import CannotWriteError, atomic_write

KEPT = 16  # files of about 7 MB; beyond that the longest unused go
SUFFIX = ".blob"


def user_cache_folder() -> Path:
    """Where programs of this system keep what can be made anew."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "nst" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "nst"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nst"


class BlobCache:
    """Blobs by content. A folder that cannot be read or written is as good as an empty one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, model: bytes, *made_by: str) -> Path:
        """Where the blob of a model lies; ``made_by`` is all else that it depends on."""
        digest = hashlib.sha256(model)
        for text in made_by:
            digest.update(b"\0" + text.encode())
        return self._folder / (digest.hexdigest() + SUFFIX)

    def load(self, path: Path) -> NDArray[np.uint8] | None:
        """Its bytes; None where there is none."""
        try:
            blob = np.fromfile(path, np.uint8)
        except OSError:
            return None
        with suppress(OSError):
            os.utime(path)  # used just now
        return blob if blob.size else None

    def store(self, path: Path, blob: bytes) -> None:
        """Keeps it where that is possible, and lets go of the longest unused."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with atomic_write(path) as partial:
                partial.write_bytes(blob)
            by_use = sorted(self._folder.glob("*" + SUFFIX), key=lambda file: file.stat().st_mtime, reverse=True)
        except (OSError, CannotWriteError):
            return
        for unused in by_use[KEPT:]:
            with suppress(OSError):
                unused.unlink()
