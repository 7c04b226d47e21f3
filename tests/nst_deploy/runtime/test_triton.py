"""TritonBackend against a stub of both protocols, and against Triton's own server where that is installed."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from nst_common.errors import UserError
from nst_deploy import Stylizer
from nst_deploy.errors import (
    BackendMissingError,
    ModelNotReadyError,
    NotAServedEngineError,
    PictureSizeError,
    ServerAddressError,
    ServerFailedError,
    ServerTimeoutError,
    ServerUnreachableError,
)
from nst_deploy.triton import TritonOptions
from tests.engines import CONTRACT, negative

pytest.importorskip("tritonclient.grpc")
pytest.importorskip("tritonclient.http")
import tritonclient.grpc

from nst_deploy.runtime.triton import TritonBackend
from tests.triton.repository import parse, write_model
from tests.triton.server import find_server, serving_for_real
from tests.triton.stub import Stub, serving

PROTOCOLS = ("grpc", "http")


def noise(count: int, height: int = 11, width: int = 14) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stub, dict[str, str]]]:
    repository = tmp_path_factory.mktemp("repository")
    write_model(repository)
    write_model(repository, "one_size", static_size=(24, 16))
    foreign = write_model(repository, "foreign") / "config.pbtxt"
    config = parse(foreign.read_text())
    config.parameters.clear()
    foreign.write_text(str(config))
    unbatched = write_model(repository, "unbatched") / "config.pbtxt"
    unbatched.write_text(unbatched.read_text().replace("max_batch_size: 4", "max_batch_size: 0"))
    stub = Stub(repository)
    with serving(stub) as addresses:
        yield stub, addresses


@pytest.fixture(params=PROTOCOLS)
def address(served: tuple[Stub, dict[str, str]], request: pytest.FixtureRequest) -> str:
    return served[1][request.param]


@pytest.fixture
def stub(served: tuple[Stub, dict[str, str]]) -> Iterator[Stub]:
    served[0].batches.clear()
    yield served[0]
    served[0].fault = ""


def test_computes_what_the_engine_behind_it_does(address: str) -> None:
    backend = TritonBackend(f"{address}/negative")
    assert backend.contract == CONTRACT
    assert backend.name == f"triton-{address[:4]}"
    images = noise(3)
    styled = backend.run(images)
    np.testing.assert_array_equal(styled, negative(images))
    styled[:] = 0  # the caller's own
    np.testing.assert_array_equal(backend.run(images[:, ::-1, ::2]), negative(images[:, ::-1, ::2]))
    backend.close()


def test_sends_no_more_at_once_than_the_server_takes(address: str, stub: Stub) -> None:
    backend = TritonBackend(f"{address}/negative")
    images = noise(9)
    np.testing.assert_array_equal(backend.run(images), negative(images))
    assert stub.batches == [4, 4, 1]


def test_serves_a_stylizer(address: str) -> None:
    picture = Image.fromarray(noise(1)[0]).convert("RGBA")
    picture.putalpha(99)
    with Stylizer.over(TritonBackend(f"{address}/negative")) as stylize:
        styled = stylize(picture)
        assert stylize([]) == []
    np.testing.assert_array_equal(np.asarray(styled.convert("RGB")), negative(np.asarray(picture.convert("RGB"))))
    assert styled.getchannel("A").getextrema() == (99, 99)


def test_knows_the_one_size_of_a_static_engine(address: str, stub: Stub) -> None:
    with Stylizer.over(TritonBackend(f"{address}/one_size")) as stylize, pytest.raises(PictureSizeError):
        stylize(noise(1, 24, 17))
    assert not stub.batches


def test_may_be_shared_by_threads(address: str) -> None:
    backend = TritonBackend(f"{address}/negative")
    barrier = threading.Barrier(4)

    def work(count: int) -> bool:
        barrier.wait()
        return all(np.array_equal(backend.run(noise(count)), negative(noise(count))) for _ in range(5))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, (1, 2, 3, 4)))


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("wrong shape", ServerFailedError, "answered with uint8 [1, 10, 14, 3], expected uint8 [1, 11, 14, 3]"),
        ("wrong type", ServerFailedError, "answered with float32 [1, 11, 14, 3], expected uint8"),
        ("wrong name", ServerFailedError, "no tensor 'styled'"),
        ("cut short", ServerFailedError, "cannot be read"),
        ("refuses", ServerFailedError, "out of memory. "),
        ("slow", ServerTimeoutError, "within 0.5 s"),
    ],
)
def test_a_server_at_fault_is_one_line(
    address: str, stub: Stub, fault: str, error: type[UserError], message: str
) -> None:
    backend = TritonBackend(f"{address}/negative", timeout=0.5)
    stub.fault = fault
    with pytest.raises(error) as raised:
        backend.run(noise(1))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    stub.fault = ""
    np.testing.assert_array_equal(backend.run(noise(1)), negative(noise(1)))  # and it recovers


def test_a_model_that_is_not_ready(address: str, stub: Stub) -> None:
    with pytest.raises(ModelNotReadyError, match="the server has foreign, negative, one_size, unbatched"):
        TritonBackend(f"{address}/nightly")
    stub.fault = "not ready"
    with pytest.raises(ModelNotReadyError):
        TritonBackend(f"{address}/negative")


def test_a_model_that_is_not_ours(address: str) -> None:
    with pytest.raises(NotAServedEngineError, match=r"no nst\.\* metadata"):
        TritonBackend(f"{address}/foreign")
    with pytest.raises(NotAServedEngineError, match="max_batch_size is 0"):
        TritonBackend(f"{address}/unbatched")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_server(protocol: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ServerUnreachableError, match=rf"{protocol}://127\.0\.0\.1:{port}/negative: .*refused"):
        TritonBackend(f"{protocol}://127.0.0.1:{port}/negative", timeout=5)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_that_says_nothing(protocol: str) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises((ServerTimeoutError, ServerUnreachableError)),
    ):
        TritonBackend(f"{protocol}://127.0.0.1:{listener.getsockname()[1]}/negative", timeout=0.3)


def test_the_other_protocols_port(served: tuple[Stub, dict[str, str]]) -> None:
    for right, wrong in (PROTOCOLS, PROTOCOLS[::-1]):
        port = served[1][right].rpartition(":")[2]
        with pytest.raises((ServerFailedError, ServerUnreachableError)):
            TritonBackend(f"{wrong}://127.0.0.1:{port}/negative", timeout=2)


@pytest.mark.parametrize(
    "address", ["", "localhost:8001", "ftp://a/b", "grpc://localhost:8001", "grpc://localhost:8001/a/b", "http:///a"]
)
def test_refuses_what_is_no_address(address: str) -> None:
    with pytest.raises(ServerAddressError):
        TritonBackend(address)


def test_refuses_a_timeout_of_nothing(address: str) -> None:
    for timeout in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match="timeout"):
            TritonBackend(f"{address}/negative", timeout=timeout)


def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tritonclient.grpc", None)
    with pytest.raises(UserError, match="tritonclient"):
        TritonBackend("grpc://127.0.0.1:1/a")
    monkeypatch.setattr("importlib.import_module", _without_http)
    with pytest.raises(BackendMissingError, match=r"tritonclient\[http\].*nst\[triton\]"):
        TritonBackend("http://127.0.0.1:1/a")


def _without_http(_: str) -> None:
    raise RuntimeError("The installation does not include http support.")


# --- Triton's own server -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    if find_server() is None:
        pytest.skip("no Triton server here: pip install --no-deps nvidia-pytriton")
    repository = tmp_path_factory.mktemp("repository")
    write_model(repository, options=TritonOptions(queue_delay=300_000))
    write_model(repository, "one_size", TritonOptions(kind="cpu", instances=2, threads=1), static_size=(24, 16))
    write_model(repository, "for_gpus", TritonOptions(kind="gpu"))
    broken = write_model(repository, "too_little_to_warm_up_with")
    (broken / "warmup" / "noise.rgb").write_bytes(b"RGB")
    with serving_for_real(repository, tmp_path_factory.mktemp("server")) as addresses:
        yield addresses


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("model", "size"), [("negative", (11, 14)), ("negative", (24, 16)), ("one_size", (24, 16))])
def test_the_real_server_computes_the_same(
    real: dict[str, str], protocol: str, model: str, size: tuple[int, int]
) -> None:
    backend = TritonBackend(f"{real[protocol]}/{model}", timeout=20)
    images = noise(6, *size)
    np.testing.assert_array_equal(backend.run(images), negative(images))


def test_the_real_server_settles_the_kind(real: dict[str, str]) -> None:
    client = tritonclient.grpc.InferenceServerClient(real["grpc"].removeprefix("grpc://"))
    groups = client.get_model_config("negative", as_json=True)["config"]["instance_group"]
    has_gpu = groups[0]["kind"] == "KIND_GPU"
    # What --triton-kind gpu promises: without a GPU it does not load, and the other models do.
    assert client.is_model_ready("for_gpus") == has_gpu
    reasons = {entry.name: entry.reason for entry in client.get_model_repository_index().models}
    assert has_gpu or "has kind KIND_GPU but no GPUs are available" in reasons["for_gpus"]
    assert [group["kind"] for group in groups] == ["KIND_GPU" if has_gpu else "KIND_CPU"]


def test_the_real_server_warms_up_with_the_frame(real: dict[str, str]) -> None:
    client = tritonclient.grpc.InferenceServerClient(real["grpc"].removeprefix("grpc://"))
    reasons = {entry.name: entry.reason for entry in client.get_model_repository_index().models}
    assert "warmup setting expects 1152 bytes" in reasons["too_little_to_warm_up_with"]
    for protocol in PROTOCOLS:
        with pytest.raises(ModelNotReadyError, match=r"is not ready: .*warmup setting expects 1152 bytes"):
            TritonBackend(f"{real[protocol]}/too_little_to_warm_up_with")


def test_the_real_server_joins_requests_of_one_size_and_only_those(real: dict[str, str]) -> None:
    client = tritonclient.grpc.InferenceServerClient(real["grpc"].removeprefix("grpc://"))

    def batches() -> dict[int, int]:
        statistics = client.get_inference_statistics("negative").model_stats[0]
        return {entry.batch_size: entry.compute_infer.count for entry in statistics.batch_stats}

    def run_at_once(shapes: list[tuple[int, int]]) -> dict[int, int]:
        """Batch size -> how many more of it there were."""
        backend = TritonBackend(f"{real['grpc']}/negative", timeout=20)
        before, barrier = batches(), threading.Barrier(len(shapes))

        def work(shape: tuple[int, int]) -> bool:
            barrier.wait()
            return np.array_equal(backend.run(noise(1, *shape)), negative(noise(1, *shape)))

        with ThreadPoolExecutor(len(shapes)) as pool:
            assert all(pool.map(work, shapes))
        return {size: count - before.get(size, 0) for size, count in batches().items() if count > before.get(size, 0)}

    joined = run_at_once([(20, 20)] * 8)
    assert sum(size * count for size, count in joined.items()) == 8
    assert sum(joined.values()) <= 6  # two by two, but for one or two that came late
    assert run_at_once([(20, 20 + i) for i in range(4)]) == {1: 4}
