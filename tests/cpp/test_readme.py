"""What engines/cpp/README.md says to type, typed."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nst_deploy.runtime.ov import OvBackend
from tests.cpp import build
from tests.cpp.conftest import Built

README = build.SOURCE / "README.md"
EXAMPLE = build.SOURCE / "examples" / "embed"


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the comment before it (``not run``, ``needs: X``, ``file: X``)."""

    language: str
    text: str
    note: str


def blocks() -> list[Block]:
    found = re.findall(r"(?:<!-- (.*?) -->\n)?[ ]*```(\w*)\n(.*?)[ ]*```", README.read_text(), re.DOTALL)
    return [Block(language, text, note) for note, language, text in found]


def commands(needs: str | None = None) -> str:
    """All that is to be typed, in order; with ``needs``, the block that needs that program."""
    shell = [block for block in blocks() if block.language == "sh"]
    return "\n".join(b.text for b in shell if b.note == (f"needs: {needs}" if needs else ""))


def type_in(folder: Path, text: str) -> str:
    """A developer's shell. What is optimised on the page is not here: that takes half of the time."""
    text = text.replace("=Release", "=Debug").replace("--preset release", "--preset release -DCMAKE_BUILD_TYPE=Debug")
    environment = build.environment({"CMAKE_GENERATOR": "Ninja"})
    done = subprocess.run(
        ["sh", "-euc", text], cwd=folder, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def followed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder in which everything on the page was done, and what was printed."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("engines", "nst_deploy", "pyproject.toml"):
        (folder / name).symlink_to(build.ROOT / name)
    for block in blocks():
        if block.note.startswith("file: "):
            path = folder / block.note.removeprefix("file: ")
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.text)
    return folder, type_in(folder, commands())


def test_the_example_is_the_one_on_the_page(followed: tuple[Path, str]) -> None:
    for path in sorted(EXAMPLE.iterdir()):
        assert path.read_text() == (followed[0] / "mine" / path.name).read_text()


def test_the_developers_program_styles_a_frame(followed: tuple[Path, str]) -> None:
    folder, printed = followed
    assert "starry_night on openvino-cpu\n" in printed
    x, y = np.meshgrid(np.arange(640), np.arange(480))
    frame = np.zeros((480, 640, 3), np.uint8)
    frame[..., 1] = (x * y).astype(np.uint8)
    styled = np.asarray(Image.open(folder / "styled.ppm")).astype(int)
    expected = OvBackend(build.STYLES / "starry_night.onnx").run(frame[None])[0]
    assert np.abs(styled - expected).max() <= 1


def test_stylize_was_built_and_run(followed: tuple[Path, str]) -> None:
    folder, printed = followed
    assert "rocket.png: 480x320 px in " in printed
    assert Image.open(folder / "rocket.png").size == (480, 320)


def test_a_film_goes_through_ffmpeg(followed: tuple[Path, str]) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    folder, _ = followed
    source = ["-f", "lavfi", "-i", "testsrc=size=320x180:rate=24:duration=0.25"]
    build.run(["ffmpeg", "-v", "error", *source, "-pix_fmt", "yuv420p", str(folder / "film.mp4")])
    type_in(folder, commands(needs="ffmpeg"))
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    command = ["ffmpeg", "-v", "error", "-i", str(folder / "styled.mp4"), *raw]
    frames = subprocess.run(command, capture_output=True, check=True).stdout
    assert len(frames) == 6 * 180 * 320 * 3


def test_frames_go_through_gstreamer(followed: tuple[Path, str]) -> None:
    if shutil.which("gst-launch-1.0") is None:
        pytest.skip("GStreamer is not installed")
    folder, _ = followed
    type_in(folder, commands(needs="gst-launch-1.0"))
    header, *frames = (folder / "styled.y4m").read_bytes().split(b"FRAME\n")
    assert b" W64 H48 " in header
    assert [len(frame) for frame in frames] == [64 * 48 * 3 // 2] * 5


def test_everything_that_is_pointed_to_exists() -> None:
    text = README.read_text()
    for path in re.findall(r"\bengines/cpp/[\w/.]+", text):
        assert (build.ROOT / path).exists(), path
    for header in re.findall(r"`(nst/\w+\.hpp)`", text):
        assert (build.SOURCE / "include" / header).exists(), header
