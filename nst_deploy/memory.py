"""How much memory a picture needs, and how much there is."""

from pathlib import Path

from nst_deploy.contract import MIN_SIZE, ModelContract
from nst_deploy.errors import NotEnoughMemoryError
from nst_deploy.images import PictureSize

DECODING_BYTES_PER_PIXEL = 24  # the decoder's picture, a converted copy, and the array made from it
HOLDING_BYTES_PER_PIXEL = 64  # photograph and styled picture, and their float copies while they are blended
UNLIMITED = 2**60  # bytes: control groups write their "no limit" as a number beyond any machine


class MemoryGuard:
    """Refuses pictures that would not fit, before they are decoded.

    A runtime keeps memory between runs to use it again, so that what looks taken is partly its own: a picture that
    needs no more than one that already went well is let through.
    """

    def __init__(self, contract: ModelContract, *, on_gpu: bool = False) -> None:
        """
        Args:
            on_gpu: the engine works in a GPU's memory, which the back end itself watches over.
        """
        working = 0 if on_gpu else contract.working_bytes_per_pixel
        self._bytes_per_pixel = working + HOLDING_BYTES_PER_PIXEL
        self._proven = 0  # bytes

    def check(self, size: PictureSize) -> None:
        """
        Raises:
            NotEnoughMemoryError: the estimated need exceeds what is free; it names the ``--size`` that would fit.
        """
        need = self._need(size)
        if need <= self._proven:
            return
        free = free_memory()
        if free is not None and need > free:
            raise NotEnoughMemoryError(size.height, size.width, need, free, self._largest_fitting(size, free))

    def went_well(self, size: PictureSize) -> None:
        """A picture of this size has been styled."""
        self._proven = max(self._proven, self._need(size))

    def _need(self, size: PictureSize) -> int:
        """Bytes: decoding is over before the engine runs, so the larger of the two counts."""
        return max(size.decoded_pixels * DECODING_BYTES_PER_PIXEL, size.height * size.width * self._bytes_per_pixel)

    def _largest_fitting(self, size: PictureSize, free: int) -> int | None:
        """The longest side in px at which it would fit; None where not even a reduced picture could be decoded."""
        if not size.decodes_reduced and size.decoded_pixels * DECODING_BYTES_PER_PIXEL > free:
            return None
        scale: float = (free / (size.height * size.width * self._bytes_per_pixel)) ** 0.5
        if min(size.height, size.width) * scale < MIN_SIZE:
            return None
        return int(max(size.height, size.width) * scale)


def free_memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that can be used without swapping, also by the limits of a container; None where that is unknown.

    Known on Linux only: macOS compresses and swaps before anything fails, and Windows grows its page file.
    """
    known = [free for free in (_meminfo_available(proc / "meminfo"), _cgroup_free(proc, cgroups)) if free is not None]
    return min(known, default=None)


def _meminfo_available(meminfo: Path) -> int | None:
    for line in _read(meminfo).splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024  # written in kiB
    return None


def _cgroup_free(proc: Path, cgroups: Path) -> int | None:
    """The tightest limit on the way from our control group to the root, minus what is used below it."""
    free: list[int] = []
    for line in _read(proc / "self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":  # version 2
            root, limit, usage, reclaimable = cgroups, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):  # version 1
            root, reclaimable = cgroups / "memory", "total_inactive_file"
            limit, usage = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        own = root / group.lstrip("/")
        # Inside a container the path may be the host's, and then only the mounted root exists.
        for folder in (own, *own.parents):
            if folder.is_relative_to(root):
                free += _limit_minus_usage(folder, limit, usage, reclaimable)
    return min(free, default=None)


def _limit_minus_usage(folder: Path, limit: str, usage: str, reclaimable: str) -> list[int]:
    """One number, or none where there is no limit."""
    limit_text, usage_text = _read(folder / limit).strip(), _read(folder / usage).strip()
    if not (limit_text.isdigit() and usage_text.isdigit()) or int(limit_text) >= UNLIMITED:
        return []
    entries = dict(line.split() for line in _read(folder / "memory.stat").splitlines())
    cache = int(entries.get(reclaimable, 0))  # of files: the kernel gives it up before it refuses
    return [max(0, int(limit_text) - int(usage_text) + cache)]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
