"""Throughput and memory of training, beside the widely used training script of pytorch/examples.

    python benchmarks/training.py [--rounds 9] [--content DIR] [--style FILE]

Lanes, each in a process of its own (the allocator's settings are per process), one step at a time in turn:

- ``examples``: the step of pytorch/examples' fast_neural_style as we read it, written anew below: fp32, its net, Adam
  with a rate of 1e-3, VGG-16 to relu4_3 for the photograph and for the output.
- ``nst``: ``Trainer.steps()`` with the same VGG, layers, batch and crop, loading included, precision auto.
- ``nst_fp32``: the same in fp32, to tell what comes from bf16.
- ``nst_default``: the shipped objective (VGG-19 to relu3_4).

Weights of the VGG are random: they change no time. Writes benchmarks/results/training.json.
"""

import argparse
import dataclasses
import json
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import machine
from steps import DATA, ROOT

RESULT = ROOT / "benchmarks" / "results" / "training.json"
WARM_UP = 2  # steps of each lane before the clock


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all lanes share."""

    content: Path
    style: Path
    scratch: Path
    batch: int
    crop: int


# --- pytorch/examples, written anew ----------------------------------------------------------------------------------


def examples_step(setting: Setting) -> Iterator[float]:
    """Endless steps of the reference; yields the loss after each."""
    import torch
    import torch.nn.functional as F
    import torchvision
    from torch import Tensor, nn

    def conv(c_in: int, c_out: int, kernel: int, stride: int = 1, upsample: int = 1) -> nn.Sequential:
        layers: list[nn.Module] = [nn.Upsample(scale_factor=upsample, mode="nearest")] if upsample > 1 else []
        return nn.Sequential(*layers, nn.ReflectionPad2d(kernel // 2), nn.Conv2d(c_in, c_out, kernel, stride))

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.in1 = conv(128, 128, 3), nn.InstanceNorm2d(128, affine=True)
            self.conv2, self.in2 = conv(128, 128, 3), nn.InstanceNorm2d(128, affine=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.in2(self.conv2(F.relu(self.in1(self.conv1(x))))) + x

    def with_norm(layer: nn.Module, channels: int) -> list[nn.Module]:
        return [layer, nn.InstanceNorm2d(channels, affine=True), nn.ReLU()]

    net = nn.Sequential(
        *with_norm(conv(3, 32, 9), 32),
        *with_norm(conv(32, 64, 3, stride=2), 64),
        *with_norm(conv(64, 128, 3, stride=2), 128),
        *(Residual() for _ in range(5)),
        *with_norm(conv(128, 64, 3, upsample=2), 64),
        *with_norm(conv(64, 32, 3, upsample=2), 32),
        conv(32, 3, 9),
    )
    vgg = torchvision.models.vgg16(weights=None).features[:23].requires_grad_(False)
    taps = {3: "relu1_2", 8: "relu2_2", 15: "relu3_3", 22: "relu4_3"}

    def features(x: Tensor) -> dict[str, Tensor]:
        found = {}
        for number, layer in enumerate(vgg):
            x = layer(x)
            if number in taps:
                found[taps[number]] = x
        return found

    mean = torch.tensor([0.485, 0.456, 0.406]).view(-1, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(-1, 1, 1)

    def normalize(x: Tensor) -> Tensor:
        return (x / 255.0 - mean) / std

    def gram(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        flat = x.view(n, c, h * w)
        return flat.bmm(flat.transpose(1, 2)) / (c * h * w)

    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    style = torch.rand(setting.batch, 3, setting.crop, setting.crop) * 255
    style_grams = {name: gram(activation) for name, activation in features(normalize(style)).items()}
    photographs = torch.rand(setting.batch, 3, setting.crop, setting.crop) * 255
    while True:
        optimizer.zero_grad()
        styled = normalize(net(photographs))
        original = normalize(photographs)
        of_styled, of_original = features(styled), features(original)
        content_loss = 1e5 * F.mse_loss(of_styled["relu2_2"], of_original["relu2_2"])
        style_loss = torch.zeros(())
        for name, activation in of_styled.items():
            style_loss = style_loss + F.mse_loss(gram(activation), style_grams[name])
        total = content_loss + 1e10 * style_loss
        total.backward()
        optimizer.step()
        yield total.item()


# --- ours ------------------------------------------------------------------------------------------------------------


def nst_step(setting: Setting, *, like_examples: bool, precision: str) -> Iterator[Any]:
    """Endless steps of a training as ``nst-train fit`` makes them."""
    from nst_train.allocator import keep_freed_memory
    from nst_train.config import TrainConfig
    from nst_train.distributed import join_processes
    from nst_train.objective import ObjectiveConfig
    from nst_train.trainer import Trainer

    keep_freed_memory()
    if like_examples:
        layers = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")
        objective = ObjectiveConfig(architecture="vgg16", content_layers=("relu2_2",), style_layers=layers)
    else:
        objective = ObjectiveConfig()
    with tempfile.TemporaryDirectory(dir=setting.scratch) as folder, join_processes("cpu") as process:
        config = TrainConfig(
            style=setting.style,
            content=(setting.content,),
            out=Path(folder) / "out.pth",
            vgg_weights=random_vgg(setting.scratch, objective.architecture),
            batch=setting.batch,
            crop=setting.crop,
            precision=precision,
            objective=objective,
            checkpoint_every=1_000_000,
        )
        yield from Trainer(config, process).steps()


def random_vgg(folder: Path, architecture: str) -> Path:
    """A state dict with torchvision's names and random values."""
    import torch
    import torchvision

    path = folder / f"{architecture}.pth"
    if not path.exists():
        model = torchvision.models.get_model(architecture, weights=None)
        torch.save({f"features.{name}": value for name, value in model.features.state_dict().items()}, path)
    return path


