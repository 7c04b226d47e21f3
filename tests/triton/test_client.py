"""engines/triton: the client and what its README shows, against a stub of both protocols."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from tests.engines import negative
from tests.infer import photo
from tests.scripts import load_script

pytest.importorskip("tritonclient.grpc")
pytest.importorskip("tritonclient.http")
from tests.triton.repository import write_model
from tests.triton.stub import Stub, serving

FOLDER = Path(__file__).parents[2] / "engines" / "triton"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stub, dict[str, str]]]:
    repository = tmp_path_factory.mktemp("repository")
    write_model(repository, "la_muse")
    stub = Stub(repository)
    with serving(stub) as addresses:
        yield stub, addresses


@pytest.fixture
def stub(served: tuple[Stub, dict[str, str]]) -> Iterator[Stub]:
    served[0].batches.clear()
    yield served[0]
    served[0].fault = ""


@pytest.fixture(params=("grpc", "http"))
def address(served: tuple[Stub, dict[str, str]], request: pytest.FixtureRequest) -> str:
    return f"{served[1][request.param]}/la_muse"


@pytest.fixture(scope="module")
def client() -> ModuleType:
    return load_script(FOLDER / "client.py")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(client: ModuleType, *arguments: str) -> int:
    try:
        return int(client.main(list(arguments)))
    except SystemExit as stop:  # argparse's own way out
        return int(stop.code or 0)


def pixels(path: str) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_one_picture(client: ModuleType, address: str, stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    original = photo("a.png")
    assert call(client, address, "a.png") == 0
    np.testing.assert_array_equal(pixels("a.negative.png"), negative(original))
    assert "1 of 1 pictures" in capsys.readouterr().out
    assert stub.batches == [1]


def test_batches_are_of_one_size(client: ModuleType, address: str, stub: Stub) -> None:
    originals = {f"{i}.png": photo(f"in/{i}.png", 12, 17 if i < 3 else 9, seed=i) for i in range(5)}
    assert call(client, address, "in", "--out", "out/{stem}.png", "--batch", "5") == 0
    for name, original in originals.items():
        np.testing.assert_array_equal(pixels(f"out/{name}"), negative(original))
    assert sorted(stub.batches) == [2, 3]


def test_many_at_the_same_time(client: ModuleType, address: str, stub: Stub) -> None:
    originals = {f"{i}.png": photo(f"in/{i}.png", 12, 17, seed=i) for i in range(8)}
    assert call(client, address, "in/*.png", "--out", "out/{stem}.png", "--concurrency", "4") == 0
    for name, original in originals.items():
        np.testing.assert_array_equal(pixels(f"out/{name}"), negative(original))
    assert stub.batches == [1] * 8


def test_a_damaged_picture_does_not_stop_the_rest(
    client: ModuleType, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    photo("in/a.png")
    Path("in/b.png").write_bytes(b"no picture")
    assert call(client, address, "in", "--out", "out/") == 1
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert "in/b.png" in said.err
    assert "1 of 2 pictures" in said.out
    assert [path.name for path in Path("out").iterdir()] == ["a.negative.png"]


@pytest.mark.parametrize("fault", ["wrong shape", "refuses", "slow", "cut short", "not ready"])
def test_a_server_at_fault_is_one_line(
    client: ModuleType, address: str, stub: Stub, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    photo("a.png")
    stub.fault = fault
    assert call(client, address, "a.png", "--timeout", "0.5") == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in Path().iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["grpc://127.0.0.1:1/a", "a.png"], 1, "No server answers"),
        (["http://127.0.0.1:1/a", "a.png"], 1, "No server answers"),
        (["localhost:8001", "a.png"], 2, "is not the address"),
        (["ADDRESS", "none.png"], 1, "none.png"),
        (["ADDRESS", "a.png", "--out", "a.png"], 2, "onto itself"),
        (["ADDRESS", "a.png", "--batch", "0"], 2, "expected a whole number, 1..256"),
        (["ADDRESS", "a.png", "--timeout", "0"], 2, "timeout"),
        (["ADDRESS"], 2, "INPUT"),
    ],
)
def test_bad_input_is_one_line(
    client: ModuleType,
    served: tuple[Stub, dict[str, str]],
    arguments: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    photo("a.png")
    address = f"{served[1]['grpc']}/la_muse"
    assert call(client, *[address if given == "ADDRESS" else given for given in arguments]) == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_keeps_what_is_there(client: ModuleType, address: str) -> None:
    original = photo("a.png")
    Path("a.negative.png").write_bytes(b"older")
    assert call(client, address, "a.png") == 2
    assert Path("a.negative.png").read_bytes() == b"older"
    assert call(client, address, "a.png", "--overwrite") == 0
    np.testing.assert_array_equal(pixels("a.negative.png"), negative(original))


def test_the_readmes_python_works(served: tuple[Stub, dict[str, str]]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (FOLDER / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    original = photo("photo.png")
    for block in blocks:
        script = block.replace("localhost:8001", served[1]["grpc"].removeprefix("grpc://"))
        assert script != block
        exec(compile(script.replace("photo.jpg", "photo.png"), "README.md", "exec"), {"__name__": "readme"})
        np.testing.assert_array_equal(pixels("styled.png"), negative(original))
        Path("styled.png").unlink()
