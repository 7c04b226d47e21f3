"""Other projects' networks against their published architecture and pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from nst_train.checkpoints import load_checkpoint
from nst_train.errors import CheckpointMismatchError


def fast_neural_style_weights(seed: int = 0) -> dict[str, Tensor]:
    """A state dict with the names and shapes that pytorch/examples' fast_neural_style saves, random values."""
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}

    def conv(name: str, c_in: int, c_out: int, kernel: int) -> None:
        weights[f"{name}.conv2d.weight"] = torch.randn(c_out, c_in, kernel, kernel, generator=generator) * 0.05
        weights[f"{name}.conv2d.bias"] = torch.randn(c_out, generator=generator)

    def norm(name: str, channels: int) -> None:
        weights[f"{name}.weight"] = torch.rand(channels, generator=generator) + 0.5
        weights[f"{name}.bias"] = torch.randn(channels, generator=generator) * 0.1

    for i, (c_in, c_out, kernel) in enumerate([(3, 32, 9), (32, 64, 3), (64, 128, 3)], start=1):
        conv(f"conv{i}", c_in, c_out, kernel)
        norm(f"in{i}", c_out)
    for i in range(1, 6):
        for j in (1, 2):
            conv(f"res{i}.conv{j}", 128, 128, 3)
            norm(f"res{i}.in{j}", 128)
    for i, (c_in, c_out) in enumerate([(128, 64), (64, 32)], start=1):
        conv(f"deconv{i}", c_in, c_out, 3)
        norm(f"in{i + 3}", c_out)
    conv("deconv3", 32, 3, 9)
    weights["deconv3.conv2d.weight"] *= 40  # so that the picture reaches both ends of 0..255
    weights["deconv3.conv2d.bias"] += 128
    return weights


def run_fast_neural_style(weights: dict[str, Tensor], image: Tensor) -> Tensor:
    """The published architecture, written out as one function; float [N, 3, H, W], 0..255 -> before clamping."""

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        kernel, bias = weights[f"{name}.conv2d.weight"], weights[f"{name}.conv2d.bias"]
        reach = kernel.shape[-1] // 2
        return F.conv2d(F.pad(x, [reach] * 4, mode="reflect"), kernel, bias, stride=stride)

    def norm(x: Tensor, name: str) -> Tensor:
        return F.instance_norm(x, weight=weights[f"{name}.weight"], bias=weights[f"{name}.bias"], eps=1e-5)

    x = F.relu(norm(conv(image, "conv1"), "in1"))
    x = F.relu(norm(conv(x, "conv2", 2), "in2"))
    x = F.relu(norm(conv(x, "conv3", 2), "in3"))
    for i in range(1, 6):
        y = F.relu(norm(conv(x, f"res{i}.conv1"), f"res{i}.in1"))
        x = norm(conv(y, f"res{i}.conv2"), f"res{i}.in2") + x
    for i in (1, 2):
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        x = F.relu(norm(conv(x, f"deconv{i}"), f"in{i + 3}"))
    return conv(x, "deconv3")


@pytest.mark.parametrize("variant", ["plain", "old", "data parallel", "wrapped"])
def test_pytorch_examples_net_equals_the_published_architecture(tmp_path: Path, variant: str) -> None:
    weights = fast_neural_style_weights()
    saved: dict[str, object] = dict(weights)
    if variant == "old":  # PyTorch before 0.4 saved statistics that the net never used
        for name in [key.removesuffix(".weight") for key in weights if ".conv2d." not in key and "weight" in key]:
            saved[f"{name}.running_mean"] = torch.full_like(weights[f"{name}.weight"], 9.0)
            saved[f"{name}.running_var"] = torch.full_like(weights[f"{name}.weight"], 9.0)
    if variant == "data parallel":
        saved = {f"module.{key}": value for key, value in saved.items()}
    if variant == "wrapped":
        saved = {"state_dict": saved, "epoch": 2}
    torch.save(saved, tmp_path / "candy.model")

    checkpoint = load_checkpoint(tmp_path / "candy.model")
    assert (checkpoint.origin, checkpoint.style) == ("pytorch/examples", "candy")
    image = torch.rand(2, 3, 36, 48, generator=torch.Generator().manual_seed(1)) * 255
    expected = run_fast_neural_style(weights, image).clamp(0, 255)
    assert expected.std() > 20  # a picture, not a constant
    torch.testing.assert_close(checkpoint.build()(image), expected, atol=2e-2, rtol=0)


