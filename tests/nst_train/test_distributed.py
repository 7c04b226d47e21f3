"""Two processes under torchrun against one."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nst_train.checkpoints import load_checkpoint
from nst_train.distributed import join_processes
from nst_train.errors import CannotJoinError, DeviceMissingError
from tests.nst_train.tiny_training import FLAGS, weights

ROOT = Path(__file__).parents[2]
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def start(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = (sys.executable, *command)
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=240
    )


def fit(launcher: tuple[str, ...], pictures: Path, vgg: Path, out: str, *more: str) -> subprocess.CompletedProcess[str]:
    arguments = ("--style", "style.png", "--content", "content", "--out", out, "--vgg-weights", str(vgg), *FLAGS)
    exact = ("--steps", "20", "--device", "cpu", "--precision", "fp32", "--ema", "0", "--sample-every", "0")
    return start(pictures, *launcher, "-m", "nst_train", "fit", *arguments, *exact, *more)


def distance(one: Path, two: Path) -> float:
    """Of all weights together, relative."""
    first, second = (torch.cat([value.flatten() for value in weights(path).values()]) for path in (one, two))
    assert not torch.equal(first, second)  # they were two different computations
    return float((first - second).norm() / first.norm())


def test_two_ranks_with_half_the_batch_agree_with_one(pictures: Path, small_vgg: Path) -> None:
    # With larger steps rounding alone moves fp32 trainings further apart; float64, below, takes the usual ones.
    options = ("--lr", "1e-4", "--warmup", "20", "--batch", "4")
    for launcher, out in (((), "one.pth"), (TWO, "two.pth")):
        done = fit(launcher, pictures, small_vgg, out, *options)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("Wrote") == 1  # rank 0 alone reports
    assert distance(pictures / "one.pth", pictures / "two.pth") < 1e-4


def test_rank_0_refuses_for_all(pictures: Path, small_vgg: Path) -> None:
    (pictures / "two.pth").write_bytes(b"dear to someone")
    done = fit(TWO, pictures, small_vgg, "two.pth", "--save-recipe", "recipe.toml")
    assert done.returncode != 0
    assert done.stderr.count("two.pth exists already. Replace it with --overwrite") == 1
    assert (pictures / "two.pth").read_bytes() == b"dear to someone"
    assert not (pictures / "recipe.toml").exists()
    done = fit(TWO, pictures, small_vgg, "two.pth", "--save-recipe", "recipe.toml", "--overwrite")
    assert done.returncode == 0, done.stderr
    assert load_checkpoint(pictures / "two.pth").record["step"] == 20
    assert (pictures / "recipe.toml").exists()


def test_in_float64_they_are_the_same_training(pictures: Path, small_vgg: Path) -> None:
    script = str(ROOT / "tests" / "nst_train" / "float64_training.py")
    for launcher, out in (((), "one.pth"), (TWO, "two.pth")):
        done = start(pictures, *launcher, script, str(pictures), str(small_vgg), str(pictures / out))
        assert done.returncode == 0, done.stderr
    assert distance(pictures / "one.pth", pictures / "two.pth") < 1e-9
    one, two = (load_checkpoint(pictures / name).record["losses"] for name in ("one.pth", "two.pth"))
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, rel=1e-5)  # reported are the losses of the whole batch


def test_alone_without_torchrun() -> None:
    with join_processes("cpu") as process:
        assert (process.rank, process.world, process.is_main, process.device.type) == (0, 1, True, "cpu")
        assert process.mean(torch.tensor([2.0, 3.0])).tolist() == [2.0, 3.0]


def test_a_missing_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(DeviceMissingError, match="--device cuda"), join_processes("cuda"):
        pass
    with join_processes("auto") as process:
        assert process.device.type == "cpu"


def test_each_process_needs_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(DeviceMissingError, match="process 1 has no GPU"), join_processes("cuda"):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_gloos_threads_end_with_the_training(pictures: Path, small_vgg: Path) -> None:
    # One that lets go of a tensor after Python has ended aborts the process, now and then.
    done = start(pictures, *TWO, str(ROOT / "tests/nst_train/threads_after_training.py"), str(pictures), str(small_vgg))
    assert done.returncode == 0, done.stderr
    counted = sorted(re.findall(r"(\d+) more, (\d+) left", done.stdout))
    assert len(counted) == 2
    assert all(int(more) > 0 and left == "0" for more, left in counted), counted


# --- processes that end early ----------------------------------------------------------------------------------------


def program(body: str) -> tuple[str, ...]:
    """A command that executes ``body``, in which ``process`` is this one among the others."""
    code = f"""
import os, sys, torch
from nst_common.console import run_command
from nst_common.errors import UsageError
from nst_train.distributed import join_processes

def refuse():
    raise UsageError("No", "Do something else")

def work(argv):
    with join_processes("cpu") as process:
        {body}
    return 0

sys.exit(run_command("two", work, None))
"""
    return (sys.executable, "-c", code)


def test_a_process_that_lost_another_says_so_in_one_line(tmp_path: Path) -> None:
    # Without torchrun, which ends the others as soon as it sees that one is gone.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    environment = os.environ | place | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = program("process.mean(torch.ones(1)); process.is_main or os._exit(3); process.mean(torch.ones(1))")
    left, lost = (
        subprocess.Popen(command, env=environment | {"RANK": rank}, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        for rank in "01"
    )
    assert lost.wait(timeout=120) == 3
    shown = left.communicate(timeout=120)[1]
    assert left.returncode == 1, shown
    assert "two: error: Process 0 of 2 lost the connection to another one. See above" in shown
    assert "Traceback" not in shown


def test_what_rank_0_alone_does_all_wait_for(tmp_path: Path) -> None:
    body = "process.main_alone(lambda: open('done', 'x').close()); print(os.path.exists('done'))"
    done = start(tmp_path, *TWO, "--no-python", *program(body))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("True") == 2
    done = start(tmp_path, *TWO, "--no-python", *program("process.main_alone(refuse); print('went on')"))
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.count("two: error: No. Do something else\n") == 1


@pytest.mark.parametrize("wrong", [{"RANK": "first"}, {"WORLD_SIZE": "2"}])
def test_processes_that_cannot_find_each_other_are_told_how(
    wrong: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CannotJoinError, match=r"cannot join the others: .* torchrun"), join_processes("cpu"):
        pass
