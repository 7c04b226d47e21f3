"""Everything is built once: the package, the programs with sanitizers, and the driver of the headers."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cpp import build


@dataclass(frozen=True)
class Built:
    """Where what was built lies.

    Attributes:
        prefix: the installed package, headers alone.
        find: CMake's arguments that lead it to the package and to the vendors.
        stylize, stream, driver: programs, with sanitizers.
    """

    prefix: Path
    find: tuple[str, ...]
    stylize: Path
    stream: Path
    driver: Path

    def run(
        self, program: Path, *arguments: str | Path, stdin: str | bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        given = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            [program, *map(str, arguments)],
            input=given,
            capture_output=True,
            env=build.environment(build.SANITIZERS),
            timeout=60,
            check=False,
        )
        assert done.returncode != build.FOUND, done.stderr.decode()
        return done

    def drive(self, *arguments: str | Path, stdin: str = "") -> str:
        """What the driver prints."""
        done = self.run(self.driver, *arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The headers installed; programs and driver built over them, side by side."""
    reason = build.missing()
    if reason is not None:
        pytest.skip(f"C++ cannot be built here: {reason}")
    work = tmp_path_factory.mktemp("cpp")
    vendors = (
        f"-DOpenVINO_DIR={build.openvino_dir()}",
        f"-DONNXRuntime_ROOT={build.make_ort_root(work / 'ort')}",
        "-DCMAKE_DISABLE_FIND_PACKAGE_TensorRT=ON",  # the same on a machine that has it
    )
    prefix, programs, driver = work / "prefix", work / "programs", work / "driver"
    build.cmake("-S", build.SOURCE, "-B", work / "headers", "-G", "Ninja", "-DNST_PROGRAMS=OFF", *vendors)
    build.cmake("--install", work / "headers", "--prefix", prefix)
    find = (f"-DCMAKE_PREFIX_PATH={prefix}", *vendors)

    def build_programs() -> None:
        build.cmake("-S", build.SOURCE, "--preset", "sanitize", "-B", programs, "-G", "Ninja", *vendors)
        build.cmake("--build", programs)

    def build_driver() -> None:
        build.cmake("-S", build.HERE / "driver", "-B", driver, "-G", "Ninja", *find)
        build.cmake("--build", driver)

    with ThreadPoolExecutor() as pool:
        for job in [pool.submit(build_driver), pool.submit(build_programs)]:
            job.result()
    folder = programs / "programs"
    return Built(prefix, find, folder / "stylize", folder / "stream", driver / "driver")
