import dataclasses
import itertools
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor

from nst_train.errors import ConfigError, PictureTooSmallError, StyleTooSmallError, UnknownLayerError
from nst_train.objective import ObjectiveConfig, PerceptualObjective
from tests.nst_train.random_vgg import torchvision_features

CONFIG = ObjectiveConfig(content_layers=("relu2_1", "relu1_2"), style_layers=("relu1_1", "relu2_2"))
TERMS = ("content", "style", "total_variation", "grid", "total")


def picture(n: int, height: int, width: int, seed: int) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 255


CONTENT, OUTPUT = picture(3, 20, 24, 0), picture(3, 20, 24, 1)
STYLES = [picture(1, 31, 17, 2), picture(1, 12, 40, 3)]


@pytest.fixture
def objective(small_vgg: Path) -> PerceptualObjective:
    return PerceptualObjective(CONFIG, STYLES, vgg_weights=small_vgg)


@torch.no_grad()
def activations(image: Tensor, padding: str = "zeros") -> dict[str, Tensor]:
    """In float64, from torchvision's own network."""
    transforms = torchvision.models.VGG19_Weights.DEFAULT.transforms()
    features = torchvision_features("vgg19", 2).double()
    for module in features:
        if isinstance(module, torch.nn.Conv2d):
            module.padding_mode = padding
            module._reversed_padding_repeated_twice = [1, 1, 1, 1]
    x = torchvision.transforms.functional.normalize(image.double() / 255, transforms.mean, transforms.std)
    found = {}
    for index, module in enumerate(features):
        x = module(x.clone())
        found[index] = x
    return {"relu1_1": found[1], "relu1_2": found[3], "relu2_1": found[6], "relu2_2": found[8]}