@pytest.mark.parametrize(
    ("break_it", "named"),
    [
        (lambda w: w.pop("res3.in2.bias"), "res3.in2.bias"),
        (
            lambda w: w.update({"deconv1.conv2d.weight": torch.zeros(64, 128, 5, 5)}),
            "'deconv1.conv2d.weight' has shape",
        ),
        (lambda w: w.update({"conv1.conv2d.weight": torch.tensor(1.0)}), "conv1.conv2d.weight"),
        (lambda w: w.update({"conv9.conv2d.weight": torch.zeros(1)}), "conv9.conv2d.weight"),
    ],
)
def test_a_broken_pytorch_examples_file_names_the_tensor(tmp_path: Path, break_it: object, named: str) -> None:
    weights = fast_neural_style_weights()
    break_it(weights)
    torch.save(weights, tmp_path / "candy.pth")
    with pytest.raises(CheckpointMismatchError, match=named.replace(".", r"\.")):
        load_checkpoint(tmp_path / "candy.pth")


def lengstrom_variables() -> dict[str, np.ndarray]:
    """48 variables with TensorFlow's names and the shapes of fast-style-transfer's net, random values."""
    rng = np.random.default_rng(0)
    kernels = [(9, 9, 3, 32), (3, 3, 32, 64), (3, 3, 64, 128), *[(3, 3, 128, 128)] * 10]
    kernels += [(3, 3, 64, 128), (3, 3, 32, 64), (9, 9, 32, 3)]
    channels = [32, 64, 128, *[128] * 10, 64, 32, 3]
    shapes = [s for kernel, c in zip(kernels, channels, strict=True) for s in (kernel, (c,), (c,))]
    names = ["Variable", *(f"Variable_{i}" for i in range(1, len(shapes)))]
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in zip(names, shapes, strict=True)}


def test_lengstrom_layout(tmp_path: Path) -> None:
    variables = lengstrom_variables()
    np.savez(tmp_path / "wave.npz", **variables)
    checkpoint = load_checkpoint(tmp_path / "wave.npz")
    state = checkpoint.state
    for ours, theirs in (("encoder.1", 1), ("decoder.0", 13), ("head", 15)):
        kernel = variables[f"Variable_{3 * theirs}"]
        # O first for a convolution, I first for a transposed one: in both the last axis of theirs
        np.testing.assert_array_equal(state[f"{ours}.conv.weight"][1, 0].numpy(), kernel[:, :, 0, 1])
        np.testing.assert_array_equal(state[f"{ours}.norm.bias"].numpy(), variables[f"Variable_{3 * theirs + 1}"])
        np.testing.assert_array_equal(state[f"{ours}.norm.weight"].numpy(), variables[f"Variable_{3 * theirs + 2}"])


def test_what_else_a_tensorflow_checkpoint_holds_is_ignored(tmp_path: Path) -> None:
    variables = lengstrom_variables()
    np.savez(tmp_path / "plain.npz", **variables)
    slots = {f"{name}/Adam": value + 1 for name, value in variables.items()}
    slots |= {"beta1_power": np.float32(0.9), "global_step": np.int64(7)}
    np.savez(tmp_path / "full.npz", **variables, **slots)
    plain, full = (load_checkpoint(tmp_path / name).state for name in ("plain.npz", "full.npz"))
    assert plain.keys() == full.keys()
    assert all(torch.equal(plain[key], full[key]) for key in plain)


@pytest.mark.parametrize(
    ("break_it", "named"),
    [
        (lambda v: v.pop("Variable_47"), "'Variable_47' is missing"),
        (
            lambda v: v.update(Variable_39=np.zeros((3, 3, 128, 64), np.float32)),
            r"'Variable_39' is float32 \[3, 3, 128",
        ),
        (lambda v: v.update(Variable_1=np.array(["a"] * 32)), "'Variable_1' is <U1"),
        (lambda v: v.update(Variable_1=np.zeros(32, np.complex64)), "'Variable_1' is complex64"),
    ],
)
def test_a_broken_lengstrom_file_names_the_variable(tmp_path: Path, break_it: object, named: str) -> None:
    variables = lengstrom_variables()
    break_it(variables)
    np.savez(tmp_path / "wave.npz", **variables)
    with pytest.raises(CheckpointMismatchError, match=named):
        load_checkpoint(tmp_path / "wave.npz")


def test_wave_reproduces_the_published_picture(shared_data: Path) -> None:
    net = load_checkpoint(shared_data / "lengstrom" / "wave.npz").build()
    photo = np.array(Image.open(shared_data / "photos" / "chicago.jpg").convert("RGB"))
    with torch.inference_mode():
        styled = net(torch.from_numpy(photo).float().permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    published = np.asarray(Image.open(shared_data / "lengstrom" / "chicago_wave_published.jpg").convert("RGB"))
    error = styled.astype(np.float64) - published
    assert 10 * np.log10(255**2 / np.square(error).mean()) >= 39.0  # over every pixel; JPEG noise is included
