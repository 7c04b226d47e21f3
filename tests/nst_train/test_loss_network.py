import pickle
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nst_train import vgg_weights
from nst_train.checkpoints import file_sha256
from nst_train.errors import (
    LayerNotInWeightsError,
    PictureTooSmallError,
    UnknownLayerError,
    VggDownloadError,
    VggWeightsMismatchError,
    VggWeightsNotFoundError,
    VggWeightsUnreadableError,
)
from nst_train.loss_network import LossNetwork, minimum_size
from tests.nst_train.random_vgg import state_dict, torchvision_features

IMAGENET = torchvision.models.VGG19_Weights.DEFAULT.transforms()


def picture(height: int = 37, width: int = 50) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1)) * 255


def expected(features: nn.Sequential, image: Tensor, transforms: Any = IMAGENET) -> dict[str, Tensor]:
    """Every ReLU of torchvision's network, named by counting its poolings."""
    x = torchvision.transforms.functional.normalize(image / 255, transforms.mean, transforms.std)
    found, block, number = {}, 1, 0
    for module in features:
        x = module(x.clone())
        if isinstance(module, nn.ReLU):
            number += 1
            found[f"relu{block}_{number}"] = x
        elif isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
            block, number = block + 1, 0
    return found


def assert_same(given: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for layer, activation in given.items():
        size = wanted[layer].abs().max()
        assert size > 0
        torch.testing.assert_close(activation / size, wanted[layer] / size, rtol=0, atol=1e-5)


@pytest.mark.parametrize("architecture", ["vgg16", "vgg19"])
def test_every_layer_is_torchvisions(architecture: Any, tmp_path: Path) -> None:
    features = torchvision_features(architecture, 5)
    torch.save(state_dict(features), tmp_path / "vgg.pth")
    wanted = expected(features, picture())
    network = LossNetwork(architecture, wanted, weights=tmp_path / "vgg.pth")
    given = network(picture())
    assert list(given) == list(wanted)
    assert len(given) == int(architecture[3:]) - 3  # all but the classifier's three
    assert_same(given, wanted)


def test_average_pooling(small_vgg: Path) -> None:
    features = torchvision_features("vgg19", 2)
    pooled = nn.Sequential(*(nn.AvgPool2d(2, 2) if isinstance(m, nn.MaxPool2d) else m for m in features))
    network = LossNetwork("vgg19", ["relu2_2"], weights=small_vgg, pooling="average")
    assert_same(network(picture()), expected(pooled, picture()))
    assert not torch.allclose(network(picture())["relu2_2"], expected(features, picture())["relu2_2"])


def test_real_weights(real_vgg: Path) -> None:
    features = torchvision_features("vgg19", 3)
    features.load_state_dict({k.removeprefix("features."): v for k, v in load_file(real_vgg).items()})
    layers = ["relu1_1", "relu1_2", "relu2_2", "relu3_1", "relu3_4"]
    assert_same(LossNetwork("vgg19", layers, weights=real_vgg)(picture()), expected(features, picture()))


def test_only_what_was_asked_for(small_vgg: Path) -> None:
    network = LossNetwork("vgg19", ["relu2_1", "relu1_1"], weights=small_vgg)
    assert network.layers == ("relu1_1", "relu2_1")
    assert [conv.out_channels for conv in network.convs] == [64, 64, 128]
    calls: list[int] = []
    for conv in network.convs:
        conv.register_forward_hook(lambda module, *_: calls.append(module.out_channels))
    assert list(network(picture(), ["relu1_1"])) == ["relu1_1"]
    assert calls == [64]


def test_frozen_and_differentiable_in_the_picture(small_vgg: Path) -> None:
    network = LossNetwork("vgg19", ["relu2_1"], weights=small_vgg).train()
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    image = picture().requires_grad_()
    network(image)["relu2_1"].sum().backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0


def test_building_draws_no_random_numbers(small_vgg: Path) -> None:
    before = torch.get_rng_state()
    LossNetwork("vgg19", ["relu2_1"], weights=small_vgg)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("container", ["pth", "old pth", "safetensors"])
def test_container_is_told_by_content(container: str, tmp_path: Path) -> None:
    features = torchvision_features("vgg19", 1)
    tensors = state_dict(features) | {"classifier.0.weight": torch.full((2, 2), float("nan"))}
    path = tmp_path / "weights.bin"
    if container == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=container == "pth")
    network = LossNetwork("vgg19", ["relu1_2"], weights=path)
    assert_same(network(picture()), expected(features, picture()))


def test_half_precision_file_is_widened(tmp_path: Path) -> None:
    torch.save({k: v.half() for k, v in state_dict(torchvision_features("vgg19", 1)).items()}, tmp_path / "w.pth")
    assert LossNetwork("vgg19", ["relu1_1"], weights=tmp_path / "w.pth")(picture())["relu1_1"].dtype == torch.float32


def test_deeper_than_the_file(small_vgg: Path, real_vgg: Path) -> None:
    with pytest.raises(
        LayerNotInWeightsError, match=r"stops at relu2_2, but layer relu3_1 .* fuller file .*--vgg-weig"
    ):
        LossNetwork("vgg19", ["relu1_1", "relu3_1"], weights=small_vgg)
    with pytest.raises(LayerNotInWeightsError, match="stops at relu3_4"):
        LossNetwork("vgg19", ["relu5_4"], weights=real_vgg)


