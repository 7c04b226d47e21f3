"""Building C++ the way its users do: CMake, the installed package, the vendors' libraries that Python wheels bring."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "engines" / "cpp"
HERE = Path(__file__).parent
STYLES = ROOT / "nst_deploy" / "styles"

# A sanitizer that finds something ends the process with this; TBB must not open its helpers in a way that ASan refuses.
FOUND = 99
SANITIZERS = {
    "ASAN_OPTIONS": f"exitcode={FOUND}:detect_stack_use_after_return=1",
    "LSAN_OPTIONS": f"exitcode={FOUND}:suppressions={HERE / 'leaks.txt'}:print_suppressions=0",
    "UBSAN_OPTIONS": f"exitcode={FOUND}:print_stacktrace=1",
    "TBB_ENABLE_SANITIZERS": "1",
}


def tool(name: str) -> str | None:
    """A program beside this Python, where pip puts it, or on the path."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


def missing() -> str | None:
    """Why nothing can be built here; None where it can."""
    for name in ("cmake", "ninja"):
        if tool(name) is None:
            return f"{name} is not installed: pip install {name}"
    if shutil.which("c++") is None:
        return "there is no C++ compiler (c++)"
    for package in ("openvino", "onnxruntime"):
        if find_spec(package) is None:
            return f"{package} is not installed"
    return None


def openvino_dir() -> str:
    """The folder of the wheel's CMake package; asked in a process of its own, as users do."""
    code = "from openvino.utils import get_cmake_path; print(get_cmake_path())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def make_ort_root(folder: Path) -> Path:
    """ONNX Runtime as its SDK lies: the wheel's library, and the part of its header that this project uses."""
    spec = find_spec("onnxruntime")
    assert spec is not None
    assert spec.origin is not None
    (library,) = (Path(spec.origin).parent / "capi").glob("libonnxruntime.so.*")
    (folder / "include").mkdir(parents=True)
    (folder / "lib").mkdir()
    shutil.copy(HERE / "surface" / "onnxruntime_c_api.h", folder / "include")
    soname = folder / "lib" / "libonnxruntime.so.1"
    soname.symlink_to(library)
    (folder / "lib" / "libonnxruntime.so").symlink_to(soname)
    return folder


def run(command: list[str], *, env: dict[str, str] | None = None) -> str:
    """What it prints; an error shows all of it."""
    done = subprocess.run(command, capture_output=True, text=True, env=environment(env), check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def environment(more: dict[str, str] | None = None) -> dict[str, str]:
    """Of a C++ developer's shell, in which cmake finds ninja."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, **(more or {})}


def cmake(*arguments: str | Path) -> str:
    program = tool("cmake")
    assert program is not None
    return run([program, *map(str, arguments)])
