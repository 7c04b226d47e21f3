import os
import sys
from pathlib import Path

import pytest

from nst_deploy.runtime.ov_cache import KEPT, BlobCache, user_cache_folder


def test_a_blob_comes_back(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "new" / "folder")
    path = cache.path(b"model", "f32")
    assert cache.load(path) is None
    cache.store(path, b"blob")
    loaded = cache.load(path)
    assert loaded is not None
    assert loaded.tobytes() == b"blob"
    assert len(list((tmp_path / "new" / "folder").iterdir())) == 1


def test_the_place_depends_on_all_that_a_blob_depends_on(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path)
    inputs = [
        (b"model",),
        (b"modem",),
        (b"model", "f32"),
        (b"model", "bf16"),
        (b"model", "f32", "1"),
        (b"model", "f321"),
    ]
    assert len({cache.path(model, *made_by) for model, *made_by in inputs}) == len(inputs)


def test_the_longest_unused_go(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path)
    paths = [cache.path(bytes([i])) for i in range(KEPT + 2)]
    for age, path in enumerate(paths[:KEPT]):
        cache.store(path, b"blob")
        os.utime(path, (1000 + age,) * 2)
    cache.load(paths[0])  # the oldest, but used just now
    for path in paths[KEPT:]:
        cache.store(path, b"blob")
    assert [path.exists() for path in paths] == [True, False, False, *[True] * (KEPT - 1)]


@pytest.mark.skipif(sys.platform != "linux", reason="each system has its own place")
def test_the_users_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert user_cache_folder() == Path("/somewhere/nst")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert user_cache_folder() == Path("/home/me/.cache/nst")
