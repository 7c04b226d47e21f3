"""INT8 engines: they compute what rounding says, on OpenVINO's integer kernels, or are not written."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from nst_deploy.contract import ModelContract
from nst_deploy.errors import ParityError
from nst_deploy.export import exporter, int8
from nst_deploy.export.cli import main
from nst_deploy.export.deployable import DeployableNet
from nst_deploy.export.int8 import ACTIVATION_STEPS, CUT_OFF, WEIGHT_STEPS, Site, calibrate, fold_to_int8
from nst_deploy.export.parity import bundled_photographs
from nst_deploy.export.phase_head import PhaseHead
from nst_deploy.export.proof import reference_run
from nst_deploy.export.stage import Stage
from nst_deploy.runtime.backend import open_backend
from nst_train.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from nst_train.transform_net import TransformNet, TransformNetConfig

needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
FOREIGN = TransformNetConfig(
    widths=(8, 8, 12),
    blocks=1,
    padding="same",
    upsampling="transpose",
    final_norm=True,
    output_scale=150.0,
    input_offset=0.0,
)
CONFIGS = {"own": TransformNetConfig(widths=(8, 12, 16), blocks=2), "foreign": FOREIGN}


def small_photographs() -> list[np.ndarray]:
    return [np.ascontiguousarray(photo[80:240, 100:300]) for photo in bundled_photographs()]


def random_net(config: TransformNetConfig) -> TransformNet:
    """A net whose levels change no steeper than those of trained nets."""
    torch.manual_seed(3)
    net = TransformNet(config).eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    net.head.conv.weight.data *= 0.3
    return net


@pytest.fixture(scope="module", params=CONFIGS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = random_net(CONFIGS[request.param])
    path = tmp_path_factory.mktemp("checkpoint") / f"{request.param}.pth"
    save_checkpoint(path, Checkpoint(net.config, net.state_dict(), request.param))
    return path


@pytest.fixture(scope="module")
def engine(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("int8")
    assert main(["--ckpt", str(checkpoint), "--out", str(out), "--format", "onnx", "--precision", "int8"]) == 0
    assert [path.name for path in out.iterdir()] == [f"{checkpoint.stem}.int8.onnx"]
    return out / f"{checkpoint.stem}.int8.onnx"


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.square(first.astype(float) - second).mean())))


@contextmanager
def rounded(net: nn.Module, sites: dict[str, Site]) -> Iterator[None]:
    """The convolutions of a folded net as the sites say, in torch: levels and weights rounded, all else float32."""
    handles = []
    for name, site in sites.items():
        module = net.get_submodule(name.removesuffix(".conv.weight").removesuffix(".phases"))
        weight = net.get_parameter(name)
        if site.whole:  # the net computes step * weight_step times less
            steps = torch.full((len(weight), 1, 1, 1), 1 / site.step)
        else:
            steps = weight.abs().amax((1, 2, 3), keepdim=True) / WEIGHT_STEPS
        weight.data = (weight / steps).round() * steps

        def levels(_: nn.Module, given: tuple[Tensor, ...], site: Site = site) -> tuple[Tensor]:
            return ((given[0] / site.step + site.zero).round().clamp(0, ACTIVATION_STEPS) - site.zero) * site.step

        # The strips of a head stay as they are, so only its large convolution is given levels.
        target = module if isinstance(module, Stage) else None
        if target is not None:
            handles.append(target.register_forward_pre_hook(levels))
        else:
            assert isinstance(module, PhaseHead)
            plain = module._with_borders
            handles.append(module.register_forward_pre_hook(lambda head, given: setattr(head, "given", given[0])))
            handles.append(module.register_forward_pre_hook(levels))
            module._with_borders = lambda _, pixels, head=module, plain=plain: plain(head.given, pixels)
    yield
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("config", [*CONFIGS.values(), dataclasses.replace(FOREIGN, input_offset=-1.0)])
def test_made_ready_the_net_still_computes_the_same(config: TransformNetConfig) -> None:
    """The middle on a whole level and the outputs in whole numbers change nothing by themselves."""
    net = random_net(config)
    folded, sites = fold_to_int8(net, small_photographs())
    image = torch.rand(2, 3, 40, 52) * 255
    with torch.inference_mode():
        difference = folded(image).clamp(0, 255) - net(image).round()
    assert difference.abs().max() <= 1
    assert (difference == 0).float().mean() > 0.999
    assert sum(site.whole for site in sites.values()) == 2  # the first convolution and the last upsampling


def test_a_range_leaves_out_the_rarest_values_and_holds_zero() -> None:
    torch.manual_seed(0)
    picture = small_photographs()[0]
    folded, _ = fold_to_int8(random_net(CONFIGS["own"]), [picture])
    stages = [module for module in folded.modules() if isinstance(module, Stage)]
    given: dict[Stage, Tensor] = {}
    for stage in stages:
        stage.register_forward_pre_hook(lambda stage, values: given.__setitem__(stage, values[0]))
    ranges = calibrate(folded, stages, [picture])
    for stage in stages[1:]:
        low, high = ranges[stage]
        assert low <= 0 <= high
        beyond = (given[stage] > high).double().mean().item()
        assert beyond <= CUT_OFF + 1 / given[stage].numel()
        assert high == given[stage].max() or beyond > 0.3 * CUT_OFF


@needs_openvino
def test_what_stands_in_the_file(checkpoint: Path, engine: Path) -> None:
    model = onnx.load(engine)
    contract = ModelContract.from_metadata({entry.key: entry.value for entry in model.metadata_props})
    assert (contract.precision, contract.style) == ("int8", checkpoint.stem)
    assert contract.parity is not None
    assert contract.parity.backend == "openvino-cpu-int8"
    assert contract.parity.psnr_db >= 34
    weights = [numpy_helper.to_array(t) for t in model.graph.initializer if t.name.endswith(".levels")]
    net = load_checkpoint(checkpoint).build()
    final_norm = net.config.final_norm
    assert len(weights) == 6 + 2 * net.config.blocks - final_norm  # a norm behind the head reads it several times
    for weight in weights:
        assert weight.dtype == np.int8
        # Two products of a level and a weight must fit into 16 bits: CPUs without VNNI add them there.
        assert 2 * 255 * np.abs(weight.astype(int)).max() < 2**15
        assert np.abs(weight.astype(int)).max() == WEIGHT_STEPS
    assert {node.domain for node in model.graph.node} == {""}


def test_the_engine_computes_what_rounding_says(checkpoint: Path, engine: Path) -> None:
    """ONNX Runtime computes the pairs in float32, as the operators are defined; torch rounds by itself."""
    photo = small_photographs()[1][None]
    folded, sites = fold_to_int8(load_checkpoint(checkpoint).build(), bundled_photographs())
    with rounded(folded, sites), torch.inference_mode():
        expected = DeployableNet(folded)(torch.from_numpy(photo)).numpy()
    styled = open_backend(engine, "cpu", threads=1).run(photo)
    assert psnr(styled, expected) > 55  # a value at the edge of two levels may fall to either
    plain = reference_run(load_checkpoint(checkpoint).build())(photo)
    assert psnr(expected, plain) < 50  # rounding is seen, so equal pictures would prove nothing


@needs_openvino
@pytest.mark.parametrize("shape", [(1, 160, 200), (2, 45, 67), (1, 8, 8)])
def test_openvino_computes_the_same(engine: Path, shape: tuple[int, int, int]) -> None:
    count, height, width = shape
    batch = np.stack([photo[:height, :width] for photo in small_photographs()[:count]])
    styled = open_backend(engine, "openvino", threads=1, cache=False).run(batch)
    # A factor that is lost or applied twice, as OpenVINO does where several read a convolution, leaves 5 to 20 dB.
    assert psnr(styled, open_backend(engine, "cpu", threads=1).run(batch)) > 42


@needs_openvino
def test_openvino_runs_the_convolutions_on_integers(engine: Path) -> None:
    backend = open_backend(engine, "openvino", threads=1, cache=False)
    operators = backend._compiled.get_runtime_model().get_ordered_ops()
    kernels = [
        node.get_rt_info()["primitiveType"].astype(str)
        for node in operators
        if node.get_rt_info()["layerType"].astype(str) == "Convolution"
    ]
    weights = [t for t in onnx.load(engine).graph.initializer if t.name.endswith(".levels")]
    integers = sum("I8" in kernel for kernel in kernels)
    assert integers >= len(weights) - ("foreign" in engine.name)  # zeros before the first of levels from -128 on


@pytest.mark.parametrize("checkpoint", ["own"], indirect=True)
def test_an_engine_too_far_from_pytorch_is_not_written(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fold = exporter.fold_to_int8

    def coarse(*arguments: object) -> object:
        folded, sites = fold(*arguments)
        return folded, {
            name: Site(30 * site.step, site.zero, site.weight_step) if not site.whole else site
            for name, site in sites.items()
        }

    monkeypatch.setattr(exporter, "fold_to_int8", coarse)
    with pytest.raises(ParityError, match=r"allowed is at least 34 dB; nothing was written"):
        exporter.export(checkpoint, tmp_path, precisions=["int8"])
    assert not list(tmp_path.iterdir())


def test_verify_measures_it_again(checkpoint: Path, engine: Path) -> None:
    file = exporter.verify_engine(engine, checkpoint)
    assert file.contract.precision == "int8"
    assert file.contract.parity.psnr_db >= 34


def test_channels_of_zeros_and_dead_activations() -> None:
    net = random_net(CONFIGS["own"])
    first = net.blocks[0].first
    first.conv.weight.data[2] = 0
    for parameter in (first.norm.weight, first.norm.bias):
        parameter.data.zero_()  # nothing gets through to the second convolution
    _, sites = fold_to_int8(net, small_photographs())
    assert all(np.isfinite(site.step) and site.step > 0 for site in sites.values())
    assert sites["layers.4.second.conv.weight"] == Site(step=1.0, zero=0)


def test_every_activation_range_is_worth_its_levels() -> None:
    """A step is a 255th of a range that was seen, and 0 is one of the levels."""
    photos = small_photographs()
    _, sites = fold_to_int8(random_net(CONFIGS["own"]), photos)
    assert sites["layers.1.conv.weight"].step == 1.0
    assert sites["layers.1.conv.weight"].zero == int8.CENTRE
    assert all(0 <= site.zero <= ACTIVATION_STEPS for site in sites.values())
    relus = [name for name in sites if name.endswith(("second.conv.weight", "layers.2.conv.weight"))]
    assert relus
    assert all(sites[name].zero == 0 for name in relus)  # no level is spent on what a ReLU never gives