def shrunk(image: Tensor, octave: int) -> Tensor:
    """Means over squares of ``2**octave`` px, whole squares only."""
    side = 1 << octave
    n, c, height, width = image.shape
    whole = image[:, :, : height // side * side, : width // side * side].double()
    return whole.reshape(n, c, height // side, side, width // side, side).mean((3, 5))


def expected(octaves: int = 1) -> dict[str, float]:
    output, content = activations(OUTPUT), activations(CONTENT)
    ratios = [
        ((output[layer][n] - content[layer][n]) ** 2).sum() / (content[layer][n] ** 2).sum()
        for layer in CONFIG.content_layers
        for n in range(3)
    ]
    style_ratios = []
    for style_picture, octave, layer in itertools.product(STYLES, range(octaves), CONFIG.style_layers):
        padding = "replicate" if octave else "zeros"
        seen = [activations(shrunk(image, octave), padding)[layer] for image in (OUTPUT, style_picture)]
        grams = [torch.einsum("nchw,ndhw->ncd", x, x) / x[0].numel() for x in seen]
        style_ratios += [((grams[0][n] - grams[1][0]) ** 2).sum() / (grams[1][0] ** 2).sum() for n in range(3)]
    y = OUTPUT.double()
    variation = ((y[:, :, 1:] - y[:, :, :-1]) ** 2).mean() + ((y[..., 1:] - y[..., :-1]) ** 2).mean()
    blocks = [y[..., row::4, column::4].mean((2, 3)) for row in range(4) for column in range(4)]  # OUTPUT: whole blocks
    lattice = torch.stack(blocks, -1)  # [3, 3, 16]
    values = {
        "content": torch.stack(ratios).mean().item(),
        "style": torch.stack(style_ratios).mean().item(),
        "total_variation": float(variation),
        "grid": lattice.var(-1, correction=0).mean().item(),
    }
    total = values["content"] + 4.0 * values["style"] + 2e-6 * values["total_variation"] + 1e-2 * values["grid"]
    return values | {"total": total}


def test_against_the_formula(objective: PerceptualObjective) -> None:
    value = objective(OUTPUT, objective.targets(CONTENT))
    for term, wanted in expected().items():
        assert getattr(value, term).shape == ()
        assert float(getattr(value, term)) == pytest.approx(wanted, rel=1e-4), term


def test_octaves_against_the_formula(small_vgg: Path) -> None:
    objective = PerceptualObjective(dataclasses.replace(CONFIG, style_octaves=2), STYLES, vgg_weights=small_vgg)
    value = objective(OUTPUT, objective.targets(CONTENT))
    for term, wanted in expected(octaves=2).items():
        assert float(getattr(value, term)) == pytest.approx(wanted, rel=1e-4), term


def test_octaves_see_strokes_that_are_larger_than_the_network(small_vgg: Path) -> None:
    """Noise of single pixels against noise of 8 px squares: shrunk, the one turns grey and the other stays."""
    fine, coarse = picture(1, 64, 64, 1), picture(1, 8, 8, 2).repeat_interleave(8, 2).repeat_interleave(8, 3)
    layer = ObjectiveConfig(content_layers=(), style_layers=("relu1_1",))
    values = []
    for octaves in (1, 4):
        config = dataclasses.replace(layer, style_octaves=octaves)
        objective = PerceptualObjective(config, [coarse], vgg_weights=small_vgg)
        values.append(float(objective(fine, {}).style))
    assert values[1] > values[0]


def test_zero_at_the_targets(small_vgg: Path) -> None:
    objective = PerceptualObjective(CONFIG, [CONTENT[:1]], vgg_weights=small_vgg)
    value = objective(CONTENT[:1], objective.targets(CONTENT[:1]))
    assert value.content == 0
    assert value.style < 1e-10


def test_targets_that_are_all_zero(objective: PerceptualObjective) -> None:
    targets = objective.targets(CONTENT)
    nothing = {layer: target * 0 for layer, target in targets.items()}
    squares = [target.square().mean() for target in objective.targets(OUTPUT).values()]
    torch.testing.assert_close(objective(OUTPUT, nothing).content, torch.stack(squares).mean())


def test_halves_of_a_batch_average_to_the_whole(objective: PerceptualObjective) -> None:
    content, output = torch.cat([CONTENT, CONTENT[:1] * 0.1]), torch.cat([OUTPUT, OUTPUT[:1]])
    whole = objective(output, objective.targets(content))
    halves = [objective(output[half], objective.targets(content[half])) for half in (slice(0, 2), slice(2, 4))]
    for term in TERMS:
        mean = (getattr(halves[0], term) + getattr(halves[1], term)) / 2
        torch.testing.assert_close(mean, getattr(whole, term), rtol=1e-5, atol=0)


def test_bf16_autocast_and_channels_last(objective: PerceptualObjective) -> None:
    wanted = objective(OUTPUT, objective.targets(CONTENT))
    objective.to(memory_format=torch.channels_last)
    output = OUTPUT.contiguous(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        targets = objective.targets(CONTENT.contiguous(memory_format=torch.channels_last))
        value = objective(output, targets)
    assert all(target.dtype == torch.bfloat16 for target in targets.values())
    assert all(term.dtype == torch.float32 for term in value)
    for term in TERMS:
        torch.testing.assert_close(getattr(value, term), getattr(wanted, term), rtol=2e-2, atol=0)
    value.total.backward()
    assert output.grad is not None
    assert torch.isfinite(output.grad).all()


def test_gradient_reaches_the_output_alone(objective: PerceptualObjective) -> None:
    output = OUTPUT.clone().requires_grad_()
    content = CONTENT.clone().requires_grad_()
    targets = objective.targets(content)
    assert not any(target.requires_grad for target in targets.values())
    objective(output, targets).total.backward()
    assert output.grad is not None
    assert content.grad is None
    assert not [parameter for parameter in objective.parameters() if parameter.requires_grad]
    # By a central difference along the gradient, in float64.
    objective.double()
    direction = output.grad.double() / output.grad.double().norm()
    values = [
        float(objective(OUTPUT.double() + step * direction, objective.targets(CONTENT.double())).total)
        for step in (-1e-2, 1e-2)
    ]
    assert (values[1] - values[0]) / 2e-2 == pytest.approx(float(output.grad.double().norm()), rel=1e-3)


def test_vgg_runs_once_each_and_no_deeper_than_needed(small_vgg: Path) -> None:
    config = ObjectiveConfig(content_layers=("relu1_1",), style_layers=("relu2_1",))
    objective = PerceptualObjective(config, STYLES[:1], vgg_weights=small_vgg)
    calls: list[int] = []
    for conv in objective.loss_network.convs:
        conv.register_forward_hook(lambda module, *_: calls.append(module.out_channels))
    targets = objective.targets(CONTENT)
    assert calls == [64]
    objective(OUTPUT, targets)
    assert calls == [64, 64, 64, 128]


def test_terms_without_layers_are_zero(small_vgg: Path) -> None:
    content_only = PerceptualObjective(
        ObjectiveConfig(content_layers=("relu2_1",), style_layers=()), [], vgg_weights=small_vgg
    )
    value = content_only(OUTPUT, content_only.targets(CONTENT))
    assert value.style == 0
    assert value.content > 0
    style_only = PerceptualObjective(
        ObjectiveConfig(content_layers=(), style_layers=("relu2_1",)), STYLES, vgg_weights=small_vgg
    )
    assert style_only.targets(CONTENT) == {}
    value = style_only(OUTPUT, {})
    assert value.content == 0
    assert value.style > 0


def test_weights_mean_the_same_with_activations_of_any_size(small_vgg: Path, tmp_path: Path) -> None:
    tensors = torch.load(small_vgg, weights_only=True)
    tensors["features.0.weight"] *= 50
    tensors = {name: value * 50 if name.endswith("bias") else value for name, value in tensors.items()}
    torch.save(tensors, tmp_path / "large.pth")
    values = []
    for weights in (small_vgg, tmp_path / "large.pth"):
        objective = PerceptualObjective(CONFIG, STYLES, vgg_weights=weights)
        values.append(objective(OUTPUT, objective.targets(CONTENT)))
    torch.testing.assert_close(values[0].total, values[1].total, rtol=1e-4, atol=0)


def test_style_that_is_too_small(small_vgg: Path) -> None:
    octaves = dataclasses.replace(CONFIG, style_octaves=4)
    with pytest.raises(StyleTooSmallError, match=r"12x40 px .*relu2_2 needs at least 16x16.*fewer octaves"):
        PerceptualObjective(octaves, STYLES, vgg_weights=small_vgg)
    with pytest.raises(StyleTooSmallError, match=r"1x30 px .*relu2_2 needs at least 2x2.*--style-size"):
        PerceptualObjective(CONFIG, [picture(1, 1, 30, 0)], vgg_weights=small_vgg)


def test_wrong_use(small_vgg: Path, objective: PerceptualObjective) -> None:
    with pytest.raises(ValueError, match="at least one style"):
        PerceptualObjective(CONFIG, [], vgg_weights=small_vgg)
    with pytest.raises(UnknownLayerError):
        PerceptualObjective(ObjectiveConfig(content_layers=("conv3_3",)), STYLES, vgg_weights=small_vgg)
    with pytest.raises(ConfigError, match="--style-weight: -1 given"):
        ObjectiveConfig(style_weight=-1.0)
    with pytest.raises(PictureTooSmallError):
        objective.targets(picture(1, 1, 1, 0))
    octaves = PerceptualObjective(dataclasses.replace(CONFIG, style_octaves=3), STYLES, vgg_weights=small_vgg)
    with pytest.raises(PictureTooSmallError, match=r"7x8 px .*at least 8x8"):
        octaves(picture(1, 7, 8, 0), octaves.targets(picture(1, 7, 8, 0)))


def test_real_weights_prefer_the_style_itself(real_vgg: Path) -> None:
    """The defaults on the published network: a picture of the style is nearer to it than noise is."""
    ramp = torch.linspace(0, 255, 64).expand(1, 3, 64, 64).clone()
    objective = PerceptualObjective(ObjectiveConfig(), [ramp], vgg_weights=real_vgg)
    noise = picture(1, 64, 64, 5)
    targets = objective.targets(noise)
    assert objective(ramp.flip(-1), targets).style < 0.5 * objective(noise, targets).style
    assert objective(noise, targets).content == 0
