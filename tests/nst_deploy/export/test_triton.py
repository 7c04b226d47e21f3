"""nst-export --format triton: what is in the repository, and what is left behind when it fails."""

import dataclasses
import hashlib
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nst_common.errors import UserError
from nst_deploy import Stylizer
from nst_deploy.contract import ModelContract, Precision
from nst_deploy.export import ExportedFile, ExportReport
from nst_deploy.export import triton as triton_export
from nst_deploy.export.cli import main
from nst_deploy.export.parity import PHOTOGRAPHS
from nst_deploy.export.triton import export_repository
from nst_deploy.plan_sidecar import PlanSidecar, Profile, read_plan, write_sidecar
from nst_deploy.runtime.onnx_metadata import read_engine
from nst_train.checkpoints import load_checkpoint
from tests.engines import CONTRACT

pytest.importorskip("tritonclient.grpc")
from tests.triton.repository import parse

KIND_GPU = 1
PLAN = b"plan"
FILES = ["small/1/model.onnx", "small/config.pbtxt", "small/warmup/rocket.480x320.rgb"]


def export(ckpt: Path, *arguments: str | Path) -> int:
    try:
        return main(["--ckpt", str(ckpt), "--format", "triton", *map(str, arguments)])
    except SystemExit as stop:  # argparse's own way out
        return int(stop.code or 0)


def files(folder: Path) -> list[str]:
    """Everything below it, hidden or not."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


@pytest.fixture(scope="module")
def exported(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository made with the defaults, the only thing in a new folder; not to be changed."""
    repository = tmp_path_factory.mktemp("exported") / "new" / "repository"
    report = export_repository(small_checkpoint, repository)
    assert [file.path for file in report.files] == [repository / FILES[0]]
    assert report.models == (repository / "small",)
    assert report.files[0].report is not None
    return repository


@pytest.fixture
def repository(exported: Path, tmp_path: Path) -> Path:
    """A copy of it, alone in its folder."""
    return Path(shutil.copytree(exported, tmp_path / "beside" / "repository"))


