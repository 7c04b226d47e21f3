"""The models that benchmarks/gpu.py runs, as files. What cannot be made leaves ``FILE.missing``, which says why."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from export_models import plain_model
from gpu_lanes import plan_name, reason, why_missing
from graph_cost import LayerCost, count

from nst_deploy.contract import ModelContract
from nst_deploy.export.build_options import CURRENT_GPU, BuildOptions
from nst_deploy.export.deployable import DeployableNet
from nst_deploy.export.engine import build_plan
from nst_deploy.export.engine_builder import EngineBuilder
from nst_deploy.export.fp16 import fold_to_half
from nst_deploy.export.onnx_export import save_onnx, set_contract, to_onnx
from nst_deploy.export.parity import bundled_photographs
from nst_deploy.plan_sidecar import FLAVORS, Flavor, write_plan
from nst_deploy.runtime.trt import load_library
from nst_train.checkpoints import load_checkpoint

Size = tuple[int, int]
COSTS = "costs.json"
CONTRACT = ModelContract("benchmark", "fp16", "", "0", 1)


def save_graphs(ckpt: Path, folder: Path, sizes: Sequence[Size]) -> dict[Size, list[LayerCost]]:
    """Writes the ONNX graphs; returns what ours costs at least, by size."""
    checkpoint = load_checkpoint(ckpt)
    naive = plain_model(checkpoint.build().half(), torch.float16)
    set_contract(naive, CONTRACT)
    save_onnx(naive, folder / "naive.fp16.onnx")
    half, _ = fold_to_half(checkpoint.build(), bundled_photographs())
    ours = DeployableNet(half, torch.float16)
    save_onnx(to_onnx(ours, CONTRACT), folder / "nst.fp16.onnx")
    costs = {}
    for size in sizes:
        static = to_onnx(ours, dataclasses.replace(CONTRACT, static_size=size))
        save_onnx(static, folder / f"nst.fp16.{size[0]}x{size[1]}.onnx")
        costs[size] = count(static)
    return costs


def save_weights(ckpt: Path, folder: Path) -> None:
    """Writes the net for PyTorch."""
    checkpoint = load_checkpoint(ckpt)
    config = dataclasses.asdict(checkpoint.config)
    torch.save({"config": config, "state": dict(checkpoint.state)}, folder / "pytorch.pt")


def write_costs(folder: Path, costs: dict[Size, list[LayerCost]]) -> None:
    content = {
        "{}x{}".format(*size): [dataclasses.astuple(layer) for layer in layers] for size, layers in costs.items()
    }
    (folder / COSTS).write_text(json.dumps(content))


def read_costs(folder: Path) -> dict[Size, list[LayerCost]]:
    """Inverse of ``write_costs``; empty where it was not called."""
    if not (folder / COSTS).exists():
        return {}
    content = json.loads((folder / COSTS).read_text())
    return {_size(size): [LayerCost(*layer) for layer in layers] for size, layers in content.items()}


def _size(text: str) -> Size:
    height, width = map(int, text.split("x"))
    return height, width


def save_plans(folder: Path, max_batch: int) -> dict[str, Any]:
    """Builds plans of both graphs with every library that is installed, for single pictures and for many at once; those
    that are there already stay."""
    for path, graph, flavor, batch in _plans(folder, max_batch):
        if not path.exists():
            model = folder / f"{graph}.fp16.onnx"
            _or_why_not(path, lambda path, m=model, f=flavor, b=batch: _save_plan(m, path, f, b))  # type: ignore[misc]
    return {}


def missing_plans(folder: Path, max_batch: int) -> list[Path]:
    """Those that are not there, and do not say why."""
    paths = [path for path, *_ in _plans(folder, max_batch)]
    return [path for path in paths if not path.exists() and why_missing(path) is None]


def _plans(folder: Path, max_batch: int) -> Iterator[tuple[Path, str, Flavor, int]]:
    for flavor in FLAVORS:
        for graph in ("naive", "nst"):
            for batch in dict.fromkeys((1, max_batch)):
                yield folder / plan_name(graph, flavor, batch), graph, flavor, batch


def _save_plan(model: Path, path: Path, flavor: Flavor, max_batch: int) -> None:
    builder = EngineBuilder(flavor, load_library(flavor))
    here = (CURRENT_GPU,) if flavor == "rtx" else ()
    options = BuildOptions(max_batch=max_batch, compute_capabilities=here)
    content = onnx.load_model(str(model)).SerializeToString()
    built = build_plan(content, CONTRACT, builder, options, path.parent)
    write_plan(path, built.content, built.sidecar)


def _or_why_not(path: Path, save: Callable[[Path], None]) -> None:
    path.with_name(path.name + ".missing").unlink(missing_ok=True)
    try:
        save(path)
    except Exception as error:  # noqa: BLE001  (whatever a library raises stops no other row)
        path.with_name(path.name + ".missing").write_text(reason(error))
