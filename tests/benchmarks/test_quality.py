from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.quality import main, refuse_another_painting
from nst_train.checkpoints import Checkpoint, file_sha256, save_checkpoint
from nst_train.errors import StyleUnreadableError
from nst_train.transform_net import TransformNet, TransformNetConfig

NET = TransformNetConfig(widths=(4, 6, 8), blocks=1)


@pytest.fixture
def paintings(tmp_path: Path) -> tuple[Path, Path]:
    for name, colour in (("mine.png", "red"), ("other.png", "blue")):
        Image.new("RGB", (40, 40), colour).save(tmp_path / name)
    return tmp_path / "mine.png", tmp_path / "other.png"


def trained_on(record: dict[str, object]) -> Checkpoint:
    torch.manual_seed(0)
    return Checkpoint(NET, TransformNet(NET).state_dict(), "mine", record=record)


def test_another_painting_is_refused(paintings: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    mine, other = paintings
    record = {"inputs": {"style": file_sha256(mine)}, "config": {"style": "mine.png"}}
    checkpoint = mine.with_name("mine.pth")
    save_checkpoint(checkpoint, trained_on(record))
    out = mine.with_name("results.json")
    command = ["--ckpt", str(checkpoint), "--photos", str(mine), "--out", str(out), "--style", str(other)]
    assert main(command) == 2
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1
    assert f"{other} is not the painting that mine was trained on: that was mine.png" in complaint
    assert not out.exists()
    refuse_another_painting(trained_on(record), mine)


@pytest.mark.parametrize("record", [{}, {"inputs": {}}, {"inputs": {"style": ""}}])
def test_a_record_without_a_painting_is_believed(record: dict[str, object], paintings: tuple[Path, Path]) -> None:
    for painting in paintings:
        refuse_another_painting(trained_on(record), painting)
    with pytest.raises(StyleUnreadableError, match="no such file"):
        refuse_another_painting(trained_on(record), paintings[0].with_name("nowhere.png"))
