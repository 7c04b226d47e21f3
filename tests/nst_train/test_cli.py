"""nst-train fit as users meet it: what it says, what it writes, and how it ends."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nst_train.checkpoints import load_checkpoint
from nst_train.cli import main
from nst_train.loss_curve import LossCurve
from nst_train.recipe import read_recipe
from nst_train.training_state import load_state
from tests.nst_train.full_disk import files_up_to
from tests.nst_train.tiny_training import FLAGS

ROOT = Path(__file__).parents[2]


def options(pictures: Path, vgg: Path, *more: str) -> list[str]:
    names = ("--style", "style.png", "--content", "content", "--out", "a.pth", "--log-dir", "logs")
    return [
        "fit",
        *(str(pictures / name) if "." in name or name.isalpha() else name for name in names),
        *(
            *("--vgg-weights", str(vgg), "--device", "cpu", "--workers", "1", "--steps", "4", "--sample-every", "2"),
            *FLAGS,
            *more,
        ),
    ]


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 1) -> str:
    """The one line that a failing command leaves on stderr."""
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("nst-train: error: ")
    return captured.err


def test_trains_and_shows_how_it_goes(pictures: Path, small_vgg: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pictures / "content" / "broken.jpg").write_text("no picture")
    assert main(options(pictures, small_vgg, "--exclude", "photo_2.png", "--sample", str(pictures / "style.png"))) == 0
    shown = capsys.readouterr().err
    assert "on 6 photographs (1 held out), 4 steps of 2 crops of 32 px" in shown
    assert re.search(r"Skipped 1 unreadable photograph\(s\): \S*broken\.jpg", shown)
    assert re.search(r"4/4 steps, \S+/s, 0 s left, content \S+, style \S+, total \S+", shown)
    assert f"Wrote {pictures / 'a.pth'}" in shown
    assert load_checkpoint(pictures / "a.pth").record["step"] == 4
    samples = sorted((pictures / "logs" / "a" / "samples").iterdir())
    assert [path.name for path in samples] == ["style_000002.jpg", "style_000004.jpg"]
    with Image.open(samples[0]) as first, Image.open(pictures / "style.png") as style:
        assert first.size == style.size


def test_tensorboard_gets_every_loss_and_the_samples(pictures: Path, small_vgg: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert main(options(pictures, small_vgg)) == 0
    events = accumulator.EventAccumulator(str(pictures / "logs" / "a"))
    events.Reload()
    names = {"loss/content", "loss/style", "loss/total_variation", "loss/grid", "loss/total"}
    assert set(events.Tags()["scalars"]) == names | {"optimizer/learning_rate", "optimizer/gradient_norm"}
    [last] = events.Scalars("loss/total")
    assert last.step == 4
    assert last.value == pytest.approx(load_checkpoint(pictures / "a.pth").record["losses"][-1][-1])
    assert events.Tags()["images"] == ["sample/content"]


def test_without_tensorboard_it_trains_and_says_so_once(
    pictures: Path, small_vgg: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert main(options(pictures, small_vgg)) == 0
    assert capsys.readouterr().err.count("TensorBoard is not installed") == 1
    assert len(list((pictures / "logs" / "a" / "samples").iterdir())) == 2


def logged_steps(folder: Path) -> set[int]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {event.step for event in events.Images("sample/content")}


def test_stages_of_the_same_name_log_apart_and_each_finds_its_folder_again(pictures: Path, small_vgg: Path) -> None:
    (pictures / "first").mkdir()
    first, again = ("--out", str(pictures / "first" / "a.pth")), ("--steps", "2", "--overwrite")
    assert main(options(pictures, small_vgg, "--sample-every", "1", "--max-minutes", "0", *first)) == 0
    assert main(options(pictures, small_vgg)) == 0
    assert main(options(pictures, small_vgg, "--sample-every", "1", "--resume", *first)) == 0
    assert main(options(pictures, small_vgg, *again)) == 0
    logs = pictures / "logs"
    assert sorted(path.name for path in logs.iterdir()) == ["a", "a-2", "a-3"]
    assert [logged_steps(logs / name) for name in ("a", "a-2", "a-3")] == [{1, 2, 3, 4}, {2, 4}, {2}]
    assert len(list((logs / "a" / "samples").iterdir())) == 4


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")  # no traceback of TensorBoard's
def test_a_log_that_cannot_be_written_is_no_reason_to_stop(
    pictures: Path, small_vgg: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(pictures / "noise.png")
    with files_up_to(150_000):  # a checkpoint and a JPEG have room, TensorBoard's PNG has not
        code = main(options(pictures, small_vgg, "--sample", str(pictures / "noise.png"), "--sample-every", "1"))
    shown = capsys.readouterr().err
    assert code == 0, shown
    assert shown.count("the training goes on without a log") == 1
    assert "Traceback" not in shown
    assert load_checkpoint(pictures / "a.pth").record["step"] == 4


def test_a_log_folder_that_cannot_be_made_is_named(
    pictures: Path, small_vgg: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = options(pictures, small_vgg, "--log-dir", str(pictures / "style.png"))
    assert re.search(r"Cannot write the log to \S+style\.png: .*--log-dir", fails(command, capsys))


def test_samples_of_one_name_do_not_replace_each_other(pictures: Path, small_vgg: Path) -> None:
    (pictures / "other").mkdir()
    (pictures / "other" / "style.png").write_bytes((pictures / "content" / "photo_0.png").read_bytes())
    samples = (str(pictures / "style.png"), str(pictures / "other" / "style.png"))
    assert main(options(pictures, small_vgg, "--sample", *samples, "--sample-every", "4")) == 0
    written = {path.name: Image.open(path).size for path in (pictures / "logs" / "a" / "samples").iterdir()}
    assert written == {"style_000004.jpg": (60, 45), "style-2_000004.jpg": (50, 40)}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every name is text")
def test_names_that_are_no_text(pictures: Path, small_vgg: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = os.fsdecode(b"caf\xe9")  # as an old disk in Latin-1 has them
    painting, out = pictures / f"{odd}.png", pictures / f"{odd}.pth"
    painting.write_bytes((pictures / "style.png").read_bytes())
    given = ("--style", str(painting), "--out", str(out), "--sample", str(painting))
    assert main(options(pictures, small_vgg, *given, "--max-minutes", "0", "--sample-every", "1")) == 0
    assert main(options(pictures, small_vgg, *given, "--resume", "--sample-every", "1")) == 0
    assert load_checkpoint(out).style == "caf_"
    assert len(list((pictures / "logs" / "caf\N{REPLACEMENT CHARACTER}" / "samples").iterdir())) == 4
    capsys.readouterr()
    recipe = ("--overwrite", "--save-recipe", str(pictures / "recipe.toml"))
    line = fails(options(pictures, small_vgg, *given, *recipe), capsys)
    assert "no UTF-8, which TOML requires. Rename that file" in line
    assert not (pictures / "recipe.toml").exists()


def test_photographs_too_small_for_the_net_are_no_samples(
    pictures: Path, small_vgg: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dot = pictures / "content" / "a_dot.png"
    Image.new("RGB", (3, 40)).save(dot)
    assert "less than the 5 px" in fails(options(pictures, small_vgg, "--sample", str(dot)), capsys)
    assert main(options(pictures, small_vgg)) == 0
    first = min((pictures / "logs" / "a" / "samples").iterdir())
    assert Image.open(first).size != (3, 40)


def test_a_recipe_repeats_the_training(pictures: Path, small_vgg: Path) -> None:
    saved = pictures / "recipe.toml"
    assert main(options(pictures, small_vgg, "--save-recipe", str(saved), "--seed", "3")) == 0
    first, recipe = (pictures / "a.pth").read_bytes(), saved.read_bytes()
    assert main(options(pictures, small_vgg, "--save-recipe", str(saved), "--seed", "3", "--resume")) == 0
    assert saved.read_bytes() == recipe
    assert main(["fit", "--recipe", str(saved), "--out", str(pictures / "b.pth")]) == 0
    a, b = load_checkpoint(pictures / "a.pth"), load_checkpoint(pictures / "b.pth")
    assert a.record["losses"] == b.record["losses"]
    assert first == (pictures / "a.pth").read_bytes()


def test_max_minutes_then_resume_then_once_more(
    pictures: Path, small_vgg: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options(pictures, small_vgg, "--max-minutes", "0")) == 0
    assert "Stopped after step 1 of 4; continue with --resume" in capsys.readouterr().err
    assert "holds an unfinished training" in fails(options(pictures, small_vgg), capsys, 2)
    assert main(options(pictures, small_vgg, "--resume")) == 0
    assert "Resuming at step 1" in capsys.readouterr().err
    assert main(options(pictures, small_vgg, "--resume")) == 0
    assert "is finished already, all 4 steps" in capsys.readouterr().err


# --- what is there already -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.pth", "recipe.toml"])
def test_replaces_only_with_overwrite(
    name: str, pictures: Path, small_vgg: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = pictures / name
    there.write_bytes(b"dear to someone")
    command = options(pictures, small_vgg, "--save-recipe", str(pictures / "recipe.toml"))
    before = sorted(pictures.iterdir())
    line = fails(command, capsys, 2)
    assert line == f"nst-train: error: {there} exists already. Replace it with --overwrite, or choose another name\n"
    assert there.read_bytes() == b"dear to someone"
    assert sorted(pictures.iterdir()) == before
    assert main([*command, "--overwrite"]) == 0
    assert load_checkpoint(pictures / "a.pth").record["step"] == 4
    assert read_recipe(pictures / "recipe.toml")["steps"] == 4


def test_resume_and_overwrite_exclude_each_other(
    pictures: Path, small_vgg: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--resume" in fails(options(pictures, small_vgg, "--resume", "--overwrite"), capsys, 2)


def test_overwrite_discards_an_unfinished_training_but_not_before_its_own_checkpoint(
    pictures: Path, small_vgg: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options(pictures, small_vgg, "--max-minutes", "0")) == 0
    state = pictures / "a.state.pth"
    before = state.read_bytes()
    capsys.readouterr()
    fails(options(pictures, small_vgg, "--overwrite", "--vgg-weights", "nowhere.pth"), capsys)
    assert main(options(pictures, small_vgg, "--overwrite", "--lr", "1e38", "--warmup", "0")) == 1  # diverges
    assert state.read_bytes() == before
    assert main(options(pictures, small_vgg, "--overwrite", "--seed", "5", "--max-minutes", "0")) == 0
    assert load_state(state).config["seed"] == 5
    assert "Training: " in capsys.readouterr().err
    assert main(options(pictures, small_vgg, "--overwrite", "--seed", "6")) == 0
    assert load_checkpoint(pictures / "a.pth").record["config"]["seed"] == 6
    assert not state.exists()


@pytest.mark.parametrize("option", ["--style", "--vgg-weights"])
def test_no_input_is_written_onto(
    option: str, pictures: Path, small_vgg: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "a.pth").write_bytes(b"dear to someone")
    given = (option, str(pictures / "a.pth"), "--overwrite")
    assert "a.pth would be written onto itself" in fails(options(pictures, small_vgg, *given), capsys, 2)
    assert (pictures / "a.pth").read_bytes() == b"dear to someone"


# --- signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_with_a_checkpoint(number: int, code: int, pictures: Path, small_vgg: Path) -> None:
    command = options(pictures, small_vgg, "--steps", "100000", "--checkpoint-every", "10", "--sample-every", "0")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "nst_train", *command], env=environment, stderr=subprocess.PIPE, text=True
    )
    state = pictures / "a.state.pth"
    deadline = time.monotonic() + 120
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == code, shown
    step = load_state(state).step
    assert f"Stopped after step {step} of 100000" in shown
    assert load_checkpoint(pictures / "a.pth").record["step"] == step
    assert "Traceback" not in shown


def test_the_help_is_grouped(capsys: pytest.CaptureFixture[str]) -> None:
    assert main_exits(["fit", "--help"]) == 0
    shown = capsys.readouterr().out
    positions = [shown.index(f"\n{group}:\n") for group in ("recipe", "pictures and files", "schedule", "machine")]
    assert positions == sorted(positions)
    assert "(default: 40000)" in shown


def test_commands_are_listed_without_importing_torch() -> None:
    code = (
        "import sys; from nst_train.cli import main\ntry: main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert all(command in done.stdout for command in ("fit", "gatys", "visualize"))


def main_exits(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert isinstance(caught.value.code, int)
    return caught.value.code


# --- one line, a remedy, an exit code --------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["fly"], ["fit", "--steps", "many"], ["fit", "--crops", "3"]])
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main_exits(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (("--steps", "0"), 2, "--steps: 0 given, expected at least 1"),
        (("--widths", "3", "4"), 2, "net: widths=(3, 4), expected three whole numbers"),
        (("--out", ""), 2, "--out: '.' names no file"),
        (("--out", "FOLDER"), 2, "is a folder, expected the name of a file"),
        (("--save-recipe", "nowhere/a.toml"), 1, "Cannot write nowhere/a.toml"),
        (("--style", "n" * 300), 1, "Choose a shorter name"),
        (("--style", "nowhere.jpg"), 1, "Cannot read the style picture nowhere.jpg: no such file"),
        (("--style", "FOLDER"), 1, "Cannot read the style picture {FOLDER}: it is a folder. Give --style a JPEG"),
        (("--content", "nowhere"), 1, "No folder of photographs at nowhere"),
        (("--out", "nowhere/a.pth"), 1, "Cannot write nowhere/a.pth"),
        (("--vgg-weights", "nowhere.pth"), 1, "nowhere.pth"),
        (("--init", "nowhere.pth"), 1, "No checkpoint at nowhere.pth"),
        (("--sample", "nowhere.jpg"), 1, "Cannot read the sample picture nowhere.jpg: no such file"),
        (("--recipe", "nowhere.toml"), 2, "Cannot use the recipe nowhere.toml: no such file"),
        (("--content-layers", "relu9_9"), 2, "relu9_9"),
        (("--style-layers", "relu3_1"), 1, "relu3_1"),  # the file of weights ends before
    ],
)
def test_bad_input_is_one_line(
    more: tuple[str, ...], code: int, message: str, pictures: Path, small_vgg: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = tuple(str(pictures) if word == "FOLDER" else word for word in more)
    recipe = () if "--save-recipe" in more else ("--save-recipe", str(pictures / "recipe.toml"))
    assert message.replace("{FOLDER}", str(pictures)) in fails(
        options(pictures, small_vgg, *recipe, *more), capsys, code
    )
    assert not (pictures / "a.pth").exists()
    assert not (pictures / "recipe.toml").exists()  # it would be in the way of the next attempt


def test_a_content_folder_without_pictures_is_named(
    pictures: Path, small_vgg: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "empty").mkdir()
    line = fails(options(pictures, small_vgg, "--content", str(pictures / "empty")), capsys)
    assert "no picture file in there" in line
    (pictures / "empty" / "a.jpg").write_text("no picture")
    line = fails(options(pictures, small_vgg, "--content", str(pictures / "empty")), capsys)
    assert "none of 1 picture files is readable" in line


def test_divergence_is_named(pictures: Path, small_vgg: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(options(pictures, small_vgg, "--lr", "1e38", "--warmup", "0")) == 1
    assert re.search(r"nst-train: error: Training diverged at step \d: .* lower --lr", capsys.readouterr().err)
    assert not (pictures / "a.pth").exists()


def test_the_remedy_of_a_divergence_works_as_typed(
    pictures: Path, small_vgg: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = pictures / "my net.pth"  # a shell would take it for two words
    command = options(pictures, small_vgg, "--out", str(out), "--checkpoint-every", "1")
    problem = LossCurve.problem
    monkeypatch.setattr(LossCurve, "problem", lambda self, *_: "the loss is nan" if len(self.rows) == 2 else None)
    assert main(command) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"diverged at step 3: the loss is nan; the last good net, of step 2, is in {out}. " in line
    assert load_checkpoint(out).record["step"] == 2
    monkeypatch.setattr(LossCurve, "problem", problem)
    again = command + shlex.split(line.partition("repeat the command with ")[2])
    assert main([*again, "--max-minutes", "0"]) == 0  # stopped, after out was replaced
    assert load_checkpoint(out).record["config"]["lr"] == 0.00025
    capsys.readouterr()
    again.remove("--overwrite")
    assert "holds an unfinished training" in fails(again, capsys, 2)
    assert main([*again, "--resume"]) == 0  # although the net to start from is no longer there
    assert load_checkpoint(out).record["step"] == 4
    assert main([*again, "--resume"]) == 0
    assert "is finished already" in capsys.readouterr().err


def test_running_out_of_memory_is_named(pictures: Path, small_vgg: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(options(pictures, small_vgg, "--crop", "10000000", "--sample-every", "0")) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "error: Out of memory while training with a batch of 2 crops of 10000000 px. Lower --batch" in line


def test_a_full_disk_is_named(pictures: Path, small_vgg: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with files_up_to(2000):
        code = main(options(pictures, small_vgg, "--checkpoint-every", "1", "--sample-every", "0"))
    shown = capsys.readouterr().err
    assert code == 1
    assert "nst-train: error: Cannot write" in shown
    assert "a.state.pth: File too large" in shown
    assert not list(pictures.glob(".*.part"))
