import hashlib
import os
import sys
from pathlib import Path

import pytest

from nst_train.training_inputs import find_inputs
from tests.nst_train.tiny_training import tiny_config


def listing_of(pictures: Path) -> str:
    return find_inputs(tiny_config(pictures, pictures / "none.pth")).fingerprints["list of photographs"]


def test_photographs_are_known_by_name_and_size(pictures: Path) -> None:
    (pictures / "content" / "photo_0.png").rename(pictures / "content" / "ä.png")
    files = [path for path in sorted((pictures / "content").rglob("*")) if path.is_file()]
    listing = "\n".join(f"{path.name} {path.stat().st_size}" for path in files)
    assert listing_of(pictures) == hashlib.sha256(listing.encode("utf-8")).hexdigest()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every name is text")
def test_names_that_are_no_text_have_a_fingerprint(pictures: Path) -> None:
    odd = [pictures / "content" / os.fsdecode(name) for name in (b"caf\xe9.png", b"caf\xe8.png")]
    (pictures / "content" / "photo_0.png").rename(odd[0])
    first = listing_of(pictures)
    odd[0].rename(odd[1])
    assert listing_of(pictures) != first
