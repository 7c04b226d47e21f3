from pathlib import Path

import pytest

from nst_common.outputs import OutputExistsError, OutputIsInputError, refuse_losses


def test_what_exists_is_replaced_only_when_asked_for(tmp_path: Path) -> None:
    one, two, three = (tmp_path / name for name in "abc")
    refuse_losses([one, two], overwrite=False)
    two.touch()
    with pytest.raises(
        OutputExistsError, match=r"b exists already\. Replace it with --overwrite, or .* --out$"
    ) as caught:
        refuse_losses([one, two], overwrite=False)
    assert caught.value.exit_code == 2
    three.symlink_to("nowhere")
    with pytest.raises(OutputExistsError, match=r"b exists already, as do 1 more\."):
        refuse_losses([one, two, three], overwrite=False)
    refuse_losses([one, two, three], overwrite=True)


def test_no_input_is_ever_written_onto(tmp_path: Path) -> None:
    picture, link = tmp_path / "a.png", tmp_path / "link.png"
    picture.touch()
    link.symlink_to(picture)
    refuse_losses([tmp_path / "b.png"], inputs=[picture, None], overwrite=True)
    for output in (picture, link):
        with pytest.raises(OutputIsInputError, match=r"would be written onto itself\. Choose another --out"):
            refuse_losses([output], inputs=[None, picture], overwrite=True)
