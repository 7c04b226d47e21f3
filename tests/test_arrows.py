"""Who may import whom."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("nst_common", "nst_deploy", "nst_train")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TRAINING = {"torch", "torchvision", "nst_train"}
# The one file that may name each.
VENDOR_OF = {
    "onnxruntime": "nst_deploy/runtime/ort.py",
    "openvino": "nst_deploy/runtime/ov.py",
    "tensorrt": "nst_deploy/runtime/trt.py",
    "tensorrt_rtx": "nst_deploy/runtime/trt.py",
    "cuda": "nst_deploy/runtime/cuda_bindings.py",
    "pycuda": "nst_deploy/runtime/cuda_pycuda.py",
    "tritonclient": "nst_deploy/runtime/triton.py",
}


def imported(path: Path) -> Iterator[str]:
    """Full names of all that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def forbidden_for(name: str) -> set[str]:
    """Top-level packages (or dotted modules) that the module at ``name`` must not import."""
    if name.startswith("nst_common/"):
        return TRAINING | {"nst_deploy", "numpy", "PIL", "onnx", *VENDOR_OF}
    if name.startswith("nst_train/"):
        return {"nst_deploy", "onnx", *VENDOR_OF}
    if name.startswith("nst_deploy/export/"):
        return set()
    vendors = {vendor for vendor, file in VENDOR_OF.items() if file != name}
    return TRAINING | vendors | {"onnx", "onnxscript", "nst_deploy.export"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_along_the_arrows(path: Path) -> None:
    forbidden = forbidden_for(path.relative_to(ROOT).as_posix())
    crossed = [name for name in imported(path) if any(name == f or name.startswith(f + ".") for f in forbidden)]
    assert not crossed


def test_the_check_sees_imports_inside_functions(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("import os\ndef f():\n    import torch.nn\n    from nst_train import foreign\n")
    assert set(imported(module)) == {"os", "torch.nn", "nst_train.foreign"}


def test_all_three_packages_were_looked_at() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == set(PACKAGES)