def loader_images_per_second(setting: Setting, seconds: float = 5.0) -> float:
    """Crops per second of the loader alone, photographs decoded once before, one batch after another."""
    from nst_train.data import CropLoader, CropPlan, PictureStore, find_pictures

    paths = find_pictures([setting.content])
    store = PictureStore(paths, short_side=2 * setting.crop, budget=4 << 30)
    loader = CropLoader(store, CropPlan(0, setting.batch, setting.crop, max_scale=1.5, flip=True), workers=2)
    for number in range(len(store)):
        store[number]
    started, batches = time.perf_counter(), 0
    for _crops in loader.batches(0, 1_000_000):
        batches += 1
        if time.perf_counter() - started >= seconds:
            break
    return batches * setting.batch / (time.perf_counter() - started)


LANES: dict[str, Callable[[Setting], Iterator[Any]]] = {
    "examples": examples_step,
    "nst": lambda setting: nst_step(setting, like_examples=True, precision="auto"),
    "nst_fp32": lambda setting: nst_step(setting, like_examples=True, precision="fp32"),
    "nst_default": lambda setting: nst_step(setting, like_examples=False, precision="auto"),
}


# --- taking turns ----------------------------------------------------------------------------------------------------


def serve(lane: str, setting: Setting, parent: Connection) -> None:
    """In its own process: a step for every message, answered with its seconds; None ends it, with the peak memory."""
    steps = LANES[lane](setting)
    for _ in range(WARM_UP):
        next(steps)
    parent.send("ready")
    while parent.recv() is not None:
        started = time.perf_counter()
        next(steps)
        parent.send(time.perf_counter() - started)
    parent.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def measure(setting: Setting, lanes: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Median images per second, and peak MiB, of every lane; the lanes take turns, step by step."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for lane in lanes:
        pipes[lane], child = context.Pipe()
        context.Process(target=serve, args=(lane, setting, child), daemon=True).start()
        pipes[lane].recv()
    seconds: dict[str, list[float]] = {lane: [] for lane in lanes}
    for number in range(rounds):
        for lane in lanes:
            pipes[lane].send(number)
            seconds[lane].append(pipes[lane].recv())
    results = {}
    for lane in lanes:
        pipes[lane].send(None)
        median = statistics.median(seconds[lane])
        results[lane] = {
            "seconds_per_step": round(median, 4),
            "images_per_second": round(setting.batch / median, 3),
            "peak_mib": round(pipes[lane].recv()),
        }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="measured steps per lane (default: 9)")
    parser.add_argument("--lanes", nargs="+", choices=tuple(LANES), default=list(LANES))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--crop", type=int, default=256, help="px")
    parser.add_argument("--content", type=Path, default=DATA / "content", help="folder of photographs")
    parser.add_argument("--style", type=Path, default=DATA / "styles" / "la_muse.jpg", help="a painting")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        setting = Setting(arguments.content, arguments.style, Path(scratch), arguments.batch, arguments.crop)
        lanes = measure(setting, arguments.lanes, arguments.rounds)
        loader = loader_images_per_second(setting)
    about = {"command": " ".join(["python", *sys.argv]), "machine": machine.describe()}
    report: dict[str, Any] = {
        **about,
        "rounds": arguments.rounds,
        "batch": setting.batch,
        "crop": setting.crop,
        "lanes": lanes,
    }
    report["loader_images_per_second"] = round(loader, 1)
    if {"examples", "nst"} <= lanes.keys():
        ours, theirs = lanes["nst"]["images_per_second"], lanes["examples"]["images_per_second"]
        report["speedup_over_examples"] = round(ours / theirs, 2)
        report["loader_over_step"] = round(loader / ours, 1)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
