import errno
import os
from pathlib import Path

import pytest

from nst_common.atomic_file import CannotWriteError, atomic_write, prepare_folder
from tests.pictures import names_in


def write_half(path: Path, end: BaseException) -> None:
    with atomic_write(path) as partial:
        partial.write_bytes(b"half")
        raise end


def test_the_file_appears_whole_and_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with atomic_write(path) as partial:
        partial.write_bytes(b"12345")
        assert not path.exists()
        assert partial.parent == path.parent  # another file system could not be renamed from
    assert path.read_bytes() == b"12345"
    assert names_in(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError, OSError])
def test_any_end_but_a_good_one_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(CannotWriteError if error is OSError else error):
        write_half(path, error())
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["a.bin"]


@pytest.mark.parametrize(("number", "full"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EACCES, False)])
def test_a_full_disk_is_told_from_other_failures(tmp_path: Path, number: int, full: bool) -> None:
    with pytest.raises(CannotWriteError) as caught:
        write_half(tmp_path / "a.bin", OSError(number, os.strerror(number)))
    assert caught.value.disk_full is full
    assert ("Free some space" in str(caught.value)) is full
    assert str(tmp_path / "a.bin") in str(caught.value)
    assert not names_in(tmp_path)


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWriteError, match="Not a directory"), atomic_write(tmp_path / "file/a.bin") as partial:
        partial.write_bytes(b"1")


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with atomic_write(path) as first, atomic_write(path) as second:
        assert first != second
        first.write_bytes(b"1")
        second.write_bytes(b"2")
    assert path.read_bytes() == b"1"  # the one that ended last


def test_prepare_folder_makes_it_with_its_parents(tmp_path: Path) -> None:
    prepare_folder(tmp_path / "a/b")
    prepare_folder(tmp_path / "a/b")
    assert (tmp_path / "a/b").is_dir()


@pytest.mark.parametrize("below", ["", "/sub"])
def test_prepare_folder_where_a_file_stands(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWriteError, match="Not a directory"):
        prepare_folder(Path(f"{tmp_path}/file{below}"))


def test_prepare_folder_that_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(CannotWriteError, match="Permission denied"):
        prepare_folder(tmp_path)


def test_a_device_or_a_pipe_is_never_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(CannotWriteError, match="a device or a pipe"), atomic_write(pipe) as partial:
        partial.write_bytes(b"12345")
    assert pipe.is_fifo()
    assert names_in(tmp_path) == ["pipe"]
