"""The emulation at 4K sees what it is there to see, and its results outlive no change of weights."""

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from nst_deploy.export.parity import bundled_photographs  # noqa: E402
from nst_train.checkpoints import Checkpoint, load_checkpoint, save_checkpoint  # noqa: E402
from nst_train.transform_net import TransformNet, TransformNetConfig  # noqa: E402

SETTING = {"size": "16x24", "picture": "a.jpg"}


@pytest.fixture
def fp16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/fp16.py; its results go elsewhere."""
    import fp16

    monkeypatch.setattr(fp16, "RESULTS", tmp_path / "fp16.json")
    return fp16


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    net = TransformNet(TransformNetConfig(widths=(8, 8, 12), blocks=1))
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    net.head.conv.weight.data *= 0.3
    save_checkpoint(tmp_path / "calm.pth", Checkpoint(net.config, net.state_dict(), "calm"))
    return tmp_path / "calm.pth"


def test_a_net_that_holds(fp16: ModuleType, checkpoint: Path) -> None:
    row = fp16.measure(checkpoint, np.ascontiguousarray(bundled_photographs()[0][:160, :240]))
    assert (row["checkpoint"], row["style"]) == ("calm.pth", "calm")
    assert row["psnr_db"] > 55
    assert 0.5 < row["largest_before_a_square"] < 256
    assert fp16.holds(row)
    assert not fp16.holds({**row, "all_finite": False})
    assert not fp16.holds({**row, "psnr_db": 54.9})
    assert fp16.holds({**row, "psnr_db": None})


@pytest.mark.parametrize("scale", [2.0**9, 2.0**17])
def test_what_leaves_the_range_is_seen(
    fp16: ModuleType, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    """Squares do first, and what the norm makes of those looks finite; then the values themselves."""
    calibrate = fp16.fp16.calibrate
    monkeypatch.setattr(fp16.fp16, "calibrate", lambda *given: tuple(scale * s for s in calibrate(*given)))
    row = fp16.measure(checkpoint, np.ascontiguousarray(bundled_photographs()[0][:48, :64]))
    is_finite = scale < 2**12
    assert row["all_finite"] == is_finite
    assert (row["largest_before_a_square"] or 0) > 256 if is_finite else row["largest_before_a_square"] is None
    assert ("NOT FINITE" in fp16.told(row)) != is_finite
    assert not fp16.holds(row)


def test_largest_is_the_distance_from_the_mean(fp16: ModuleType) -> None:
    watched = fp16.Watched()
    x = torch.tensor([3.0, 5.0, 5.0, -9.0]).half().reshape(1, 1, 2, 2)
    with torch.inference_mode(), watched:
        nn.InstanceNorm2d(1, affine=True).half()(x)
    assert watched.largest == 10.0  # from a mean of 1
    assert watched.finite


def test_results_of_other_weights_sizes_or_pictures_are_dropped(fp16: ModuleType, checkpoint: Path) -> None:
    assert fp16.known_rows(SETTING, [checkpoint]) == []
    sha256 = load_checkpoint(checkpoint).sha256
    rows = [
        {"checkpoint": "calm.pth", "checkpoint_sha256": sha256},
        {"checkpoint": "gone.pth", "checkpoint_sha256": sha256},
        {"style": "from before rows named their weights"},
    ]
    fp16.RESULTS.write_text(json.dumps({**SETTING, "styles": rows}))
    assert fp16.known_rows(SETTING, [checkpoint]) == rows[:1]
    assert fp16.known_rows({**SETTING, "size": "8x8"}, [checkpoint]) == []
    fp16.RESULTS.write_text(json.dumps({**SETTING, "styles": [{**rows[0], "checkpoint_sha256": "0" * 64}]}))
    assert fp16.known_rows(SETTING, [checkpoint]) == []


def test_every_shipped_style_is_among_them(fp16: ModuleType) -> None:
    names = [path.name for path in fp16.every_net()]
    assert {"la_muse.pth", "la_muse_half.pth", "wave.pth"} <= set(names)
    assert len(set(names)) == len(names)
