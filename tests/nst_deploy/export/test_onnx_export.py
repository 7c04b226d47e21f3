"""The exported file keeps the engines' contract, and computes what PyTorch computes."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from nst_deploy.contract import ModelContract
from nst_deploy.errors import ExportFailedError
from nst_deploy.export import export
from nst_deploy.export.deployable import DeployableNet
from nst_deploy.export.fold import fold
from nst_deploy.export.onnx_export import to_onnx
from nst_deploy.export.proof import reference_run
from nst_train.checkpoints import load_checkpoint


@pytest.fixture(scope="module")
def dynamic(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dynamic")
    return export(small_checkpoint, out, formats=("onnx",), verify=False).files[0].path


@pytest.fixture(scope="module")
def static(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("static")
    return export(small_checkpoint, out, formats=("onnx",), verify=False, static_size=(32, 48)).files[0].path


def shape_of(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def run(engine: Path, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(engine), providers=["CPUExecutionProvider"])
    return session.run(["styled"], {"image": image})[0]


def test_the_file_keeps_the_contract(dynamic: Path) -> None:
    model = onnx.load(dynamic)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert all(node.domain == "" for node in model.graph.node)
    (image,), (styled,) = model.graph.input, model.graph.output
    for value, name in ((image, "image"), (styled, "styled")):
        assert value.name == name
        assert value.type.tensor_type.elem_type == onnx.TensorProto.UINT8
        assert shape_of(value) == ["n", "h", "w", 3]
    readers = {node.op_type for node in model.graph.node if "image" in node.input}
    assert readers == {"Cast", "Shape"}  # Shape reads no pixels
    (writer,) = [node for node in model.graph.node if "styled" in node.output]
    assert writer.op_type == "Cast"
    assert "Resize" not in {node.op_type for node in model.graph.node}
    assert not any(t.data_location == onnx.TensorProto.EXTERNAL for t in model.graph.initializer)


def test_nothing_of_the_machine_that_exported_stays_in_the_file(dynamic: Path) -> None:
    content = dynamic.read_bytes()
    assert b"site-packages" not in content
    assert str(Path(__file__).parents[3]).encode() not in content


def test_metadata_says_where_it_came_from(dynamic: Path, small_checkpoint: Path) -> None:
    contract = ModelContract.from_metadata({p.key: p.value for p in onnx.load(dynamic).metadata_props})
    assert (contract.style, contract.precision, contract.static_size) == ("small", "fp32", None)
    assert contract.checkpoint_sha256 == load_checkpoint(small_checkpoint).sha256
    assert contract.parity is None  # it was not measured


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 9, 31), (1, 10, 17), (3, 64, 40), (1, 131, 77)])
def test_any_size_and_batch_equals_pytorch(dynamic: Path, small_checkpoint: Path, shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = reference_run(load_checkpoint(small_checkpoint).build())(image)
    styled = run(dynamic, image)
    assert expected.std() > 20
    assert np.abs(styled.astype(int) - expected).max() <= 1
    assert (styled == expected).mean() > 0.995


def test_a_static_engine_neither_asks_for_its_size_nor_pads_to_it(static: Path, small_checkpoint: Path) -> None:
    model = onnx.load(static)
    assert shape_of(model.graph.input[0]) == ["n", 32, 48, 3]
    assert not {"Shape", "Mod"} & {node.op_type for node in model.graph.node}
    image = np.random.default_rng(1).integers(0, 256, (2, 32, 48, 3), dtype=np.uint8)
    expected = reference_run(load_checkpoint(small_checkpoint).build())(image)
    assert np.abs(run(static, image).astype(int) - expected).max() <= 1


def test_a_static_engine_of_an_odd_size(small_checkpoint: Path, tmp_path: Path) -> None:
    engine = export(small_checkpoint, tmp_path, formats=("onnx",), verify=False, static_size=(30, 45)).files[0].path
    image = np.random.default_rng(1).integers(0, 256, (1, 30, 45, 3), dtype=np.uint8)
    expected = reference_run(load_checkpoint(small_checkpoint).build())(image)
    assert np.abs(run(engine, image).astype(int) - expected).max() <= 1


def test_an_unexpected_operator_is_refused(small_checkpoint: Path) -> None:
    net = fold(load_checkpoint(small_checkpoint).build())

    class Softened(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.erf(net(image))

    with pytest.raises(ExportFailedError, match="Erf"):
        to_onnx(DeployableNet(Softened()), ModelContract("s", "fp32", "", "0", 1))
