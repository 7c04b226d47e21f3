from pathlib import Path

import pytest

from nst_deploy import memory
from nst_deploy.errors import NotEnoughMemoryError
from nst_deploy.images import PictureSize
from nst_deploy.memory import DECODING_BYTES_PER_PIXEL, HOLDING_BYTES_PER_PIXEL, MemoryGuard, free_memory
from tests.engines import CONTRACT

GIB = 2**30
PER_PIXEL = CONTRACT.working_bytes_per_pixel + HOLDING_BYTES_PER_PIXEL


def size(height: int, width: int, decoded: int | None = None, *, reduced: bool = False) -> PictureSize:
    return PictureSize(height, width, decoded or height * width, reduced)


def guard(monkeypatch: pytest.MonkeyPatch, free: int | None) -> MemoryGuard:
    monkeypatch.setattr(memory, "free_memory", lambda: free)
    return MemoryGuard(CONTRACT)


def test_what_fits_is_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    guard(monkeypatch, 1000 * 1000 * PER_PIXEL).check(size(1000, 1000))


def test_what_does_not_fit_is_refused_with_a_size_that_does(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = guard(monkeypatch, 1000 * 1000 * PER_PIXEL)
    with pytest.raises(NotEnoughMemoryError, match=r"4000x2000 px needs about .* GiB.*--size 1414$"):
        watch.check(size(2000, 4000, reduced=True))
    watch.check(size(707, 1414))
    with pytest.raises(NotEnoughMemoryError):
        watch.check(size(710, 1420))


def test_unknown_memory_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    guard(monkeypatch, None).check(size(10**6, 10**6))


def test_decoding_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    free = 1000 * 1000 * DECODING_BYTES_PER_PIXEL
    with pytest.raises(NotEnoughMemoryError, match="Close other programs"):
        guard(monkeypatch, free).check(size(100, 100, decoded=1000 * 1001))
    # ... but a JPEG can be decoded at less
    with pytest.raises(NotEnoughMemoryError, match=r"--size \d+$"):
        guard(monkeypatch, free).check(size(1000, 1001, reduced=True))


def test_memory_that_the_engine_holds_from_before_is_not_counted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    free = [1000 * 1000 * PER_PIXEL]
    monkeypatch.setattr(memory, "free_memory", lambda: free[0])
    watch = MemoryGuard(CONTRACT)
    watch.check(size(900, 1000))
    watch.went_well(size(900, 1000))
    free[0] //= 10  # the runtime keeps what it has
    watch.check(size(1000, 900))
    with pytest.raises(NotEnoughMemoryError):
        watch.check(size(1000, 910))


def test_a_picture_too_thin_to_be_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotEnoughMemoryError, match="Close other programs"):
        guard(monkeypatch, 100 * 10 * PER_PIXEL).check(size(10, 10000, decoded=1))


# --- what the system says --------------------------------------------------------------------------------------------


class System:
    """A made-up /proc and /sys/fs/cgroup."""

    def __init__(self, root: Path) -> None:
        self.proc, self.cgroups = root / "proc", root / "cgroup"

    def write(self, path: str, text: str) -> None:
        file = self.proc.parent / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def available(self, gib: int) -> None:
        self.write("proc/meminfo", f"MemTotal: 99 kB\nMemFree: 1 kB\nMemAvailable:   {gib * 2**20} kB\nCached: 3 kB\n")

    def free(self) -> int | None:
        return free_memory(self.proc, self.cgroups)


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path)


def test_a_system_that_says_nothing(system: System) -> None:
    assert system.free() is None


def test_meminfo(system: System) -> None:
    system.available(8)
    assert system.free() == 8 * GIB


def test_cgroup_version_2(system: System) -> None:
    system.available(8)
    system.write("proc/self/cgroup", "0::/user.slice/job\n")
    system.write("cgroup/user.slice/job/memory.max", "max\n")
    system.write("cgroup/user.slice/job/memory.current", f"{GIB}\n")
    assert system.free() == 8 * GIB
    system.write("cgroup/user.slice/memory.max", f"{4 * GIB}\n")  # the limit of a parent binds as well
    system.write("cgroup/user.slice/memory.current", f"{3 * GIB}\n")
    system.write("cgroup/user.slice/memory.stat", f"anon {GIB}\ninactive_file {GIB // 2}\nactive_file 1\n")
    assert system.free() == GIB + GIB // 2


def test_cgroup_version_1_in_a_container(system: System) -> None:
    system.available(8)
    system.write("proc/self/cgroup", "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n")
    system.write("cgroup/memory/memory.limit_in_bytes", f"{2 * GIB}\n")
    system.write("cgroup/memory/memory.usage_in_bytes", f"{GIB}\n")
    system.write("cgroup/memory/memory.stat", f"cache 1\ntotal_inactive_file {GIB // 4}\n")
    assert system.free() == GIB + GIB // 4


def test_no_limit_is_a_huge_number_in_version_1(system: System) -> None:
    system.available(8)
    system.write("proc/self/cgroup", "4:memory:/\n")
    system.write("cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    system.write("cgroup/memory/memory.usage_in_bytes", f"{GIB}\n")
    assert system.free() == 8 * GIB


def test_more_used_than_allowed_is_nothing_free(system: System) -> None:
    system.write("proc/self/cgroup", "0::/\n")
    system.write("cgroup/memory.max", f"{GIB}\n")
    system.write("cgroup/memory.current", f"{2 * GIB}\n")
    assert system.free() == 0


def test_this_machine() -> None:
    free = free_memory()
    assert free is None or 2**20 < free < 2**50