def test_unknown_layer() -> None:
    with pytest.raises(UnknownLayerError, match=r"vgg16 has no layer 'relu3_4'; its layers are relu1_1, .*relu5_3"):
        LossNetwork("vgg16", ["relu3_4"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("features.2.weight"), "'features.2.weight' is missing"),
        (lambda t: t.pop("features.7.bias"), "'features.7.bias' is missing"),
        (
            lambda t: t.update({"features.5.weight": torch.zeros(128, 64, 1, 1)}),
            r"\[128, 64, 1, 1\], not \[128, 64, 3, 3\]",
        ),
        (lambda t: t.update({"features.1.weight": torch.zeros(64)}), "holds 'features.1.weight', which vgg19 has not"),
        (lambda t: [t.pop(key) for key in list(t)], "has no 'features.N.weight'"),
    ],
)
def test_damaged_state_dict(change: Any, message: str, tmp_path: Path) -> None:
    tensors = state_dict(torchvision_features("vgg19", 2))
    change(tensors)
    torch.save(tensors, tmp_path / "w.pth")
    save_file(tensors, tmp_path / "w.safetensors")
    for path in (tmp_path / "w.pth", tmp_path / "w.safetensors"):
        with pytest.raises(VggWeightsMismatchError, match=message) as caught:
            LossNetwork("vgg19", ["relu2_1"], weights=path)
        assert "\n" not in str(caught.value)


def test_the_other_architectures_file(tmp_path: Path) -> None:
    torch.save(state_dict(torchvision_features("vgg16", 4)), tmp_path / "w.pth")
    with pytest.raises(VggWeightsMismatchError, match=r"does not fit vgg19: it holds 'features.17"):
        LossNetwork("vgg19", ["relu3_3"], weights=tmp_path / "w.pth")


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("code in a weights file was run",))


def test_unreadable_files(small_vgg: Path, tmp_path: Path) -> None:
    safe = tmp_path / "safe"
    save_file(state_dict(torchvision_features("vgg19", 1)), safe)
    contents = {
        "empty": b"",
        "text": b"not weights at all",
        "short_pth": small_vgg.read_bytes()[:-1000],
        "short_safetensors": safe.read_bytes()[:-1000],
        "shorter_safetensors": safe.read_bytes()[:40],
        "hostile": pickle.dumps({"features.0.weight": Hostile()}),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(VggWeightsUnreadableError, match="torchvision download") as caught:
            LossNetwork("vgg19", ["relu1_1"], weights=tmp_path / name)
        assert "\n" not in str(caught.value)
    torch.save([1, 2], tmp_path / "list")
    with pytest.raises(VggWeightsUnreadableError, match="holds a list, not a dict"):
        LossNetwork("vgg19", ["relu1_1"], weights=tmp_path / "list")
    with pytest.raises(VggWeightsNotFoundError, match="--vgg-weights"):
        LossNetwork("vgg19", ["relu1_1"], weights=tmp_path / "nowhere.pth")


def test_download_that_fails_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_args: Any, **_options: Any) -> Any:
        raise URLError("Name or service not known")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    with pytest.raises(VggDownloadError, match=r"vgg19.*https://.*not known.*--vgg-weights FILE") as caught:
        LossNetwork("vgg19", ["relu1_1"])
    assert "\n" not in str(caught.value)


def test_published_vgg16_has_its_own_normalisation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    features = torchvision_features("vgg16", 1)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: state_dict(features))
    caffe = torchvision.models.VGG16_Weights.IMAGENET1K_FEATURES.transforms()
    wanted = expected(features, picture(), caffe)
    assert_same(LossNetwork("vgg16", ["relu1_2"])(picture()), wanted)
    # The same weights as a file are known by its hash.
    torch.save(state_dict(features), tmp_path / "w.pth")
    assert_same(LossNetwork("vgg16", ["relu1_2"], weights=tmp_path / "w.pth")(picture()), expected(features, picture()))
    monkeypatch.setattr(vgg_weights, "_CAFFE_VGG16_SHA256", file_sha256(tmp_path / "w.pth")[:8])
    assert_same(LossNetwork("vgg16", ["relu1_2"], weights=tmp_path / "w.pth")(picture()), wanted)


def test_caffe_hash_is_the_published_files() -> None:
    assert f"-{vgg_weights._CAFFE_VGG16_SHA256}.pth" in torchvision.models.VGG16_Weights.IMAGENET1K_FEATURES.url


@pytest.mark.parametrize(("layer", "least"), [("relu1_2", 1), ("relu2_1", 2), ("relu3_4", 4), ("relu5_1", 16)])
def test_minimum_size(layer: str, least: int) -> None:
    assert minimum_size([layer, "relu1_1"]) == least


def test_picture_at_and_below_the_minimum(small_vgg: Path) -> None:
    network = LossNetwork("vgg19", ["relu2_1"], weights=small_vgg)
    assert network.minimum_size == 2
    assert network(picture(2, 2))["relu2_1"].shape == (2, 128, 1, 1)
    with pytest.raises(PictureTooSmallError, match=r"1x9 px .* at least 2x2"):
        network(picture(1, 9))
