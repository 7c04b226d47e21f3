"""``stream``: raw frames from stdin to stdout."""

import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from nst_deploy.runtime.ov import OvBackend
from tests.cpp import build
from tests.cpp.conftest import Built
from tests.engines import negative, write_engine

Array = np.ndarray
HEIGHT, WIDTH = 24, 32
BYTES = HEIGHT * WIDTH * 3


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return write_engine(tmp_path / "negative.onnx")


def film(count: int) -> Array:
    return np.random.default_rng(count).integers(0, 256, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)


def stream(
    built: Built, engine: Path, sent: bytes, *arguments: str, size: str = f"{HEIGHT}x{WIDTH}"
) -> tuple[int, bytes, str]:
    """Exit code, what came out, and stderr, which is one line where it fails."""
    done = built.run(built.stream, "--engine", engine, "--size", size, *arguments, stdin=sent)
    error = done.stderr.decode()
    if done.returncode:
        assert error.startswith("stream: error: ")
        assert error.count("\n") == 1
    return done.returncode, done.stdout, error


@pytest.mark.parametrize("count", [1, 2, 9])
def test_every_frame_in_order(built: Built, engine: Path, count: int) -> None:
    code, out, error = stream(built, engine, film(count).tobytes())
    assert (code, error) == (0, "")
    assert out == negative(film(count)).tobytes()


def test_a_real_engine_as_python_runs_it(built: Built) -> None:
    style = build.STYLES / "la_muse_half.onnx"
    backend = OvBackend(style, threads=1)
    code, out, _ = stream(built, style, film(4).tobytes(), "--threads", "1")
    assert code == 0
    styled = np.frombuffer(out, np.uint8).reshape(4, HEIGHT, WIDTH, 3)
    for i, frame in enumerate(film(4)):
        assert np.abs(styled[i].astype(int) - backend.run(frame[None])[0]).max() <= 1


def test_frames_that_trickle_in(built: Built, engine: Path) -> None:
    command = [built.stream, "--engine", engine, "--size", f"{HEIGHT}x{WIDTH}"]
    frames = film(2).tobytes()
    environment = build.environment(build.SANITIZERS)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for start in range(0, BYTES, 1000):
            process.stdin.write(frames[start : min(start + 1000, BYTES)])
            process.stdin.flush()
        assert process.stdout.read(BYTES) == negative(film(2)[0]).tobytes()  # before the second has come
        process.stdin.write(frames[BYTES:])
        process.stdin.close()
        assert process.stdout.read() == negative(film(2)[1]).tobytes()
    assert process.returncode == 0


def test_verbose_counts(built: Built, engine: Path) -> None:
    _, _, error = stream(built, engine, film(3).tobytes(), "--verbose", "--device", "cpu")
    assert error.startswith(f"stream: 3 frames of {WIDTH}x{HEIGHT} px (width x height) in ")
    assert error.endswith("frames/s, on onnxruntime-cpu\n")


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [0, 1, 5])
@pytest.mark.parametrize("rest", [1, BYTES - 1])
def test_a_truncated_frame(built: Built, engine: Path, whole: int, rest: int) -> None:
    code, out, error = stream(built, engine, film(whole + 1).tobytes()[: whole * BYTES + rest])
    assert code == 1
    assert f"The input ends {rest} bytes into frame {whole + 1}, expected frames of {BYTES} bytes" in error
    assert out == negative(film(whole + 1)[:whole]).tobytes()  # the whole ones have come out


def test_no_frame_at_all(built: Built, engine: Path) -> None:
    code, out, error = stream(built, engine, b"")
    assert (code, out) == (1, b"")
    assert "No frame arrived on stdin" in error


@pytest.mark.parametrize(
    ("size", "code", "reason"),
    [
        ("24", 2, "--size: '24' given, expected HxW, such as 720x1280"),
        ("24x", 2, "--size, the width: '' given"),
        ("x32", 2, "--size, the height: '' given"),
        ("24x32x3", 2, "--size, the width: '32x3' given"),
        ("-1x32", 2, "--size, the height: '-1' given"),
        ("99999x32", 2, "--size, the height: '99999' given, expected a whole number, 1..32768"),
        ("", 2, "--size is missing or empty"),
        ("7x32", 1, "The picture is 32x7 px (width x height), expected at least 8x8 px"),
    ],
)
def test_wrong_sizes(built: Built, engine: Path, size: str, code: int, reason: str) -> None:
    found, out, error = stream(built, engine, film(1).tobytes(), size=size)
    assert reason in error
    assert (found, out) == (code, b"")


def test_not_the_size_of_a_static_engine(built: Built, tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "a.onnx", static_size=(24, 40))
    code, _, error = stream(built, engine, film(1).tobytes())
    assert code == 1
    assert "expected 40x24 px, the one size that this engine was exported for" in error


def test_a_file_is_not_a_stream(built: Built, engine: Path) -> None:
    code, _, error = stream(built, engine, b"", "film.mp4")
    assert code == 2
    assert "'film.mp4' given, expected frames on stdin" in error


def endless(built: Built, engine: Path) -> subprocess.Popen[bytes]:
    """Styles zeros until it is stopped."""
    command = [built.stream, "--engine", engine, "--size", f"{HEIGHT}x{WIDTH}"]
    with Path("/dev/zero").open("rb") as zeros:
        environment = build.environment(build.SANITIZERS)
        return subprocess.Popen(
            command, stdin=zeros, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, bufsize=0
        )


def one_line(process: "subprocess.Popen[bytes]") -> str:
    assert process.stderr is not None
    error = process.stderr.read().decode()
    assert error.startswith("stream: error: ")
    assert error.count("\n") == 1
    return error


def test_a_reader_that_leaves(built: Built, engine: Path) -> None:
    process = endless(built, engine)
    assert process.stdout is not None
    assert len(process.stdout.read(BYTES)) > 0
    process.stdout.close()
    assert process.wait(20) == 1
    assert "The reader of the output has left after " in one_line(process)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("busy", [True, False])
def test_stopped_by_a_signal(built: Built, engine: Path, number: signal.Signals, busy: bool) -> None:
    """While frames flow, and while the reader of the output does not take them."""
    process = endless(built, engine)
    assert process.stdout is not None
    got = process.stdout.read(1)
    if not busy:
        time.sleep(0.2)  # the pipe is full by then
    process.send_signal(number)
    if busy:
        rest = bytearray(got)
        while chunk := os.read(process.stdout.fileno(), 1 << 16):
            rest += chunk
        assert len(rest) % BYTES == 0  # no half frame
    assert process.wait(20) == 128 + number
    assert "interrupted; what was finished is kept" in one_line(process)


def test_stopped_while_no_frame_comes(built: Built, engine: Path) -> None:
    command = [built.stream, "--engine", engine, "--size", f"{HEIGHT}x{WIDTH}"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=build.environment(build.SANITIZERS), **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(film(1).tobytes())
        process.stdin.flush()
        assert len(process.stdout.read(BYTES)) == BYTES
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert "interrupted" in one_line(process)
