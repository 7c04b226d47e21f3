"""FP16 engines: scales that change nothing, values that stay in range, and what stands in the file."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import nn

from nst_deploy.contract import ModelContract
from nst_deploy.errors import ParityError
from nst_deploy.export import exporter, fp16
from nst_deploy.export.cli import main
from nst_deploy.export.fold import fold
from nst_deploy.export.fp16 import calibrate, emulated_run, fold_to_half, scale_norms
from nst_deploy.export.parity import bundled_photographs, compare
from nst_deploy.export.proof import reference_run
from nst_deploy.runtime.backend import open_backend
from nst_train.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from nst_train.transform_net import TransformNet, TransformNetConfig


def loud_net(factor: float) -> TransformNet:
    """A net whose convolutions before norms are ``factor`` times too strong: in exact arithmetic the same picture."""
    torch.manual_seed(3)
    net = TransformNet(TransformNetConfig(widths=(8, 8, 12), blocks=2, norm_eps=1e-9)).eval()
    for name, parameter in net.named_parameters():
        nn.init.normal_(parameter, std=0.2)
        if name.endswith("conv.weight") and not name.startswith("head"):
            parameter.data *= factor
    return net


def small_photographs() -> list[np.ndarray]:
    return [np.ascontiguousarray(photo[:160, :240]) for photo in bundled_photographs()]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .pth whose levels change no steeper than those of trained nets."""
    net = loud_net(1.0)
    net.head.conv.weight.data *= 0.3
    path = tmp_path_factory.mktemp("checkpoint") / "calm.pth"
    save_checkpoint(path, Checkpoint(net.config, net.state_dict(), "calm"))
    return path


@pytest.fixture(scope="module")
def engine(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("half")
    assert main(["--ckpt", str(checkpoint), "--out", str(out), "--format", "onnx", "--precision", "fp16"]) == 0
    assert [path.name for path in out.iterdir()] == ["calm.fp16.onnx"]
    return out / "calm.fp16.onnx"


def test_scales_change_nothing() -> None:
    net = loud_net(20.0).double()
    folded = fold(net, fp16.REWRITES)
    count = sum(isinstance(module, nn.InstanceNorm2d) for module in folded.modules())
    scale_norms(folded, [2.0 ** (k - 4) for k in range(count)])
    image = torch.rand(1, 3, 24, 32, dtype=torch.float64) * 255
    with torch.inference_mode():
        torch.testing.assert_close(folded(image).clamp(0, 255), net(image), atol=1e-9, rtol=0)


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3])
def test_calibration_brings_every_convolution_near_one(factor: float) -> None:
    photos = small_photographs()
    folded = fold(loud_net(factor), fp16.REWRITES)
    scales = calibrate(folded, photos)
    assert all(np.log2(scale).is_integer() for scale in scales)
    scale_norms(folded, scales)
    strongest = []
    for module in folded.modules():
        if isinstance(module, nn.InstanceNorm2d):
            module.register_forward_pre_hook(
                lambda _, given: strongest.append(given[0].square().mean((0, 2, 3)).max().sqrt().item())
            )
    for photo in photos:
        with torch.inference_mode():
            folded(torch.from_numpy(photo).float().permute(2, 0, 1)[None])
    assert all(0.1 < rms <= 1.001 for rms in strongest)


@pytest.mark.parametrize("norm_precision", ["fp16", "fp32"])
@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_half_precision_holds_however_loud_the_net_is(factor: float, norm_precision: str) -> None:
    net, photos = loud_net(factor), small_photographs()
    half, _ = fold_to_half(net, photos, norm_precision)
    pictures = [(str(i), photo) for i, photo in enumerate(photos)]
    parity = compare(reference_run(net), emulated_run(half), "fp16", pictures).parity
    assert reference_run(net)(photos[0][None]).std() > 20  # a picture
    assert parity.psnr_db is not None
    assert parity.psnr_db > 55


