import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nst_deploy import cli_infer, memory
from nst_deploy.cli_infer import main
from nst_deploy.images import Picture, load_picture
from tests.engines import write_engine
from tests.infer import files, infer, one_line, photo
from tests.pictures import png_claiming

COMMAND = [sys.executable, "-c", "import sys; from nst_deploy.cli_infer import main; sys.exit(main(sys.argv[1:]))"]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a.png", "--size", "7"],
        ["a.png", "--size", "big"],
        ["a.png", "--strength", "1.01"],
        ["a.png", "--strength", "nan"],
        ["a.png", "--quality", "0"],
        ["a.png", "--quality", "101"],
        ["a.png", "--threads", "0"],
        ["a.png", "--threads", "100000"],
        ["a.png", "--out", ""],
        [""],
        ["a.png", "--device", "abacus"],
        ["a.png", "--device", "cpu", "--precision", "bf16"],
        ["a.png", "--precision", "fp64"],
        ["a.png", "--overwrite", "--skip-existing"],
        ["a.png", "--unheard-of"],
        ["a.png", "--out", "a.docx"],
        ["a.png", "--out", "{name}.png"],
        ["a.png", "--out", "a.png"],
        ["a.png", "b.png", "--out", "c.png"],
        ["a.png", "x/a.png"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_one_line_and_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    photo("a.png")
    assert infer(*arguments) == 2
    one_line(capsys)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", ["loop.png", "n" * 300 + ".png"])
def test_a_path_that_leads_nowhere_fails_alone(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    photo("a.png")
    Path("loop.png").symlink_to("loop.png")
    assert infer(name, "--out", "x.png") == 1
    assert name[:20] in one_line(capsys)
    assert infer(name, "a.png") == 1
    assert Path("a.negative.png").exists()


@pytest.mark.usefixtures("here")
def test_a_file_that_appears_meanwhile_is_not_overwritten(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photo("a.png")

    def slow_load(path: Path, size: int | None) -> Picture:
        Path("a.negative.png").write_text("somebody else's")
        return load_picture(path, size)

    monkeypatch.setattr(cli_infer, "load_picture", slow_load)
    assert infer("a.png") == 1
    assert "--overwrite" in one_line(capsys)
    assert Path("a.negative.png").read_text() == "somebody else's"
    assert infer("a.png", "--overwrite") == 0
    assert load_picture(Path("a.negative.png")).rgb.shape == (12, 17, 3)


@pytest.mark.usefixtures("here")
def test_one_picture_of_a_folder_goes_to_the_one_file_given() -> None:
    photo("album/sub/a.png")
    assert infer("album", "--out", "x.png") == 0
    assert Path("x.png").is_file()


def test_output_that_cannot_be_written_to_is_one_line(here: Path) -> None:
    photo("ö.png")
    for stdout, code in (("/dev/full", 1), ("closed", 0), ("ascii.txt", 0)):
        line = f"{COMMAND[0]} -c '{COMMAND[2]}' --engine engine.onnx ö.png --overwrite "
        line += ">&-" if stdout == "closed" else f"> {stdout}"
        environment = os.environ | {"PYTHONIOENCODING": "ascii" if stdout == "ascii.txt" else "utf-8"}
        shown = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False, env=environment)
        assert shown.returncode == code, shown.stderr
        assert shown.stderr.count("\n") == code, shown.stderr
        assert (here / "ö.negative.png").is_file()


BAD_PICTURES = {
    "empty.jpg": b"",
    "text.jpg": b"dear diary\n" * 30,
    "zero.ppm": b"P6 0 9 255\n",
    "short.ppm": b"P6 9 9 255\n12345",
}


@pytest.fixture
def bad(here: Path) -> Path:
    """The current folder with one bad picture of every kind in ``bad/``, and good ones before and after them."""
    for name, content in BAD_PICTURES.items():
        (here / "bad").mkdir(exist_ok=True)
        (here / "bad" / name).write_bytes(content)
    photo("bad/truncated.jpg", 64, 64)
    os.truncate("bad/truncated.jpg", Path("bad/truncated.jpg").stat().st_size // 2)
    photo("bad/seven.png", 7, 7)
    Path("bad/bomb.png").write_bytes(png_claiming(40000, 40000))
    photo("bad/a_good.png")
    photo("bad/z_good.png")
    return here


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.jpg", "No picture at"),
        ("empty.jpg", "the file is empty"),
        ("text.jpg", "no kind that Pillow knows"),
        ("zero.ppm", "has no pixels"),
        ("short.ppm", "cut short or damaged"),
        ("truncated.jpg", "cut short or damaged"),
        ("seven.png", "7x7 px (width x height), expected at least 8x8 px"),
        ("bomb.png", "decompression bombs"),
    ],
)
def test_one_bad_picture(bad: Path, name: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(bad)
    assert infer(f"bad/{name}") == 1
    line = one_line(capsys)
    assert reason in line
    assert f"bad/{name}" in line
    assert files(bad) == before


def test_bad_pictures_do_not_stop_the_others(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert infer("bad", "--out", "out") == 1
    assert files(bad / "out") == ["a_good.negative.png", "z_good.negative.png"]
    shown = capsys.readouterr()
    assert "9 pictures: 2 styled in" in shown.out
    assert "7 failed" in shown.out
    for name in (*BAD_PICTURES, "truncated.jpg", "seven.png", "bomb.png"):
        assert sum(f"bad/{name}" in line for line in shown.err.splitlines()) == 1


def engine_cut_short() -> None:
    whole = Path("engine.onnx").read_bytes()
    Path("bad.onnx").write_bytes(whole[: len(whole) // 2])


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("make", "code", "reason"),
    [
        (lambda: None, 1, "No engine at bad.onnx"),
        (lambda: Path("bad.onnx").touch(), 1, "the file is empty"),
        (lambda: Path("bad.onnx").write_text("hello"), 1, "not an ONNX model"),
        (lambda: Path("bad.onnx").mkdir(), 1, "No engine at bad.onnx"),
        (lambda: write_engine(Path("bad.onnx"), metadata={}), 1, "not an nst engine"),
        (engine_cut_short, 1, "bad.onnx"),
    ],
)
def test_bad_engines(make: object, code: int, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    photo("a.png")
    make()  # type: ignore[operator]
    assert main(["--engine", "bad.onnx", "a.png"]) == code
    assert reason in one_line(capsys)
    assert not Path("a.negative.png").exists()


def test_an_output_folder_that_cannot_be(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo("a.png")
    (here / "file").write_text("mine")
    assert infer("a.png", "--out", "file/") == 1
    assert "Not a directory" in one_line(capsys)
    assert infer("a.png", "--out", "file/sub/b.png") == 1
    assert "Not a directory" in one_line(capsys)
    assert (here / "file").read_text() == "mine"


def test_an_output_that_is_a_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo("a.png")
    (here / "a.negative.png").mkdir()
    assert infer("a.png", "--overwrite") == 1
    assert "Cannot write a.negative.png" in one_line(capsys)
    assert files(here) == ["a.png"]


def test_a_full_disk_ends_the_run(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "abcd":
        photo(f"album/{name}.png")
    write = Path.write_bytes

    def fill_up(self: Path, data: bytes) -> int:
        if ".c." in self.name:
            write(self, data[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", fill_up)
    assert infer("album", "--out", "out") == 1
    assert files(here / "out") == ["a.negative.png", "b.negative.png"]
    shown = capsys.readouterr()
    assert "4 pictures: 2 styled in" in shown.out
    assert "1 not begun, 1 failed" in shown.out
    assert "album/c.png: Cannot write out/c.negative.png: No space left on device. Free some space" in shown.err


def test_a_write_that_the_system_stops_midway(here: Path) -> None:
    """Not simulated: the process may write files of at most 4 KiB."""
    photo("a.png", 100, 100)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    run = subprocess.run(
        [*COMMAND, "--engine", "engine.onnx", "a.png"], capture_output=True, text=True, preexec_fn=limit, check=False
    )
    assert run.returncode == 1
    assert run.stderr.startswith("nst-infer: error: a.png: Cannot write a.negative.png: File too large")
    assert run.stderr.count("\n") == 1
    assert files(here) == ["a.png"]


def test_too_little_memory(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    photo("a.png", 300, 400)
    monkeypatch.setattr(memory, "free_memory", lambda: 5_000_000)
    assert infer("a.png") == 1
    line = one_line(capsys)
    assert "a.png: A picture of 400x300 px needs about" in line
    assert infer("a.png", "--size", line.split("--size ")[1].strip()) == 0  # as it was told
    assert files(here) == ["a.negative.png", "a.png"]


@pytest.mark.usefixtures("here")
def test_memory_that_runs_out_all_the_same(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run_out(*_: object) -> None:
        raise MemoryError

    photo("a.png")
    monkeypatch.setattr(cli_infer, "load_picture", run_out)
    assert infer("a.png") == 1
    assert "a.png: Out of memory" in one_line(capsys)


def test_ctrl_c_in_the_middle_of_a_folder(here: Path) -> None:
    count = 60
    for i in range(count):
        photo(f"album/{i:03}.bmp", 500, 600)
    command = [*COMMAND, "--engine", "engine.onnx", "album", "--out", "out/{stem}.png"]
    # A shell may have started us with the signal ignored, which children would inherit.
    restore = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    command[2] = restore + command[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 30
        while len(list((here / "out").glob("*.png"))) < 3:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert error.endswith("nst-infer: error: interrupted; what was finished is kept\n")
    done = files(here / "out")
    assert 3 <= len(done) < count
    assert all(name.endswith(".png") and not name.startswith(".") for name in done)
    assert f"{count} pictures: {len(done)} styled in" in out
    for name in done:
        assert load_picture(here / "out" / name).rgb.shape == (500, 600, 3)
