import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks.quality import main, measure, refuse_another_painting
from nst_train.checkpoints import Checkpoint, file_sha256, save_checkpoint
from nst_train.errors import StyleUnreadableError
from nst_train.transform_net import TransformNet, TransformNetConfig
from tests.nst_train.random_vgg import state_dict, torchvision_features

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
    with pytest.raises(StyleUnreadableError, match="it is a folder"):
        refuse_another_painting(trained_on(record), paintings[0].parent)


def test_several_nets_are_measured_in_whole_float32(
    paintings: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    vgg = paintings[0].with_name("vgg.pth")
    torch.save(state_dict(torchvision_features("vgg19", 2)), vgg)
    objective = {"content_layers": ["relu2_1"], "style_layers": ["relu1_1"]}
    checkpoints = []
    for style, painting in zip(("first", "second"), paintings, strict=True):
        record = {"inputs": {"style": file_sha256(painting)}, "config": {"objective": objective, "style_size": [32]}}
        checkpoints.append(painting.with_name(f"{style}.pth"))
        save_checkpoint(checkpoints[-1], dataclasses.replace(trained_on(record), style=style))
    photograph = paintings[0].with_name("photograph.png")
    Image.effect_noise((40, 40), 60).convert("RGB").save(photograph)
    rounded: list[bool] = []

    def watched(*arguments: Any) -> dict[str, Any]:
        rounded.append(torch.backends.cudnn.allow_tf32)
        return measure(*arguments)

    monkeypatch.setattr("benchmarks.quality.measure", watched)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    out = paintings[0].with_name("results.json")
    command = ["--ckpt", *map(str, checkpoints), "--photos", str(photograph), "--out", str(out)]
    command += ["--vgg-weights", str(vgg), "--size", "32", "--iterations", "2", "--style"]
    assert main([*command, str(paintings[0])]) == 2
    complaint = "quality.py: error: 2 nets and 1 paintings given. Give --style one painting for each net"
    assert capsys.readouterr().err.startswith(complaint)
    assert main([*command, *map(str, paintings)]) == 0
    assert rounded == [False, False]
    assert torch.backends.cudnn.allow_tf32
    assert list(json.loads(out.read_text(encoding="utf-8"))) == ["first", "second"]
    assert capsys.readouterr().out.count("L-BFGS iterations, median of 1") == 2