def test_the_emulation_shows_an_overflow_that_scales_prevent(monkeypatch: pytest.MonkeyPatch) -> None:
    net, photos = loud_net(1e3), small_photographs()
    monkeypatch.setattr(fp16, "calibrate", lambda folded, _: (1.0,) * len(calibrate(folded, photos)))
    half, _ = fold_to_half(net, photos)
    parity = compare(reference_run(net), emulated_run(half), "fp16", [("0", photos[0])]).parity
    assert parity.psnr_db is not None
    assert parity.psnr_db < 30


def test_the_emulated_norm_rounds_squares_and_sums_in_float32() -> None:
    norm = nn.InstanceNorm2d(1, affine=True).half()
    large = torch.full((1, 1, 64, 64), 200.0).half()
    large[..., ::2] = -200.0
    tiny = torch.full((1, 1, 64, 64), 0.01).half()
    tiny[..., ::2] = -0.01
    with torch.inference_mode(), fp16.HalfStorage():
        assert norm(large).abs().max() == 1.0  # 4096 squares of 40000 add up far beyond the range of FP16
        assert norm(large * 2).abs().max() == 0.0  # while one square of 400 is infinite
        assert norm(tiny).abs().max() == pytest.approx((1 + 1e-5 / 1e-4) ** -0.5, abs=2e-3)


def test_the_file_is_half_precision_between_its_casts(engine: Path, checkpoint: Path) -> None:
    model = onnx.load(engine)
    onnx.checker.check_model(model, full_check=True)
    graph = model.graph
    casts = {node.input[0]: node.attribute[0].i for node in graph.node if node.op_type == "Cast"}
    assert casts["image"] == TensorProto.FLOAT16
    (last,) = [node for node in graph.node if "styled" in node.output]
    assert (last.op_type, last.attribute[0].i) == ("Cast", TensorProto.UINT8)
    assert [value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)] == [TensorProto.UINT8] * 2
    arrays = [numpy_helper.to_array(tensor) for tensor in graph.initializer]
    assert {array.dtype for array in arrays if array.size > 1 and array.dtype != np.int64} == {np.dtype(np.float16)}
    norms = [node for node in graph.node if node.op_type == "InstanceNormalization"]
    contract = ModelContract.from_metadata({p.key: p.value for p in model.metadata_props})
    assert contract.precision == "fp16"
    assert len(contract.norm_scales) == len(norms) == 9
    eps = load_checkpoint(checkpoint).config.norm_eps
    assert [node.attribute[0].f for node in norms] == pytest.approx([eps * s**2 for s in contract.norm_scales])


def test_what_was_measured_stands_in_the_file(engine: Path) -> None:
    backend = open_backend(engine, "cpu")
    parity = backend.contract.parity
    backend.close()
    assert parity is not None
    assert parity.backend == "fp16-emulated"
    assert parity.psnr_db is not None
    assert parity.psnr_db >= 55
    assert parity.max_levels <= 3


def test_verifying_a_half_precision_engine_later(
    engine: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--ckpt", str(checkpoint), "--verify", str(engine)]) == 0
    assert "fp16-emulated" in capsys.readouterr().out


def test_norms_in_float32_are_casts_round_each_norm(checkpoint: Path, tmp_path: Path) -> None:
    file = exporter.export(checkpoint, tmp_path, precisions=("fp16",), norm_precision="fp32", verify=False)
    graph = onnx.load(file.files[0].path).graph
    makers = {output: node for node in graph.node for output in node.output}
    for norm in (node for node in graph.node if node.op_type == "InstanceNormalization"):
        before = makers[norm.input[0]]
        assert (before.op_type, before.attribute[0].i) == ("Cast", TensorProto.FLOAT)
        (after,) = [node for node in graph.node if norm.output[0] in node.input]
        assert (after.op_type, after.attribute[0].i) == ("Cast", TensorProto.FLOAT16)


def test_an_engine_that_a_gpu_would_overflow_is_not_written(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fp16, "calibrate", lambda folded, _: (2.0**14,) * len(calibrate(folded, small_photographs())))
    with pytest.raises(ParityError, match="55 dB"):
        exporter.export(checkpoint, tmp_path, precisions=("fp16",))
    assert not list(tmp_path.iterdir())
