import dataclasses
import hashlib
import json
from pathlib import Path

import pytest

from nst_common.errors import UserError
from nst_deploy.contract import Parity
from nst_deploy.errors import (
    EngineNotFoundError,
    EngineUnreadableError,
    PlanMismatchError,
    SidecarMalformedError,
    SidecarMissingError,
)
from nst_deploy.plan_sidecar import PlanSidecar, Profile, read_plan, read_sidecar, sidecar_path, write_sidecar
from tests.engines import CONTRACT

PLAN = b"not a plan, but bytes"
SIDECAR = PlanSidecar(
    contract=dataclasses.replace(CONTRACT, precision="fp16", parity=Parity(1, 0.98, 61.5, "tensorrt-10.13")),
    plan_sha256=hashlib.sha256(PLAN).hexdigest(),
    flavor="rtx",
    library_version="1.7.1.116",
    gpu_name=None,
    compute_capabilities=("8.0", "8.9"),
    profile=Profile((1, 8, 8), (1, 512, 512), (4, 2160, 3840)),
    portable=False,
    weights_stripped=True,
    build_seconds=2.5,
)


def write_plan(folder: Path) -> Path:
    plan = folder / "la_muse.rtx.plan"
    plan.write_bytes(PLAN)
    write_sidecar(plan, SIDECAR)
    return plan


def change(plan: Path, **entries: object) -> None:
    path = sidecar_path(plan)
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.parametrize(("plan", "sidecar"), [("a.plan", "a.plan.json"), ("a.rtx.plan", "a.rtx.plan.json")])
def test_lies_beside_the_plan_under_its_whole_name(plan: str, sidecar: str) -> None:
    assert sidecar_path(Path("out") / plan) == Path("out") / sidecar


def test_comes_back_as_it_was_written(tmp_path: Path) -> None:
    plan = write_plan(tmp_path)
    assert read_plan(plan) == (PLAN, SIDECAR)
    built_on_a_gpu = dataclasses.replace(SIDECAR, gpu_name="NVIDIA L4", compute_capabilities=(), flavor="tensorrt")
    write_sidecar(plan, built_on_a_gpu)
    assert read_sidecar(plan) == built_on_a_gpu
    assert sorted(path.name for path in tmp_path.iterdir()) == ["la_muse.rtx.plan", "la_muse.rtx.plan.json"]


def test_is_one_flat_object_with_the_metadata_of_an_onnx_engine(tmp_path: Path) -> None:
    entries = json.loads(sidecar_path(write_plan(tmp_path)).read_text())
    assert {k: v for k, v in entries.items() if k.startswith("nst.")} == SIDECAR.contract.to_metadata()
    assert entries["profile_max"] == [4, 2160, 3840]
    assert not any(isinstance(value, dict) for value in entries.values())


def test_a_profile_allows_what_lies_between_its_shapes() -> None:
    profile = SIDECAR.profile
    assert all(map(profile.allows, (profile.min, profile.opt, profile.max, (3, 9, 3000))))
    assert not any(map(profile.allows, ((5, 8, 8), (1, 7, 8), (1, 8, 3841), (0, 8, 8))))


def test_the_plan_itself_may_be_missing_or_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.plan", tmp_path):
        with pytest.raises(EngineNotFoundError):
            read_sidecar(path)


def test_a_plan_without_its_sidecar(tmp_path: Path) -> None:
    plan = write_plan(tmp_path)
    sidecar_path(plan).unlink()
    with pytest.raises(SidecarMissingError, match=r"la_muse\.rtx\.plan\.json beside it.*nst-export --format plan"):
        read_sidecar(plan)


@pytest.mark.parametrize("content", [PLAN[:-1], b"", PLAN + b"\0"], ids=["cut short", "empty", "longer"])
def test_a_plan_that_the_sidecar_does_not_describe(tmp_path: Path, content: bytes) -> None:
    plan = write_plan(tmp_path)
    plan.write_bytes(content)
    with pytest.raises(PlanMismatchError, match="replaced or cut short"):
        read_sidecar(plan)


@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        ({"flavor": "tensorflow"}, "flavor is 'tensorflow', expected one of tensorrt, rtx"),
        ({"flavor": ["rtx"]}, "flavor is"),
        ({"plan_sha256": None}, "plan_sha256 is None"),
        ({"portable": "yes"}, "portable is 'yes'"),
        ({"build_seconds": True}, "build_seconds is True"),
        ({"compute_capabilities": "8.9"}, "compute_capabilities is '8.9'"),
        ({"compute_capabilities": [8.9]}, "compute_capabilities is"),
        ({"profile_min": [8, 8]}, r"profile_min is \[8, 8\], expected \[N, H, W\]"),
        ({"profile_min": [1, 513, 8]}, "expected 1 <= min <= opt <= max"),
        ({"profile_max": [1, "2160", 3840]}, "profile_max is"),
        ({"nst.static_size": "64x64"}, "static_size is 64x64, its profile has other sizes"),
        ({"nst.format_version": "9"}, "format version is 9"),
        ({"nst.precision": 16}, r"lacks nst\.precision"),
    ],
)
def test_a_sidecar_with_an_entry_that_makes_no_sense(
    tmp_path: Path, entries: dict[str, object], complaint: str
) -> None:
    plan = write_plan(tmp_path)
    change(plan, **entries)
    with pytest.raises(SidecarMalformedError, match=complaint) as caught:
        read_sidecar(plan)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", [k for k in json.loads(SIDECAR.to_json()) if k != "nst.norm_scales"])
def test_a_sidecar_that_lacks_an_entry(tmp_path: Path, key: str) -> None:
    plan = write_plan(tmp_path)
    path = sidecar_path(plan)
    entries = json.loads(path.read_text())
    del entries[key]
    path.write_text(json.dumps(entries))
    with pytest.raises(
        SidecarMalformedError, match=r"format version is missing" if "format" in key else f"lacks {key}"
    ):
        read_sidecar(plan)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "{}", '{"nst.style": "a"', "\udcff"])
def test_a_file_that_is_no_sidecar(tmp_path: Path, text: str) -> None:
    plan = write_plan(tmp_path)
    sidecar_path(plan).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(SidecarMalformedError):
        read_sidecar(plan)


def test_every_cut_of_a_sidecar_is_noticed(tmp_path: Path) -> None:
    plan = write_plan(tmp_path)
    whole = SIDECAR.to_json().encode()
    for length in range(0, len(whole) - 2, 7):
        sidecar_path(plan).write_bytes(whole[:length])
        with pytest.raises(UserError):
            read_sidecar(plan)


def test_a_plan_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = write_plan(tmp_path)

    def refuse(_path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(EngineUnreadableError, match="Permission denied"):
        read_sidecar(plan)
