"""nst-export and nst_deploy.export.export: proofs, and what is left behind when they fail."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nst_deploy import Stylizer
from nst_deploy.errors import ParityError
from nst_deploy.export import export, exporter, verify_engine
from nst_deploy.export.cli import main
from nst_deploy.export.proof import reference_run
from nst_train.checkpoints import load_checkpoint


def test_an_export_proves_itself(small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--ckpt", str(small_checkpoint), "--out", str(tmp_path / "new" / "folder"), "--format", "onnx"]) == 0
    engine = tmp_path / "new" / "folder" / "small.onnx"
    shown = capsys.readouterr().out
    for word in ("coffee.jpg", "rocket.jpg", "267x201", "max diff", "identical", "PSNR", str(engine)):
        assert word in shown
    with Stylizer(engine) as stylize:
        parity = stylize.contract.parity
        assert parity is not None
        assert parity.max_levels <= 1
        assert parity.identical > 0.999
        photo = np.asarray(Image.open(exporter.__file__.replace("exporter.py", "photographs/coffee.jpg")))
        expected = reference_run(load_checkpoint(small_checkpoint).build())(photo[None])[0]
        assert np.abs(stylize(photo).astype(int) - expected).max() <= 1
    assert [p.name for p in engine.parent.iterdir()] == ["small.onnx"]


def test_an_engine_that_differs_is_not_written(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fold = exporter.fold

    def wrong_fold(net: torch.nn.Module, **options: bool) -> torch.nn.Module:
        folded = fold(net, **options)
        conv = next(module for module in folded.modules() if isinstance(module, torch.nn.Conv2d))
        conv.weight.data *= -1  # a positive scale would vanish in the norm
        return folded

    monkeypatch.setattr(exporter, "fold", wrong_fold)
    assert main(["--ckpt", str(small_checkpoint), "--out", str(tmp_path), "--format", "onnx"]) == 1
    assert "differs from PyTorch by up to" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    with pytest.raises(ParityError):
        export(small_checkpoint, tmp_path)


def test_verifying_later_records_the_figures(small_checkpoint: Path, tmp_path: Path) -> None:
    engine = export(small_checkpoint, tmp_path, verify=False).files[0].path
    with Stylizer(engine) as stylize:
        assert stylize.contract.parity is None
        before = stylize(np.full((9, 9, 3), 77, np.uint8))
    assert main(["--ckpt", str(small_checkpoint), "--verify", str(engine)]) == 0
    with Stylizer(engine) as stylize:
        assert stylize.contract.parity is not None
        np.testing.assert_array_equal(stylize(np.full((9, 9, 3), 77, np.uint8)), before)


def test_verifying_with_another_checkpoint_is_refused(
    small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = export(small_checkpoint, tmp_path, verify=False).files[0].path
    content = torch.load(small_checkpoint, weights_only=True)
    content["state"]["head.conv.bias"] += 1
    torch.save(content, tmp_path / "other.pth")
    assert main(["--ckpt", str(tmp_path / "other.pth"), "--verify", str(engine)]) == 1
    assert "was not made from" in capsys.readouterr().err


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "--ckpt"),
        (["--ckpt", "none.pth"], 1, "No checkpoint at none.pth"),
        (["--ckpt", "CKPT", "--precision", "fp7"], 2, "fp7"),
        (["--ckpt", "CKPT", "--format", "tflite"], 2, "tflite"),
        (["--ckpt", "CKPT", "--precision", ","], 2, "precision"),
        (["--ckpt", "CKPT", "--static", "big"], 2, "not a size"),
        (["--ckpt", "CKPT", "--static", "4x64"], 2, "8..8192 px"),
        (["--ckpt", "CKPT", "--static", "100000x100000"], 2, "8..8192 px"),
        (["--ckpt", "CKPT", "--verify", "a.onnx", "--static", "64x64"], 2, "--static says how to export"),
        (["--ckpt", "CKPT", "--verify", "none.onnx"], 1, "No engine at none.onnx"),
        (["--ckpt", "CKPT", "--verify-images", "none.jpg"], 1, "none.jpg"),
        (["--ckpt", "CKPT", "--out", "/dev/null/out"], 1, "Cannot write /dev/null/out"),
    ],
)
def test_bad_input_is_one_line(
    small_checkpoint: Path,
    arguments: list[str],
    code: int,
    message: str,
    empty_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [str(small_checkpoint) if a == "CKPT" else a for a in arguments]
    try:
        returned = main(given)
    except SystemExit as stop:  # argparse's own way out
        returned = stop.code
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("reading ")]
    assert returned == code
    assert len(lines) == 1
    assert message in lines[0]
    assert not list(empty_folder.iterdir())


def test_help_needs_no_torch() -> None:
    script = "import sys; sys.modules['torch'] = None; from nst_deploy.export.cli import main; main(['--help'])"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert "--ckpt" in shown.stdout


@pytest.mark.parametrize("style", ["la_muse", "wave"])
def test_published_networks_are_proven_on_every_photograph(shared_data: Path, tmp_path: Path, style: str) -> None:
    ckpt = shared_data / "lengstrom" / f"{style}.npz"
    engine = export(ckpt, tmp_path, verify=False).files[0].path
    photos = sorted((shared_data / "photos").glob("*.jpg"))
    report = verify_engine(engine, ckpt, photos).report
    own_size = [c for c in report.comparisons if (c.height, c.width) != (201, 267)]
    assert len(own_size) == len(photos)
    for comparison in own_size:
        assert comparison.max_levels <= 1, comparison
        assert comparison.identical >= 0.999, comparison
