from pathlib import Path

import pytest
from PIL import Image

from nst_train.errors import TooLargeForFormatError
from nst_train.pictures import save_picture


@pytest.mark.parametrize(("name", "limit"), [("a.webp", 16383), ("a.jpg", 65500)])
def test_a_format_that_cannot_hold_the_picture_is_named(name: str, limit: int, tmp_path: Path) -> None:
    save_picture(tmp_path / name, Image.new("RGB", (limit, 1)))
    with Image.open(tmp_path / name) as largest:
        assert largest.size == (limit, 1)
    with pytest.raises(TooLargeForFormatError, match=rf"{limit + 1}x1 px .* at most {limit} a side\. End it in \.png"):
        save_picture(tmp_path / f"b{name}", Image.new("RGB", (limit + 1, 1)))
    assert not (tmp_path / f"b{name}").exists()
    save_picture(tmp_path / "a.png", Image.new("RGB", (limit + 1, 1)))