@pytest.fixture
def quickly(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports take the engine that was exported before: for tests of what is done with it."""

    def copy(_: Path, out: Path, *, precisions: Sequence[Precision], **__: object) -> ExportReport:
        out.mkdir()
        contract = read_engine(exported / FILES[0])[1]
        files = []
        for precision in precisions:
            path = Path(shutil.copy(exported / FILES[0], out / f"{precision}.onnx"))
            files.append(ExportedFile(path, dataclasses.replace(contract, precision=precision), None))
        return ExportReport(Path(), "", tuple(files))

    monkeypatch.setattr(triton_export, "export", copy)


@pytest.fixture
def plan(small_checkpoint: Path, tmp_path: Path) -> Path:
    """What says that it is a plan of the small checkpoint; nothing here could run it."""
    path = tmp_path / "small.plan"
    path.write_bytes(PLAN)
    sha256 = load_checkpoint(small_checkpoint).sha256
    sidecar = PlanSidecar(
        contract=dataclasses.replace(CONTRACT, style="small", precision="fp16", checkpoint_sha256=sha256),
        plan_sha256=hashlib.sha256(PLAN).hexdigest(),
        flavor="tensorrt",
        library_version="10.13.3.9",
        gpu_name="NVIDIA L4",
        compute_capabilities=("8.9",),
        profile=Profile((1, 8, 8), (2, 256, 384), (2, 1080, 1920)),
        portable=False,
        weights_stripped=False,
        build_seconds=2.5,
    )
    write_sidecar(path, sidecar)
    return path


def change(plan: Path, **entries: object) -> None:
    write_sidecar(plan, dataclasses.replace(read_plan(plan)[1], **entries))


def test_a_proven_engine_its_config_and_a_photograph(exported: Path) -> None:
    assert files(exported.parent) == [f"repository/{name}" for name in FILES]
    config = parse((exported / "small" / "config.pbtxt").read_text(encoding="utf-8"))
    with Stylizer(exported / FILES[0]) as stylize:
        assert stylize.contract.parity is not None
        metadata = {key: value.string_value for key, value in config.parameters.items()}
        assert ModelContract.from_metadata(metadata) == stylize.contract
    frame = config.model_warmup[0].inputs["image"]
    raw = (exported / "small" / "warmup" / frame.input_data_file).read_bytes()
    pixels = np.frombuffer(raw, np.uint8).reshape(frame.dims)
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(PHOTOGRAPHS / "rocket.jpg")))


def test_another_user_than_ours_can_read_it(exported: Path) -> None:
    """The server's container seldom runs as the user that exported."""
    for path in (exported, *exported.rglob("*")):
        assert path.stat().st_mode & stat.S_IROTH, path


@pytest.mark.usefixtures("quickly")
def test_options_reach_the_config(small_checkpoint: Path, tmp_path: Path) -> None:
    options = "--triton-kind cpu --triton-instances 2 --triton-threads 3 --triton-max-batch 8 --triton-queue-delay 50"
    size = "--triton-warmup-size 40x56 --no-verify --precision fp32,fp16"
    assert export(small_checkpoint, "--out", tmp_path, *options.split(), *size.split()) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small", "small_fp16"]
    for name, precision in (("small", "fp32"), ("small_fp16", "fp16")):
        config = parse((tmp_path / name / "config.pbtxt").read_text())
        assert config.name == name
        assert config.parameters["nst.precision"].string_value == precision
        assert config.parameters["intra_op_thread_count"].string_value == "3"
        assert (config.instance_group[0].kind, config.instance_group[0].count) == (2, 2)
        assert (config.max_batch_size, config.dynamic_batching.max_queue_delay_microseconds) == (8, 50)
        frame = config.model_warmup[0].inputs["image"]
        assert list(frame.dims) == [40, 56, 3]
        assert (tmp_path / name / "warmup" / frame.input_data_file).stat().st_size == 40 * 56 * 3


def test_a_static_engine_is_warmed_up_at_its_size(
    small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(small_checkpoint, "--out", tmp_path, "--static", "32x48", "--no-verify") == 0
    shown = capsys.readouterr().out
    assert f"{tmp_path / FILES[0]}: style small, fp32, 32x48 px (HxW) only" in shown
    assert f"{tmp_path / 'small'}: ready to be served" in shown
    config = parse((tmp_path / "small" / "config.pbtxt").read_text())
    assert list(config.input[0].dims) == list(config.model_warmup[0].inputs["image"].dims) == [32, 48, 3]


@pytest.mark.usefixtures("quickly")
def test_a_second_style_leaves_the_first_alone(small_checkpoint: Path, repository: Path, tmp_path: Path) -> None:
    before = {name: (repository / name).stat() for name in files(repository)}
    other = tmp_path / "other.pth"
    content = torch.load(small_checkpoint, weights_only=True)
    torch.save(content | {"style": "other"}, other)
    assert export(other, "--out", repository, "--no-verify") == 0
    assert files(repository) == [name.replace("small", "other") for name in FILES] + FILES
    assert {name: (repository / name).stat() for name in before} == before


@pytest.mark.usefixtures("quickly")
def test_replacing_needs_consent(small_checkpoint: Path, repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = repository / FILES[0]
    engine.write_bytes(b"older")
    (repository / "small" / "2").mkdir()
    assert export(small_checkpoint, "--out", repository, "--no-verify") == 2
    assert f"{repository / 'small'} exists already. Replace it with --overwrite" in capsys.readouterr().err
    assert engine.read_bytes() == b"older"
    assert export(small_checkpoint, "--out", repository, "--no-verify", "--overwrite") == 0
    assert files(repository.parent) == [f"repository/{name}" for name in FILES]
    assert engine.read_bytes() != b"older"
    assert not (repository / "small" / "2").exists()  # the whole model was replaced


@pytest.mark.usefixtures("quickly")
def test_a_folder_that_is_no_model_is_never_replaced(
    small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    diary = tmp_path / "small" / "diary.txt"
    diary.parent.mkdir()
    diary.write_text("dear diary")
    assert export(small_checkpoint, "--out", tmp_path, "--overwrite", "--no-verify") == 2
    assert "is no model of a Triton repository" in capsys.readouterr().err
    assert files(tmp_path) == ["small/diary.txt"]


@pytest.mark.usefixtures("quickly")
def test_what_fails_halfway_leaves_everything_as_it_was(
    small_checkpoint: Path, repository: Path, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: (repository / name).read_bytes() for name in files(repository)}
    rename, renamed = Path.rename, []

    def failing(source: Path, target: Path) -> Path:
        if target == repository / "small_trt":
            raise OSError(28, "No space left on device")
        renamed.append(target)
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", failing)
    arguments = ("--out", repository, "--triton-plan", plan, "--overwrite", "--no-verify", "--triton-max-batch", "2")
    assert export(small_checkpoint, *arguments) == 1
    assert repository / "small" in renamed  # it had been there, and was taken back
    assert {name: (repository / name).read_bytes() for name in files(repository)} == before
    assert [path.name for path in repository.parent.iterdir()] == ["repository"]


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, UserError("no", "no")])
def test_an_interrupted_export_leaves_nothing(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def stop(*_: object) -> None:
        raise error

    monkeypatch.setattr(triton_export, "onnx_config", stop)
    assert export(small_checkpoint, "--out", tmp_path / "repository", "--no-verify") in (1, 130)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("quickly")
def test_a_mount_of_its_own_is_written_from_within(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be renamed from beside it."""
    monkeypatch.setattr(triton_export.os, "access", lambda path, _: Path(path) != tmp_path)
    seen = []
    publish = triton_export._publish
    monkeypatch.setattr(triton_export, "_publish", lambda *a, **k: (seen.append(a[2]), publish(*a, **k)))
    assert export(small_checkpoint, "--out", tmp_path / "repository", "--no-verify") == 0
    assert seen[0].parent == tmp_path / "repository"
    assert files(tmp_path) == [f"repository/{name}" for name in FILES]


@pytest.mark.usefixtures("quickly")
def test_a_plan_is_served_beside_the_engine(small_checkpoint: Path, tmp_path: Path, plan: Path) -> None:
    report = export_repository(small_checkpoint, tmp_path / "repository", plan=plan, verify=False)
    assert [model.name for model in report.models] == ["small", "small_trt"]
    model = tmp_path / "repository" / "small_trt"
    assert read_plan(model / "1" / "model.plan") == read_plan(plan)  # its sidecar came along
    config = parse((model / "config.pbtxt").read_text())
    assert (config.platform, config.max_batch_size, config.instance_group[0].kind) == ("tensorrt_plan", 2, KIND_GPU)
    frame = config.model_warmup[-1]
    assert (list(frame.inputs["image"].dims), frame.batch_size) == ([256, 384, 3], 2)
    assert (model / "warmup" / frame.inputs["image"].input_data_file).stat().st_size == 256 * 384 * 3


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"flavor": "rtx"}, "was built by TensorRT-RTX"),
        ({"weights_stripped": True}, "holds no weights"),
        ({"profile": Profile((2, 8, 8), (2, 64, 64), (2, 64, 64))}, "no fewer than 2 pictures"),
        ({"contract": CONTRACT}, "was not made from"),
        ({"plan_sha256": "0" * 64}, "replaced or cut short"),
    ],
)
def test_a_plan_that_triton_cannot_load_is_refused(
    small_checkpoint: Path,
    tmp_path: Path,
    plan: Path,
    entries: dict[str, object],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(plan, **entries)
    assert export(small_checkpoint, "--out", tmp_path / "repository", "--triton-plan", plan, "--no-verify") == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("reading ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--out", "file"], 1, "Cannot write file: Not a directory"),
        (["--out", "file/below"], 1, "Cannot write file/below"),
        (["--triton-plan", "none.plan"], 1, "No engine at none.plan"),
        (["--triton-plan", "none.plan", "--triton-kind", "cpu"], 2, "plans run on GPUs alone"),
        (["--triton-kind", "both"], 2, "both"),
        (["--triton-max-batch", "0"], 2, "--triton-max-batch is 0, expected 1..256"),
        (["--triton-instances", "many"], 2, "many"),
        (["--triton-queue-delay", "-1"], 2, "--triton-queue-delay is -1"),
        (["--triton-warmup-size", "4x64"], 2, "--triton-warmup-size is 4, expected from 8 up"),
        (["--triton-warmup-size", "64x64", "--static", "32x32"], 2, "the engine takes 32x32 px alone"),
        (["--format", "plan,triton", "--trt-flavor", "rtx"], 2, "--trt-flavor is rtx"),
        (["--format", "plan,triton", "--strip-weights"], 2, "--strip-weights was given"),
        (["--format", "plan,triton", "--triton-plan", "x.plan"], 2, "Leave one of the two away"),
        (["--format", "triton", "--max-size", "64x64"], 2, "--max-size is for plans"),
        (["--format", "onnx", "--triton-kind", "cpu"], 2, "--triton-kind is for --format triton"),
        (["--format", "onnx", "--overwrite"], 2, "--overwrite is for --format triton"),
        (["--verify", "a.onnx"], 2, "--format says how to export"),
    ],
)
def test_bad_input_is_one_line(
    small_checkpoint: Path,
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    out = [] if {"--out", "--verify"} & set(arguments) else ["--out", "repository"]
    assert export(small_checkpoint, "--no-verify", *out, *arguments) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("reading ")]
    assert len(lines) == 1, lines
    assert message in lines[0]
    assert files(tmp_path) == ["file"]
    assert not (tmp_path / "repository").exists()
