"""The models that benchmarks/export.py runs, as files: PyTorch's weights, the naive ONNX export and nst's own."""

import dataclasses
from pathlib import Path

import onnx
import torch
from lanes import Lane
from torch import nn
from torch.export import Dim

from nst_deploy.contract import INPUT_NAME, MIN_SIZE, OUTPUT_NAME, ModelContract
from nst_deploy.export.deployable import DeployableNet
from nst_deploy.export.fold import REWRITES, fold
from nst_deploy.export.int8 import fold_to_int8
from nst_deploy.export.onnx_export import EXAMPLE_SIZE, OPSET, save_onnx, to_onnx
from nst_deploy.export.parity import bundled_photographs
from nst_deploy.export.quantize import quantize
from nst_train.checkpoints import Checkpoint, load_checkpoint
from nst_train.transform_net import TransformNet

LANES = (
    Lane("eager", "f32", "pytorch.pt"),
    Lane("compile", "f32", "pytorch.pt"),
    Lane("autocast", "bf16", "pytorch.pt"),
    Lane("onnxruntime", "f32", "naive.onnx"),
    Lane("openvino", "f32", "naive.onnx"),
    Lane("openvino", "bf16", "naive.onnx"),
    Lane("onnxruntime", "f32", "nst.onnx"),
    Lane("openvino", "f32", "nst.onnx"),
    Lane("openvino", "bf16", "nst.onnx"),
    Lane("openvino", "f32", "nst int8.onnx"),
    Lane("openvino", "bf16", "nst half.onnx"),
    Lane("openvino", "f32", "nst half int8.onnx"),
)


def save_models(ckpt: Path, half_ckpt: Path, folder: Path) -> tuple[tuple[Lane, ...], ...]:
    """Writes every model that LANES names, and PyTorch's nets; returns the one group of lanes that take turns."""
    for path, suffix in ((ckpt, ""), (half_ckpt, " half")):
        checkpoint = load_checkpoint(path)
        _save_pytorch(checkpoint, folder / f"pytorch{suffix}.pt")
        _save_ours(checkpoint.build(), folder / f"nst{suffix}.onnx")
        _save_int8(checkpoint.build(), folder / f"nst{suffix} int8.onnx")
    _save_plain(load_checkpoint(ckpt).build(), folder / "naive.onnx")
    return (LANES,)


def save_rewrites(ckpt: Path, folder: Path) -> tuple[tuple[Lane, ...], ...]:
    """Writes the net with each rewrite alone and with all but it; returns one group of lanes for each engine.

    PyTorch's net, which no lane times, is there to compare pixels with.
    """
    checkpoint = load_checkpoint(ckpt)
    _save_pytorch(checkpoint, folder / "pytorch.pt")
    _save_plain(checkpoint.build(), folder / "naive.onnx")
    graphs: dict[str, list[str]] = {"none": [], "all": list(REWRITES)}
    for rewrite in REWRITES:
        # The head in phases is a form of the last upsampling's sub-pixel form.
        graphs[f"only {rewrite}"] = [rewrite, "subpixel"] if rewrite == "phase_head" else [rewrite]
        graphs[f"all but {rewrite}"] = [other for other in REWRITES if other != rewrite]
    for name, rewrites in graphs.items():
        _save_plain(fold(checkpoint.build(), rewrites, rounded=True), folder / f"{name}.onnx")
    files = ["naive.onnx", *(f"{name}.onnx" for name in graphs)]
    return (
        tuple(Lane("onnxruntime", "f32", file) for file in files),
        tuple(Lane("openvino", "f32", file) for file in files),
        tuple(Lane("openvino", "bf16", file) for file in files),
    )


def plain_model(net: nn.Module, dtype: torch.dtype = torch.float32) -> onnx.ModelProto:
    """What torch.onnx.export gives for the uint8 graph round a net: same opset and dynamic sizes as nst-export."""
    image = torch.zeros(*EXAMPLE_SIZE, 3, dtype=torch.uint8)
    dims = {0: Dim("n", min=1), 1: Dim("h", min=MIN_SIZE), 2: Dim("w", min=MIN_SIZE)}
    program = torch.onnx.export(
        DeployableNet(net, dtype).eval(),
        (image,),
        dynamo=True,
        opset_version=OPSET,
        input_names=[INPUT_NAME],
        output_names=[OUTPUT_NAME],
        dynamic_shapes={"image": dims},
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def _save_pytorch(checkpoint: Checkpoint, path: Path) -> None:
    torch.save({"config": dataclasses.asdict(checkpoint.config), "state": dict(checkpoint.state)}, path)


def _save_plain(net: nn.Module, path: Path) -> None:
    save_onnx(plain_model(net), path)


def _save_ours(net: TransformNet, path: Path) -> None:
    contract = ModelContract("benchmark", "fp32", "", "0", 1)
    save_onnx(to_onnx(DeployableNet(fold(net, rounded=True)), contract), path)


def _save_int8(net: TransformNet, path: Path) -> None:
    folded, sites = fold_to_int8(net, bundled_photographs())
    model = to_onnx(DeployableNet(folded), ModelContract("benchmark", "int8", "", "0", 1))
    quantize(model, {f"net.{name}": site for name, site in sites.items()})
    save_onnx(model, path)
