"""Names of needed libraries, read from real ones and from files that are none."""

import sys
from pathlib import Path

import numpy as np
import pytest

from nst_deploy.runtime.elf import MAGIC, needed_libraries

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="libraries of Linux")


def test_a_real_library() -> None:
    needed = needed_libraries(Path(np._core._multiarray_umath.__file__))
    assert "libm.so.6" in needed
    assert "libc.so.6" in needed
    assert all(name.endswith(".so") or ".so." in name for name in needed)


def test_every_library_of_onnxruntime_is_read() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    libraries = [
        file for file in (Path(onnxruntime.__file__).parent / "capi").glob("*.so*") if file.read_bytes()[:6] == MAGIC
    ]
    assert libraries
    for library in libraries:
        assert "libc.so.6" in needed_libraries(library)


@pytest.mark.parametrize("content", [b"", b"no library", MAGIC + bytes(58), MAGIC + b"\xff" * 200])
def test_what_is_no_library(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "libx.so"
    file.write_bytes(content)
    if content == MAGIC + bytes(58):  # a header alone, of nothing
        assert needed_libraries(file) == ()
        return
    with pytest.raises((ValueError, OSError)):
        needed_libraries(file)
