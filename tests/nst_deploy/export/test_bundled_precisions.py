"""What every shipped style keeps at lower precision, proven as an export proves it; and the published networks."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from nst_deploy.export.fp16 import emulated_run, fold_to_half
from nst_deploy.export.parity import ODD_SIZE, bundled_photographs, compare, verification_pictures
from nst_deploy.export.proof import prove_file, reference_run
from nst_deploy.parity_limit import LIMITS
from nst_deploy.styles import bundled_styles
from nst_train.checkpoints import load_checkpoint

ENGINES = Path(__file__).parents[3] / "engines"
STYLES = tuple(bundled_styles())
PUBLISHED = ("la_muse", "wave")


def half_precision_psnr(ckpt: Path) -> float:
    """dB of FP16 as a GPU runs it, against PyTorch in float32, on the photographs at their odd size."""
    net = load_checkpoint(ckpt).build()
    half, _ = fold_to_half(net, bundled_photographs())
    pictures = [(name, image) for name, image in verification_pictures() if image.shape[:2] == ODD_SIZE]
    parity = compare(reference_run(net), emulated_run(half), "fp16", pictures).parity
    assert LIMITS["fp16"].allows(parity), parity  # or nst-export would refuse to write the engine
    assert parity.psnr_db is not None  # equal pixels would mean that nothing was rounded
    return parity.psnr_db


@pytest.mark.parametrize("name", STYLES)
def test_half_precision_of_a_shipped_style(name: str) -> None:
    assert half_precision_psnr(ENGINES / f"{name}.pth") >= 55


@pytest.mark.parametrize("name", PUBLISHED)
def test_half_precision_of_a_published_network(name: str, shared_data: Path) -> None:
    network = shared_data / "lengstrom" / f"{name}.npz"
    if not network.exists():
        pytest.skip(f"no {network}")
    assert half_precision_psnr(network) >= 55


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
@pytest.mark.parametrize("name", STYLES)
def test_int8_of_a_shipped_style(name: str) -> None:
    engine = bundled_styles()[name].with_suffix(".int8.onnx")
    report = prove_file(load_checkpoint(ENGINES / f"{name}.pth"), engine, None)  # raises below the limit
    assert report.backend == "openvino-cpu-int8"
    assert report.parity.psnr_db is not None
    assert 34 <= report.parity.psnr_db < 60
