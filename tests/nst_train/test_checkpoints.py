"""Checkpoints: round trips, and files that are not what they claim."""

import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from nst_common.atomic_file import CannotWriteError
from nst_train.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from nst_train.errors import CheckpointMismatchError, CheckpointNotFoundError, CheckpointUnreadableError
from nst_train.transform_net import TransformNet, TransformNetConfig
from tests.nst_train.full_disk import files_up_to
from tests.nst_train.test_foreign import fast_neural_style_weights

CONFIG = TransformNetConfig(widths=(4, 6, 8), blocks=2, padding="zero", upsampling="transpose", norm_eps=1e-4)


HOSTILE_NAMES = ("../evil", "/tmp/evil", "a/b", "a\\b", "", ".", "..", ".hidden", "-flag", "a\nb", "a\x1b[31m", None, 7)


@pytest.fixture
def checkpoint() -> Checkpoint:
    torch.manual_seed(3)
    record = {"steps": 12, "losses": [3.0, 2.5], "note": "tiny"}
    return Checkpoint(CONFIG, TransformNet(CONFIG).state_dict(), "tiny", record=record)


def test_a_checkpoint_rebuilds_its_own_net(tmp_path: Path, checkpoint: Checkpoint) -> None:
    save_checkpoint(tmp_path / "any.name", checkpoint)
    loaded = load_checkpoint(tmp_path / "any.name")
    assert (loaded.config, loaded.style, loaded.record) == (CONFIG, "tiny", checkpoint.record)
    image = torch.rand(1, 3, 17, 22) * 255
    assert torch.equal(loaded.build()(image), checkpoint.build()(image))
    assert not loaded.build().training


def test_half_precision_weights_become_a_float_net(tmp_path: Path, checkpoint: Checkpoint) -> None:
    halved = {key: value.half() for key, value in checkpoint.state.items()}
    save_checkpoint(tmp_path / "half.pth", Checkpoint(CONFIG, halved, "tiny"))
    assert all(p.dtype == torch.float32 for p in load_checkpoint(tmp_path / "half.pth").build().parameters())


def test_the_file_is_identified_by_content_not_name(tmp_path: Path, checkpoint: Checkpoint) -> None:
    save_checkpoint(tmp_path / "tiny.npz", checkpoint)
    assert load_checkpoint(tmp_path / "tiny.npz").origin == "nst"


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"none\.pth"):
        load_checkpoint(tmp_path / "none.pth")


