"""Triton's real server, where the package nvidia-pytriton carries it (``pip install --no-deps nvidia-pytriton``).

That one has no ONNX Runtime back end; ``backends/onnxruntime`` stands in for it. Everything else is the server's own:
config, kinds of instances, warm-up, dynamic batching, both protocols.
"""

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

BACKENDS = Path(__file__).parent / "backends"
START_LIMIT = 60.0  # s
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def find_server() -> Path | None:
    """The folder that the server came in; None where there is none, or none that this Python can be a back end of."""
    spec = find_spec("pytriton")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "tritonserver"
    stub = folder / "python_backend_stubs" / PYTHON
    has_library = bool(sysconfig.get_config_var("Py_ENABLE_SHARED"))
    return folder if stub.is_dir() and has_library else None


@contextmanager
def serving_for_real(repository: Path, work: Path) -> Iterator[dict[str, str]]:
    """A server over ``repository``; protocol -> address without the model's name. Models that do not load are left out.

    Args:
        work: an empty folder for its back ends and its log.
    """
    folder = find_server()
    assert folder is not None
    http, grpc = _free_ports(2)
    command = [folder / "bin" / "tritonserver", "--model-repository", repository, "--backend-directory", work]
    command += ["--http-address", "127.0.0.1", "--http-port", http, "--grpc-address", "127.0.0.1", "--grpc-port", grpc]
    command += ["--allow-metrics", "false", "--exit-on-error", "false", "--strict-readiness", "false"]
    command += ["--exit-timeout-secs", "1"]
    _lay_out_backends(folder, work)
    libraries = (next(folder.parents[1].glob("*pytriton.libs")), sysconfig.get_config_var("LIBDIR"))
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    log = work / "server.log"
    with log.open("w") as stream:
        server = subprocess.Popen(
            [str(part) for part in command], env=environment, stdout=stream, stderr=subprocess.STDOUT
        )
    try:
        _wait_until_ready(server, http, log)
        yield {"http": f"http://127.0.0.1:{http}", "grpc": f"grpc://127.0.0.1:{grpc}"}
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


def _lay_out_backends(folder: Path, work: Path) -> None:
    """Copies, not links: the server takes none that lead out of its folder of back ends."""
    shutil.copytree(folder / "backends" / "python", work / "python")
    stub = work / "python" / "triton_python_backend_stub"
    shutil.copy(folder / "python_backend_stubs" / PYTHON / stub.name, stub)
    stub.chmod(0o755)
    shutil.copytree(BACKENDS / "onnxruntime", work / "onnxruntime")


def _wait_until_ready(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise AssertionError(f"the server did not start:\n{log.read_text()}")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
