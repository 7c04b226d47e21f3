"""The core of the headers: the contract and its errors are Python's."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from nst_common.errors import UserError
from nst_deploy import contract as python
from nst_deploy import errors
from nst_deploy.contract import ModelContract, Parity
from nst_deploy.runtime.onnx_metadata import read_engine
from tests.cpp import build
from tests.cpp.conftest import Built
from tests.engines import CONTRACT, write_engine

HEADERS = build.SOURCE / "include" / "nst"
VENDORS = {"openvino", "ort", "ort_api", "tensorrt", "cuda_memory"}  # need an SDK; the others make the core
CORE = sorted(path.name for path in HEADERS.glob("*.hpp") if path.stem not in VENDORS)


def test_the_constants_are_pythons() -> None:
    text = (HEADERS / "contract.hpp").read_text()

    def value(name: str) -> str:
        found = re.search(rf"\b{name}(?:\[\])? = \"?([^\";]+)\"?;", text)
        assert found, name
        return found.group(1)

    assert int(value("format_version")) == python.FORMAT_VERSION
    assert value("input_name") == python.INPUT_NAME
    assert value("output_name") == python.OUTPUT_NAME
    assert int(value("min_size")) == python.MIN_SIZE
    assert value("metadata_prefix") == python.METADATA_PREFIX
    precisions = re.findall(r'"(\w+)"', re.search(r"precisions = \{(.*?)\}", text).group(1))
    assert precisions[: len(python.PRECISIONS)] == list(python.PRECISIONS)  # later ones may be known already


def test_the_words_are_pythons(built: Built) -> None:
    engine, plan, beside = Path("some where/a.onnx"), Path("b.plan"), Path("b.plan.json")
    made: list[tuple[str, tuple[object, ...]]] = [
        ("EngineNotFoundError", (engine,)),
        ("EngineUnreadableError", (engine, "the\n reason")),
        ("NotAnEngineError", (engine, "reason")),
        ("PrecisionUnavailableError", ("bf16",)),
        ("BackendFailedError", ("openvino-cpu", "reason")),
        ("PictureSizeError", (7, 9, "something", "Do this")),
        ("SidecarMissingError", (plan, beside)),
        ("SidecarMalformedError", (beside, "reason")),
        ("PlanMismatchError", (plan, beside)),
        ("PlanElsewhereError", (plan, "this", "that", "rtx")),
        ("PlanWeightsMissingError", (plan, "this", "reason")),
        ("WrongKindOfEngineError", (engine, "this", "Do that")),
        ("GpuUnavailableError", ("reason",)),
        ("OutOfDeviceMemoryError", (3 << 29, 1 << 29, 24 << 30)),
        ("ProviderUnavailableError", ("provider", "reason", "Do this")),
        ("ProviderPrecisionError", ("SWITCH",)),
    ]
    lines = built.drive("messages").splitlines()
    known = [(name, values) for name, values in made if hasattr(errors, name)]
    assert len(known) >= 6
    assert len(lines) == len(made)
    for (name, values), line in zip(made, lines, strict=True):
        if (name, values) in known:
            assert line == str(getattr(errors, name)(*values))


def shown(contract: ModelContract) -> str:
    """As the driver prints a contract, all on one line."""
    line = f"style '{contract.style}' precision {contract.precision} sha {contract.checkpoint_sha256} "
    line += f"version {contract.package_version} working {contract.working_bytes_per_pixel}"
    if contract.static_size:
        line += f" size {contract.static_size[0]}x{contract.static_size[1]}"
    if contract.parity:
        parity = contract.parity
        psnr = "none" if parity.psnr_db is None else f"{parity.psnr_db:f}"
        line += f" parity {parity.max_levels} {parity.identical:.17g} {psnr} '{parity.backend}'"
    line += "".join(f" {scale:.17g}" for scale in contract.norm_scales)
    return line.replace("\n", " ")


def said_by_python(path: Path) -> str:
    try:
        return shown(read_engine(path)[1])
    except UserError as error:
        return str(error)


def assert_read_alike(built: Built, paths: list[Path]) -> None:
    lines = built.drive("read", stdin="".join(f"{path}\n" for path in paths)).split("\n")
    for path, line in zip(paths, lines[:-1], strict=True):
        expected = said_by_python(path)
        if "its metadata is malformed: " in expected:  # what Python's parsers find wrong they say in their own words
            assert line.split("malformed: ")[0] == expected.split("malformed: ")[0]
        else:
            assert line == expected


def test_contracts_are_read_as_python_reads_them(built: Built, tmp_path: Path) -> None:
    metadata = CONTRACT.to_metadata()
    parity = Parity(max_levels=1, identical=0.99875, psnr_db=74.5, backend="ONNX Runtime\n1.32")
    equal = Parity(max_levels=0, identical=1.0, psnr_db=None, backend="é")
    contracts: list[dict[str, object]] = [
        {},
        {"style": 'Stérnen nacht "quoted" \\ 夜', "static_size": (720, 1280)},
        {"parity": parity, "norm_scales": (0.25, 1e-5, 3.0), "precision": "fp16"},
        {"parity": equal},
    ]
    broken: list[dict[str, str]] = [{}, {"other": "x"}, {"nst": "x"}]
    broken += [{k: v for k, v in metadata.items() if k != key} for key in metadata]
    changes = {
        "format_version": ["2", "", "one"],
        "precision": ["fp99", ""],
        "working_bytes_per_pixel": ["", "ten", "1.5"],
        "static_size": ["720", "720x", "axb", "1x2x3"],
        "parity": ["{", "[]", "{}", '{"max_levels": 1}', "nul", '"text"'],
        "norm_scales": ["[1, ", '["a"]', "[1, null]"],
    }
    broken += [{**metadata, f"nst.{key}": value} for key, values in changes.items() for value in values]
    paths = [write_engine(tmp_path / f"good{i}.onnx", **contract) for i, contract in enumerate(contracts)]
    paths += [write_engine(tmp_path / f"bad{i}.onnx", metadata=entries) for i, entries in enumerate(broken)]
    paths += [build.STYLES / "la_muse.onnx", tmp_path / "none.onnx", tmp_path]
    assert_read_alike(built, paths)


def test_a_precision_of_another_version_is_named_as_python_names_it(built: Built, tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "a.onnx", metadata={**CONTRACT.to_metadata(), "nst.precision": "fp99"})
    said = built.drive("read", stdin=f"{engine}\n")
    assert said.split("one of ")[0] == said_by_python(engine).split("one of ")[0]


def test_damaged_files_are_refused_as_python_refuses_them(built: Built, tmp_path: Path) -> None:
    whole = write_engine(tmp_path / "whole.onnx").read_bytes()
    rng = np.random.default_rng(0)
    paths = []
    for length in range(len(whole)):
        paths.append(tmp_path / f"cut{length}.onnx")
        paths[-1].write_bytes(whole[:length])
    for i in range(400):
        changed = np.frombuffer(whole, np.uint8).copy()
        at = rng.integers(0, len(whole), 1 + i % 3)
        changed[at] = rng.integers(0, 256, len(at))
        paths.append(tmp_path / f"flip{i}.onnx")
        paths[-1].write_bytes(changed.tobytes())
    assert_read_alike(built, paths)


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_every_header_of_the_core_stands_alone_without_a_warning(compiler: str, tmp_path: Path) -> None:
    if build.tool(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    flags = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror", "-fsyntax-only"]

    def compile_alone(name: str, standard: str) -> None:
        source = tmp_path / f"{Path(name).stem}.{standard}.cpp"
        source.write_text(f'#include "nst/{name}"\n' * 2)
        build.run([compiler, f"-std={standard}", *flags, f"-I{build.SOURCE / 'include'}", str(source)])

    with ThreadPoolExecutor() as pool:
        jobs = [pool.submit(compile_alone, name, "c++17") for name in CORE]
        for job in [*jobs, pool.submit(compile_alone, "plan_file.hpp", "c++20")]:
            job.result()