class Bomb:
    """Unpickling it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("how", ["torch", "pickle", "npz"])
def test_a_pickle_bomb_is_refused_and_does_not_go_off(tmp_path: Path, how: str) -> None:
    target, path = tmp_path / "exploded", tmp_path / "bomb.pth"
    if how == "torch":
        torch.save({"conv1.conv2d.weight": Bomb(target)}, path)
    elif how == "pickle":
        path.write_bytes(pickle.dumps(Bomb(target)))
    else:
        with path.open("wb") as file:
            np.savez(file, Variable=np.array([Bomb(target)], dtype=object))
    with pytest.raises(CheckpointUnreadableError, match=r"bomb\.pth"):
        load_checkpoint(path)
    assert not target.exists()


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_a_truncated_file(tmp_path: Path, checkpoint: Checkpoint, keep: float) -> None:
    save_checkpoint(tmp_path / "whole.pth", checkpoint)
    whole = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: keep if isinstance(keep, int) else int(len(whole) * keep)])
    with pytest.raises(CheckpointUnreadableError, match=r"cut\.pth"):
        load_checkpoint(tmp_path / "cut.pth")


@pytest.mark.parametrize("content", [b"just text\n" * 50, b"\x89PNG\r\n\x1a\n" + b"\0" * 64])
def test_a_file_of_another_kind(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other.pth").write_bytes(content)
    with pytest.raises(CheckpointUnreadableError, match="expected an nst"):
        load_checkpoint(tmp_path / "other.pth")


@pytest.mark.parametrize("content", [{"features.0.weight": torch.zeros(3)}, [1, 2], {}])
def test_weights_of_no_known_network(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "vgg.pth")
    with pytest.raises(CheckpointUnreadableError):
        load_checkpoint(tmp_path / "vgg.pth")


@pytest.mark.parametrize(
    ("break_it", "named"),
    [
        (lambda c: c["state"].pop("encoder.1.conv.weight"), "encoder.1.conv.weight"),
        (lambda c: c["state"].update({"head.conv.bias": torch.zeros(5)}), "head.conv.bias"),
        (lambda c: c["state"].update({"surplus": torch.zeros(5)}), "surplus"),
        (lambda c: c["state"].update({"head.conv.bias": 3.0}), "head.conv.bias"),
        (lambda c: c["config"].update(padding="mirror"), "padding"),
        (lambda c: c["config"].update(widths=(4, 6)), "widths"),
        (lambda c: c["config"].pop("blocks"), "blocks"),
        (lambda c: c["config"].update(widths=(4, 6, 10**9)), "widths"),
        (lambda c: c["config"].update(widths=5), "has"),
        (lambda c: c["config"].update(blocks=-1), "blocks"),
        (lambda c: c["config"].update(blocks=10**9), "blocks"),
        (lambda c: c["config"].update(norm_eps="small"), "norm_eps"),
        (lambda c: c["config"].update(norm_eps=float("nan")), "norm_eps"),
        (lambda c: c["state"]["head.conv.bias"].fill_(float("nan")), "head.conv.bias"),
        (lambda c: c.pop("record"), "record"),
        (lambda c: c.update(record=None), "record"),
        (lambda c: c["state"].update({3: torch.zeros(1)}), "3"),
        (lambda c: c["state"].update({"head.conv.bias": torch.zeros(3, dtype=torch.complex64)}), "head.conv.bias"),
        (lambda c: c["state"].update({"head.conv.bias": torch.zeros(1).expand(10**12)}), "head.conv.bias"),
        *[(lambda c, name=name: c.update(style=name), "style") for name in HOSTILE_NAMES],
    ],
)
def test_a_damaged_entry_is_named(tmp_path: Path, checkpoint: Checkpoint, break_it: object, named: str) -> None:
    save_checkpoint(tmp_path / "a.pth", checkpoint)
    content = torch.load(tmp_path / "a.pth", weights_only=True)
    break_it(content)
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointMismatchError, match=named.replace(".", r"\.")):
        load_checkpoint(tmp_path / "a.pth")


def test_an_archive_that_unpacks_to_far_too_much_is_not_unpacked(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", Variable=np.zeros(1 << 22, np.float32))  # 16 MiB in 16 kB
    with pytest.raises(CheckpointUnreadableError, match=r"bomb\.npz"):
        load_checkpoint(tmp_path / "bomb.npz")


def test_an_archive_whose_header_claims_far_too_much_is_not_believed(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**11,)})
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("Variable.npy", header.getvalue())
    with pytest.raises(CheckpointUnreadableError, match=r"bomb\.npz"):
        load_checkpoint(tmp_path / "bomb.npz")


def test_a_foreign_files_name_becomes_a_plain_style_name(tmp_path: Path) -> None:
    torch.save(fast_neural_style_weights(), tmp_path / "..my style (1)\n.pth")
    assert load_checkpoint(tmp_path / "..my style (1)\n.pth").style == "my_style__1__"


@pytest.mark.parametrize("content", [{1: torch.zeros(1)}, {"state_dict": {1: torch.zeros(1)}}])
def test_entries_without_names(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises((CheckpointUnreadableError, CheckpointMismatchError)):
        load_checkpoint(tmp_path / "a.pth")


def test_a_built_net_owns_its_weights(checkpoint: Checkpoint) -> None:
    before = checkpoint.state["head.conv.bias"].clone()
    checkpoint.build().head.conv.bias.data.add_(1)
    assert torch.equal(checkpoint.state["head.conv.bias"], before)


def test_a_newer_format_says_so(tmp_path: Path, checkpoint: Checkpoint) -> None:
    save_checkpoint(tmp_path / "a.pth", checkpoint)
    content = torch.load(tmp_path / "a.pth", weights_only=True)
    torch.save({**content, "version": 99}, tmp_path / "a.pth")
    with pytest.raises(CheckpointUnreadableError, match="format version is 99"):
        load_checkpoint(tmp_path / "a.pth")


def test_a_full_disk_leaves_the_older_checkpoint(tmp_path: Path, checkpoint: Checkpoint) -> None:
    path = tmp_path / "a.pth"
    save_checkpoint(path, checkpoint)
    before = path.read_bytes()
    with files_up_to(len(before) // 2), pytest.raises(CannotWriteError, match="File too large"):
        save_checkpoint(path, checkpoint)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]
